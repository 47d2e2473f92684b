"""Samples of a batch computed as if each were alone, so that no bit of a picture depends on what it was batched with.

Libraries choose another kernel, with another order of additions, for another number of rows: on a CPU the products of
single rows (modulation, time and pooled embeddings), convolutions, and the last few numbers of a vectorised function
come out differently in batches of 1, 2 and 4. The rest of a transformer works on each sample by itself anyway.
Here the modules concerned take the rows of a batch one after another, so that every product has the same sizes
whatever the batch: same sizes, same kernel, same bits. Where the batch as a whole has the same bits, it is taken as a
whole: a product of sizes for which a probe with random numbers agrees in every bit, and a function of single numbers
where none falls out of the vectorised loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models import activations
from torch import Tensor, nn

from dita.caching.class_swap import Forward, MakeForward, restore, swap

ELEMENTWISE: tuple[type[nn.Module], ...] = (nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh)
"""Functions of single numbers, and those of `transformers.activations`."""

OTHERS: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    activations.GEGLU,
    activations.SwiGLU,
    activations.ApproximateGELU,
)
"""Further modules whose results depend, in their last bits, on how many rows they are given at once."""

VECTOR = 64
"""Numbers: a multiple of what a vectorised loop of ATen takes at a time, on any processor and in any dtype."""

GRAIN = 32768
"""Numbers: the least share of a thread in ATen's loops (`at::internal::GRAIN_SIZE`)."""


@contextmanager
def samples_alone(pipe: Any) -> Iterator[None]:
    """Within it, the networks of `pipe` compute each sample as if it were alone, at the cost of smaller products.

    Halves of a guided call are samples of their own. Modules are swapped by instance, beneath hooks, and put back.
    """
    swapped: list[nn.Module] = []
    try:
        for component in pipe.components.values():
            if not isinstance(component, nn.Module):
                continue
            for module in component.modules():
                make_forward = _forward_for(module)
                if make_forward is not None and not hasattr(type(module), "_dita_base"):
                    swap(module, make_forward)
                    swapped.append(module)
        yield
    finally:
        for module in swapped:
            restore(module)


def _forward_for(module: nn.Module) -> MakeForward | None:
    """What replaces the forward of a module whose results depend on the batch; None for the others."""
    if isinstance(module, nn.Linear):
        # A subclass, such as a quantised one, multiplies in its own way.
        return _products if type(module).forward is nn.Linear.forward else _row_by_row
    if isinstance(module, activations.GELU):
        return _gelu_of_projection
    if isinstance(module, ELEMENTWISE) or type(module).__module__ == "transformers.activations":
        return _whole_where_even
    return _row_by_row if isinstance(module, OTHERS) else None


def _row_by_row(stock: Forward) -> Forward:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.shape[0] == 1:
            return stock(self, x, *args, **kwargs)
        return torch.cat([stock(self, row, *args, **kwargs) for row in x.split(1)])

    return forward


def _products(stock: Forward) -> Forward:
    """Of `nn.Linear`: what the stock forward computes for each row, without a copy of the results."""

    def forward(self: Any, input: Tensor) -> Tensor:
        rows = len(input)
        if rows == 1:
            return stock(self, input)
        if input.ndim < 2 or not input[0].is_contiguous() or not _may_write(input, self.weight):
            return torch.cat([stock(self, row) for row in input.split(1)])
        if input.is_contiguous() and _agree(input, self.weight, self.bias is not None):
            return stock(self, input)
        x = input.unsqueeze(1) if input.ndim == 2 else input.flatten(1, -2)  # (B, M, C)
        out = x.new_empty(rows, x.shape[1], self.out_features)
        weight, bias = self.weight.t(), self.bias
        for row, place in zip(x.unbind(), out.unbind(), strict=True):
            if bias is None:
                torch.mm(row, weight, out=place)
            else:
                torch.addmm(bias, row, weight, out=place)
        return out.view(*input.shape[:-1], self.out_features)

    return forward


def _gelu_of_projection(stock: Forward) -> Forward:
    """Of diffusers' `GELU`, a linear layer and the function: the layer minds its rows, the function is elementwise."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.shape[0] == 1:
            return stock(self, hidden_states)
        projected = self.proj(hidden_states)
        if _is_even(projected):
            return self.gelu(projected)
        return torch.cat([self.gelu(row) for row in projected.split(1)])

    return forward


def _whole_where_even(stock: Forward) -> Forward:
    def forward(self: Any, input: Tensor) -> Tensor:
        if input.shape[0] == 1 or _is_even(input):
            return stock(self, input)
        return torch.cat([stock(self, row) for row in input.split(1)])

    return forward


def _may_write(x: Tensor, weight: Tensor) -> bool:
    """Whether products may be written into a given tensor.

    Not while gradients or graphs are recorded, nor under autocast, nor with weights of a kind of their own (torchao's).
    """
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return not (recorded or torch.is_autocast_enabled(x.device.type)) and type(weight) is nn.Parameter


_AGREEMENTS: dict[tuple[Any, ...], bool] = {}


def _agree(x: Tensor, weight: Tensor, bias: bool) -> bool:
    """Whether a product of these sizes has, for the batch as a whole, the bits that it has row by row.

    Asked once for each size, of random numbers. The order of additions does not depend on the numbers; another order
    would show in some of the thousands of results.
    """
    key = (x.shape, weight.shape, bias, x.dtype, x.device, torch.get_num_threads())
    known = _AGREEMENTS.get(key)
    if known is None:
        generator = torch.Generator().manual_seed(0)
        sizes = (x.shape, weight.shape, weight.shape[:1])
        numbers, factors, added = (torch.randn(size, generator=generator).to(x.device, x.dtype) for size in sizes)
        whole = F.linear(numbers, factors, added if bias else None)
        rows = [F.linear(row, factors, added if bias else None) for row in numbers.split(1)]
        known = _AGREEMENTS[key] = torch.equal(whole, torch.cat(rows))
    return known


def _is_even(x: Tensor) -> bool:
    """Whether the loops over `x`, and over each sample of it alone, all end where a vector ends.

    Then every number goes through the vectorised function. What is left over at an end goes through another one, whose
    last bit may differ.
    """
    if x.device.type != "cpu" or not x.is_contiguous():
        return False
    threads = torch.get_num_threads()
    for count in (x.numel(), x.numel() // x.shape[0]):
        chunk = -(-count // max(min(threads, -(-count // GRAIN)), 1))
        if count % VECTOR or chunk % VECTOR:
            return False
    return True
