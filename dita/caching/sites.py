"""What runs at a site: keeping the output of a full step, and computing the chosen rows of a cached one.

The same code serves every family: an adapter says which module is a site, and how its rows are prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dita.caching.class_swap import Forward
from dita.caching.few_rows import FewRows
from dita.caching.keeping import Kept, near, rows_of, tensor_of, write_rows
from dita.caching.rows import is_recorded, scatter_rows, with_rows
from dita.caching.scores import mean_length
from dita.caching.state import Slot
from dita.shapes import Kind


def keeping_forward(stock: Forward) -> Forward:
    """The stock forward, on merged tokens where asked to, whose output is stored where a later step needs it.

    The module carries a `Slot`; its first argument is the tokens, which it works on apart from each other.
    """

    def forward(self: Any, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
        slot: Slot = self._dita
        if slot.merger is not None:
            out = slot.merger.unmerge(stock(self, slot.merger.merge(tokens), *args, **kwargs))
        else:
            out = stock(self, tokens, *args, **kwargs)
        if slot.keep:
            slot.put(out)
        return out

    return forward


def query_norm_forward(stock: Forward) -> Forward:
    """The stock query norm, whose output a probe collects. The module carries (probe, stream)."""

    def forward(self: Any, x: Tensor) -> Tensor:
        out = stock(self, x)
        probe, stream = self._dita
        if probe.score is not None:
            probe.query[stream] = out
        return out

    return forward


def key_norm_forward(stock: Forward) -> Forward:
    """The stock key norm, whose output, and the length of whose input, a probe collects."""

    def forward(self: Any, x: Tensor) -> Tensor:
        out = stock(self, x)
        probe, stream = self._dita
        if probe.score == "k-norm":
            probe.key_norms[stream] = mean_length(x)
        elif probe.score is not None:
            probe.key[stream] = out
        return out

    return forward


def modulated(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """normed (1 + scale) + shift, to the bit as the blocks' own forwards have it; a fused product would round otherwise
    for another batch."""
    return (normed * (1 + scale)).add_(shift)


def site_output(slot: Slot, tokens: Tensor, compute: Callable[[Tensor | None, Tensor], Tensor]) -> Tensor:
    """The output of a site in a block that is cached, for all tokens, (B, N, C), before the gate.

    tokens: (B, N, C), the residual stream in front of the site's norm. A partial step computes
    `compute(rows, chosen tokens)` on the chosen rows alone and writes them into the store, or into the forecast that
    stands for it in this step. A site that computes all tokens, beside others that are cached, has no rows: None.
    """
    if slot.kind is Kind.FULL or slot.attention_alone:
        return compute(None, tokens)
    assert slot.out is not None and not isinstance(slot.out, tuple)
    kept = near(slot.out)
    stored = slot.forecast(tensor_of(kept))
    if slot.kind is Kind.PARTIAL:
        if slot.live is not None:
            slot.rows = slot.live.rows(slot.count(), tokens, stored)
        assert slot.rows is not None
        if slot.ragged and len(slot.rows) == 0:
            return stored
        chosen = slot.chosen(tokens, slot.rows)
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            with FewRows():
                computed = compute(slot.rows, chosen)
        else:
            computed = compute(slot.rows, chosen)
        if is_recorded(stored, computed):
            return _recorded_rows(slot, kept, stored, slot.rows, computed)
        if slot.weights:  # forecasts of these rows to come go on from what is computed
            missed = computed - slot.chosen(stored, slot.rows)
            write_rows(kept, slot.rows, tensor_of(rows_of(kept, slot.rows, slot.ragged)) + missed)
        elif stored is not kept:
            write_rows(kept, slot.rows, computed)
        scatter_rows(stored, slot.rows, computed)
        if slot.keeper.offloads and slot.needed:
            slot.out = slot.keeper.stow(kept)
    return stored


def _recorded_rows(slot: Slot, kept: Kept, stored: Tensor, rows: Tensor, computed: Tensor) -> Tensor:
    """What a partial step does with the rows that it has `computed`, where gradients flow: nothing is written into."""
    whole = tensor_of(kept)
    if slot.weights:
        missed = computed - slot.chosen(stored, rows)
        slot.out = slot.keeper.keep(with_rows(whole, rows, slot.chosen(whole, rows) + missed))
        return with_rows(stored, rows, computed)
    out = with_rows(stored, rows, computed)
    slot.out = slot.keeper.keep(out)
    return out
