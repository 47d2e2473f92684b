"""What the libraries below say of themselves, kept out of a command's output."""

from __future__ import annotations

import os


def silence() -> None:
    """Keeps remarks and loading bars of the libraries below out of the command's output; downloads keep their bars."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
