"""What the libraries below say of themselves, kept out of a command's output."""

from __future__ import annotations

import logging
import os
import sys

_CHATTY = ("bitsandbytes", "torchao", "torch.utils._pytree")
"""Loggers that remark, as they are imported, on kernels that a picture does not need."""

_WAY = ("dita.cli.errors", "warnings", "_py_warnings")
"""Modules between who gives a warning and `concerns_the_user`."""


def hush() -> None:
    """Asks the libraries, before they are imported, to tell of errors only; what the user has set stays."""
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):  # read as they are imported
        os.environ.setdefault(name, "error")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def silence() -> None:
    """Keeps remarks and loading bars of the libraries below out of the command's output; downloads keep their bars."""
    hush()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def concerns_the_user(message: str, category: type[Warning]) -> bool:
    """Whether a warning is dita's: of its own category, or a `UserWarning` that its own code has given.

    Called from `warnings.showwarning`, whose callers lead to who gave the warning: `stacklevel` does not.
    """
    if category.__module__.partition(".")[0] == "dita":
        return True
    if not issubclass(category, UserWarning) or "Triggered internally at" in message:  # torch's C++ says so
        return False
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (*_WAY, __name__):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "dita"
