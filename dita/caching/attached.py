"""What a method on a pipeline and one on a bare transformer have in common."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from dita.caching.adapters import Adapter
from dita.caching.broken import Checks
from dita.caching.origin import Origin
from dita.caching.ownership import transformer_of
from dita.caching.summary import Summary
from dita.footprint import Compiled
from dita.methods import Method
from dita.stores import Store


class Attachment:
    """A method on one target, which it holds weakly. `last` is the summary of the last run, `origin` the method's."""

    def __init__(
        self, method: Method, record: bool, memory_limit: int | None, store: Store | None, checks: Checks
    ) -> None:
        self.method = method
        self.checks = checks
        self.record = record
        self.memory_limit = memory_limit
        self.store = store
        self.last: Summary | None = None
        self.origin = Origin()

    def attach(self) -> None:
        """Accelerates the target from now on. Raises, and changes nothing, where that is not possible."""
        raise NotImplementedError

    def detach(self) -> None:
        """Ends the run that is going on, and lets go of the target."""
        raise NotImplementedError

    def settle(self) -> None:
        """Ends a run whose last step may have further calls, and need not."""


def compiled(outer: nn.Module, adapter: Adapter) -> Compiled:
    """What of a transformer `torch.compile` is on."""
    model = transformer_of(outer)
    if hasattr(outer, "_orig_mod") or model._compiled_call_impl is not None:
        return Compiled.WHOLE
    blocks = (block for _, _, block in adapter.blocks(model))
    return Compiled.BLOCKS if any(block._compiled_call_impl is not None for block in blocks) else Compiled.NOTHING


def named(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `model` by their names."""
    if not args:
        return kwargs
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    return dict(zip(names, args, strict=False)) | kwargs
