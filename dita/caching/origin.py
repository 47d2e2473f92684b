"""What a pipeline is, and its call, as far as a method from a file is made for them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from diffusers import DiffusionPipeline

from dita.caching.adapters import UnsupportedModelError
from dita.caching.ownership import transformer_of
from dita.methods import MadeFor, Method, SavedMethod, warn_of_another
from dita.version import __version__

_DIGITS = 8  # of a digest
_TRANSFORMER = "transformer"


class Origin:
    """What an enabled method was made for, which differences were told of, and what the last call was.

    Attributes:
        called: steps and size of the last call, None before it.
    """

    def __init__(self, made_for: MadeFor | None = None) -> None:
        self.made_for = made_for
        self.called: MadeFor | None = None
        self._told: set[str] = set()

    def compare(self, method: Method, here: MadeFor, stacklevel: int = 2) -> None:
        """Warns, by `MadeForAnotherWarning`, of what was not told of yet."""
        warn_of_another(SavedMethod(method, self.made_for), here, self._told, stacklevel=stacklevel + 1)


def target_facts(target: Any) -> MadeFor:
    """What a pipeline, or a bare transformer, is: everything but the steps and size of a call."""
    model = _transformer(target)
    dtype = getattr(model, "dtype", None)
    device = str(getattr(target, "_execution_device", getattr(model, "device", "")))
    scheduler = getattr(target, "scheduler", None)
    return MadeFor(
        model=model_name(target),
        scheduler=None if scheduler is None else scheduler_name(scheduler),
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        device=device.partition(":")[0] or None,
        dita=__version__,
    )


def call_facts(pipe: DiffusionPipeline, arguments: Mapping[str, Any]) -> MadeFor:
    """Steps and size of a pipeline call with these arguments, as far as they are known before it."""
    spaced = next((arguments[name] for name in ("sigmas", "timesteps") if arguments.get(name) is not None), None)
    steps = arguments.get("num_inference_steps") if spaced is None else len(spaced)
    height, width = arguments.get("height"), arguments.get("width")
    if arguments.get("resolution") is None or height or width:  # else by a table of the pipeline's own
        side = _default_side(pipe)
        height, width = height or side, width or side
    return MadeFor(steps=_count(steps), height=_count(height), width=_count(width))


def warn_where_another(saved: SavedMethod, pipe: Any, arguments: Mapping[str, Any], stacklevel: int = 2) -> None:
    """Warns once, by `MadeForAnotherWarning`, where `pipe`, and a call with these arguments, is not what the method was
    made for.
    """
    if saved.made_for is None:
        return
    parameters = inspect.signature(pipe.__call__).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    here = with_call(target_facts(pipe), call_facts(pipe, {**defaults, **arguments}))
    warn_of_another(saved, here, stacklevel=stacklevel + 1)


def model_name(target: Any) -> str | None:
    """What `target` was loaded as: a hub id or the path of a folder; None for what was made in memory.

    A transformer is named as the pipeline whose folder it lies in.
    """
    config = getattr(target if isinstance(target, DiffusionPipeline) else _transformer(target), "config", {})
    name = config.get("_name_or_path")
    if not isinstance(name, (str, os.PathLike)) or not name:
        return None
    path = PurePath(name)
    if not isinstance(target, DiffusionPipeline) and path.name == _TRANSFORMER:
        path = path.parent
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):  # in the hub's cache
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return str(path)


def scheduler_name(scheduler: Any) -> str:
    """A scheduler's class, and a digest of its settings that differ from the defaults of the class.

    Settings that a newer diffusers adds, or an older one has not, leave it as it was.
    """
    defaults = {name: one.default for name, one in inspect.signature(type(scheduler).__init__).parameters.items()}
    config = dict(getattr(scheduler, "config", {}))
    set_here = {name: _plain(value) for name, value in config.items() if name in defaults}
    changed = {name: value for name, value in set_here.items() if value != _plain(defaults[name])}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    return f"{type(scheduler).__name__}:{digest}"


def with_call(here: MadeFor, called: MadeFor | None) -> MadeFor:
    """What a pipeline is, and what its call was."""
    return here if called is None else replace(here, steps=called.steps, height=called.height, width=called.width)


def _plain(value: Any) -> Any:
    """A setting as it is in every form in which diffusers keeps it: lists as text, whole floats as ints."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(_listed(value))


def _listed(value: Any) -> Any:
    if callable(getattr(value, "tolist", None)):
        value = value.tolist()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _default_side(pipe: DiffusionPipeline) -> int | None:
    """Pixels a side where the call says nothing; None where the pipeline goes by something else."""
    components = getattr(pipe, "components", {})
    own = getattr(_transformer(pipe), "config", None)
    vae, cells = components.get("vae"), getattr(pipe, "default_sample_size", None) or getattr(own, "sample_size", None)
    channels = getattr(getattr(vae, "config", None), "block_out_channels", None)
    return cells * 2 ** (len(channels) - 1) if isinstance(cells, int) and channels else None


def _transformer(target: Any) -> Any:
    """As `transformer_of`; None for a pipeline without one, which plain and fewer steps run on."""
    try:
        return transformer_of(target)
    except UnsupportedModelError:
        return None


def _count(value: Any) -> int | None:
    """A number of steps or pixels; None for what is none, which is the pipeline's to refuse."""
    whole = isinstance(value, int) or getattr(value, "shape", None) == ()
    return int(value) if whole and not isinstance(value, bool) and value == int(value) and value >= 1 else None
