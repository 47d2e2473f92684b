"""Blocks that are compiled one by one: between two of them there is no graph, and memory can be freed.

A graph hands out what it stores when it has run, and cannot free what others have stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from dita.caching.state import BlockState


class AroundCall:
    """Stands in front of the compiled call of one block, for the runs that use it, until each has called `remove`."""

    def __init__(self, block: nn.Module, call: Callable[..., Any]) -> None:
        self.block = block
        self.call = call
        self.runs = 1
        block.__dict__["_compiled_call_impl"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state: BlockState | None = self.block.__dict__.get("_dita")
        if state is None:  # dita was disabled meanwhile
            return self.call(*args, **kwargs)
        state.settle_before()
        entered = state.entered
        out = self.call(*args, **kwargs)
        state.entered = entered + (state.spans is None or not state.spans.skipped)
        for slot in state.slots.values():
            slot.settle()
        return out

    def remove(self) -> None:
        """Puts the compiled call back after the last run, unless the block was compiled again meanwhile."""
        self.runs -= 1
        if not self.runs and self.block.__dict__.get("_compiled_call_impl") is self:
            self.block.__dict__["_compiled_call_impl"] = self.call


def around_calls(blocks: Iterable[nn.Module]) -> list[AroundCall]:
    """One around the call of each block that is compiled: that of another run, where one is going on."""
    return [_around(block, call) for block in blocks if (call := block._compiled_call_impl) is not None]


def _around(block: nn.Module, call: Any) -> AroundCall:
    if isinstance(call, AroundCall):
        call.runs += 1
        return call
    return AroundCall(block, call)
