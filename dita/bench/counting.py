"""What one run really executes: rows of each layer, block by block, and FLOPs, bytes and memory of each operation.

Counted in a run that is not timed: a dispatch mode sees every operation, and slows it down. Layers are told by their
weights, as the operation reads them: a hook on a module would count what another hook puts in its place, too.
"""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

Rows = Mapping[str, int]
"""Kind of layer (`attn`, `cross_attn`, `mlp`) -> rows, that is tokens of all samples, that went through it."""

_COUNTED = (
    ("cross_attn", re.compile(r"(^|\.)attn2\.to_q$")),
    ("attn", re.compile(r"(^|\.)attn1?\.(to_q|to_qkv)$")),
    ("mlp", re.compile(r"(^|\.)(proj_mlp|ff(_context)?\.net\.0\.proj)$")),
)
"""The first linear layer of each kind of module, by its name within a block."""


class _Layer(NamedTuple):
    """A linear layer that is counted: its block, its kind, and how many numbers its weight has."""

    block: int
    kind: str
    numbers: int


@dataclass
class StepCount:
    """What one step of a run executed.

    Attributes:
        blocks: per block, in the order of execution, the rows that its layers computed.
        flops: multiply-adds, counted twice, of the products: linear layers, convolutions, attention.
        bytes: that the operations read and write, each by itself, as if nothing stayed in a processor's cache.
        operations: how often something was computed; views are not counted.
        pairs: (FLOPs, bytes) of each operation.
    """

    blocks: list[Counter[str]]
    flops: float = 0.0
    bytes: float = 0.0
    operations: int = 0
    pairs: list[tuple[float, float]] = field(default_factory=list)

    @property
    def rows(self) -> Rows:
        """Of all blocks together."""
        return sum(self.blocks, Counter[str]())

    @property
    def blocks_run(self) -> int:
        """Blocks of which any layer computed anything."""
        return sum(bool(block) for block in self.blocks)


class Counting(TorchDispatchMode):
    """Counts, while it is active, what the blocks of a model execute. `next_step` begins each step.

    `peak_bytes` is the most memory held at once by tensors that were made meanwhile; what a kernel needs inside itself
    is not seen.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps: list[StepCount] = []
        self.peak_bytes = 0
        self._live = 0
        self._known = WeakIdKeyDictionary(ref_type=weakref.ref)
        self._blocks = len(blocks)
        self._layers: dict[int, _Layer] = {}
        for number, block in enumerate(blocks):
            for name, layer in block.named_modules():
                kind = next((kind for kind, pattern in _COUNTED if pattern.search(name)), None)
                if kind is not None:
                    assert isinstance(layer.weight, Tensor)
                    place = layer.weight.untyped_storage().data_ptr()
                    self._layers[place] = _Layer(number, kind, layer.weight.numel())

    def next_step(self) -> None:
        """What comes belongs to another step."""
        self.steps.append(StepCount([Counter() for _ in range(self._blocks)]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.steps or _only_views(func):
            return out
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if any(one.alias_info is None for one in func._schema.returns):
            self._note_memory(made)
        step = self.steps[-1]
        flops = _flops(func, args, kwargs, out)
        traffic = float(sum(_held(tensor) for tensor in [*given, *made]))
        if flops:
            for tensor in given:
                layer = self._layers.get(tensor.untyped_storage().data_ptr())
                if layer is not None:
                    step.blocks[layer.block][layer.kind] += round(flops / (2 * layer.numbers))
        step.flops += flops
        step.bytes += traffic
        step.operations += 1
        step.pairs.append((flops, traffic))
        return out

    def _note_memory(self, made: list[Tensor]) -> None:
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            size = storage.nbytes()
            self._known[storage] = size
            weakref.finalize(storage, self._freed, size).atexit = False
            self._live += size
        self.peak_bytes = max(self.peak_bytes, self._live)

    def _freed(self, size: int) -> None:
        self._live -= size


def _held(tensor: Tensor) -> int:
    """Bytes that reading or writing a tensor moves: of an expanded one, those that are there."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _only_views(func: Any) -> bool:
    """Whether an operation returns another view of its input, and computes nothing."""
    returns = func._schema.returns
    aliases = [one.alias_info for one in returns]
    return bool(returns) and all(alias is not None and not alias.is_write for alias in aliases)


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    packet = func._overloadpacket
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:  # torch's own table has none for the CPU
        query, key, value = args[:3]
        return float(sdpa_flop_count(query.shape, key.shape, value.shape))
    formula = flop_registry.get(packet)
    return float(formula(*args, **kwargs, out_val=out)) if formula is not None else 0.0
