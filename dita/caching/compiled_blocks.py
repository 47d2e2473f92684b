"""Blocks that are compiled one by one: between two of them there is no graph, and memory can be freed.

A graph hands out what it stores when it has run, and cannot free what others have stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from dita.caching.state import BlockState


class AroundCall:
    """Stands in front of the compiled call of one block, until `remove`."""

    def __init__(self, block: nn.Module, call: Callable[..., Any]) -> None:
        self.block = block
        self.call = call
        block.__dict__["_compiled_call_impl"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        state: BlockState = self.block.__dict__["_dita"]
        state.settle_before()
        out = self.call(*args, **kwargs)
        for slot in state.slots.values():
            slot.settle()
        return out

    def remove(self) -> None:
        """Puts the compiled call back, unless the block was compiled again meanwhile."""
        if self.block.__dict__.get("_compiled_call_impl") is self:
            self.block.__dict__["_compiled_call_impl"] = self.call


def around_calls(blocks: Iterable[nn.Module]) -> list[AroundCall]:
    """One around the call of each block that is compiled."""
    compiled = ((block, block._compiled_call_impl) for block in blocks)
    return [AroundCall(block, call) for block, call in compiled if call is not None]
