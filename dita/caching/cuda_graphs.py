"""CUDA graphs (`torch.compile(mode="reduce-overhead")`): what is stored outlives the memory that a graph writes into.

A graph's outputs lie in memory that its next replay writes over. What a step stores is used by later ones, so it is
copied out, once, after the call that made it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


def may_own_outputs(device: torch.device, compiled: bool) -> bool:
    """Whether what a transformer puts out may lie in a graph's memory."""
    return compiled and device.type == "cuda"


class Rescue:
    """Moves tensors out of the memory of graphs. One for each sampling run."""

    def __init__(self) -> None:
        self._ours = WeakIdKeyDictionary(ref_type=weakref.ref)  # storages that were copied already

    @staticmethod
    def begin_step() -> None:
        """Before the first call of a step: what graphs put out before may be written over from now on."""
        torch.compiler.cudagraph_mark_step_begin()

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Gives each tensor memory of its own, in place, unless it has it already."""
        for tensor in tensors:
            if tensor.untyped_storage() not in self._ours:
                tensor.data = tensor.clone()
                self._ours[tensor.untyped_storage()] = True
