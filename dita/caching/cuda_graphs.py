"""CUDA graphs (`torch.compile(mode="reduce-overhead")`): what is stored outlives the memory that a graph writes into.

A graph's outputs lie in memory that its next replay writes over. What a step stores is used by later ones, so it is
copied out, once, after the call that made it.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


def may_own_outputs(device: torch.device, compiled: bool) -> bool:
    """Whether what a transformer puts out may lie in a graph's memory."""
    return compiled and device.type == "cuda"


class Rescue:
    """Copies tensors out of the memory of graphs. One for each sampling run.

    A graph returns the same tensor objects from replay to replay: what is kept of one is another tensor, and its own is
    left as it is.
    """

    def __init__(self) -> None:
        self._ours = WeakIdKeyDictionary(ref_type=weakref.ref)  # storages that tensors were copied to

    @staticmethod
    def begin_step() -> None:
        """Before the first call of a step: what graphs put out before may be written over from now on."""
        torch.compiler.cudagraph_mark_step_begin()

    def moved(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` in memory of its own; `tensor` itself where it has that already."""
        if tensor.untyped_storage() in self._ours:
            return tensor
        copy = tensor.clone()
        self._ours[copy.untyped_storage()] = True
        return copy
