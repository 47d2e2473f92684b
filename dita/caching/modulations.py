"""Shifts, scales and gates of cached steps: where timesteps are known ahead, those of all steps in one product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dita.caching.linear_parts import by_parts, is_stock

Chunks = tuple[tuple[int, int], ...]
"""Which chunks of a modulation are wanted: numbers, from and below."""

TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""How far, relative to its length, what a step is conditioned on may be from what was foreseen; else `EXACT`."""

EXACT = 1e-3


class _Table(NamedTuple):
    """The chunks of one modulation in all steps, (S B, 1, C) each, and the same by step; `weights`: what tells them."""

    weights: tuple[Any, ...]
    every: tuple[Tensor, ...]
    rows: list[tuple[Tensor, ...]]


class Modulations:
    """The modulations of one call's blocks in cached steps.

    A modulation is a product of one row with a large matrix: reading the matrix is what it costs, a twentieth of a
    cached step of a small FLUX. What the blocks are conditioned on, timestep and pooled text, is known for all steps to
    come where the sampler's timesteps are. Then the first cached step multiplies all of it, and the others look up.

    Only on a CPU is it seen, without waiting for the device, whether a step is conditioned on what was foreseen, so
    this is done there. A step that is not, such as after a callback has changed the prompt, computes its own, and so do
    all that follow it. So does every layer that is more than its weights: the scale of a LoRA may be another in each
    step.

    Args:
        steps: the numbers of the cached steps; none where nothing is to be foreseen.
    """

    def __init__(self, steps: Sequence[int] = ()) -> None:
        self._row = {step: row for row, step in enumerate(steps)}
        self._now: int | None = None
        self._foreseen: Tensor | None = None  # (S, B, C)
        self._seen: Tensor | None = None  # of this step, and found to be as foreseen
        self._tables: dict[tuple[nn.Module, Chunks], _Table] = {}

    def begin(self, step: int, foresee: Callable[[], Tensor | None]) -> None:
        """Before a call of step number `step`. foresee: what the blocks will be conditioned on in the steps, (S, B, C),
        None where that cannot be known; asked once."""
        self._now, self._seen = self._row.get(step), None
        if self._now is not None and self._foreseen is None:
            self._foreseen = foresee()
            if self._foreseen is None:
                self.forget()

    def of(self, linear: nn.Module, activation: nn.Module, temb: Tensor, wanted: Chunks, of: int) -> tuple[Tensor, ...]:
        """Those of `of` equal chunks of `linear(activation(temb))` that are `wanted`: each (B, 1, C) of temb (B, C)."""
        ahead = not torch.compiler.is_compiling() and self._now is not None and is_stock(linear)
        # gradients reach what a step is conditioned on through its own product alone
        if not ahead or torch.is_grad_enabled() or not self._is_foreseen(temb):
            return chunks(linear, activation(temb)[:, None], wanted, of)
        table = self._tables.get((linear, wanted))
        weights = _weights(linear)
        if table is None or table.weights != weights:
            assert self._foreseen is not None and self._now is not None
            every = chunks(linear, activation(self._foreseen.flatten(0, 1))[:, None], wanted, of)
            table = _Table(weights, every, list(zip(*(one.split(len(temb)) for one in every), strict=True)))
            self._tables[linear, wanted] = table
        assert self._now is not None
        return table.rows[self._now]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that it holds in memory."""
        if self._foreseen is not None:
            yield self._foreseen
        for table in self._tables.values():
            yield from table.every

    def forget(self) -> None:
        """Frees everything; steps to come compute their own."""
        self._row, self._now, self._foreseen, self._seen = {}, None, None, None
        self._tables.clear()

    def _is_foreseen(self, temb: Tensor) -> bool:
        if self._seen is temb:
            return True
        assert self._foreseen is not None and self._now is not None
        expected = self._foreseen[self._now]
        if expected.shape == temb.shape and expected.dtype == temb.dtype:
            tolerance = TOLERANCE.get(temb.dtype, EXACT)
            if bool((temb - expected).float().norm() <= tolerance * expected.float().norm()):
                self._seen = temb
                return True
        self.forget()
        return False


SAMPLED = 64
"""Numbers of a weight that are looked at: writing through `.data`, as adapters are fused, counts no version."""


def _weights(linear: Any) -> tuple[Any, ...]:
    """What is another where weights were written into, or replaced; tensors of inference mode count no versions."""
    told: list[Any] = []
    for tensor in (linear.weight, linear.bias):
        if tensor is not None:
            numbers = tensor.detach().view(-1)
            version = None if tensor.is_inference() else tensor._version
            told += [id(tensor), tensor.data_ptr(), version, numbers[:: -(-len(numbers) // SAMPLED)].tolist()]
    return tuple(map(str, told))


COMPUTED = Modulations()
"""Of blocks that foresee nothing."""


def chunks(linear: Any, x: Tensor, wanted: Chunks, of: int) -> tuple[Tensor, ...]:
    """Those of `of` equal chunks of `linear(x)`, x (B, 1, C), that are `wanted`, by only that part of its weights.

    A module that is more than a stock linear layer (LoRA, quantised, hooked for offload) is called whole.
    """
    if not is_stock(linear):
        every = linear(x).chunk(of, dim=-1)
        return tuple(chunk for start, stop in wanted for chunk in every[start:stop])
    one = linear.out_features // of
    found: list[Tensor] = []
    for start, stop in wanted:
        rows, parts = slice(start * one, stop * one), stop - start
        weight, bias = linear.weight[rows], None if linear.bias is None else linear.bias[rows]
        if weight.device.type == "cpu":  # of one row, several products are spread over the cores, and one is not
            found += by_parts(x[:, 0], weight, bias, parts).unsqueeze(2).unbind()
        else:
            found += nn.functional.linear(x, weight, bias).chunk(parts, dim=-1)
    return tuple(found)
