"""Some tokens of a call's samples, numbered over all of them: taken out, and written back."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(x: Tensor, rows: Tensor, ragged: bool = False) -> Tensor:
    """The rows `rows` (B * k) of `x` (B, N, C) as (B, k, C), or (K) as (1, K, C) where they are `ragged`."""
    batch, _, width = x.shape
    chosen = x.reshape(-1, width).index_select(0, rows)
    return chosen[None] if ragged else chosen.view(batch, -1, width)


def scatter_rows(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """Writes `values` (B, k, C) into the rows `rows` (B * k) of `out` (B, N, C), in place."""
    out.view(-1, out.shape[-1]).index_copy_(0, rows, values.reshape(-1, out.shape[-1]).to(out.dtype))


def row_numbers(index: Tensor, batch: int, tokens: int) -> Tensor:
    """Token numbers (b, k) as rows of the flattened (B * N), where the `batch` B is `b` samples, repeated."""
    if batch == 1:
        return index[0]
    offsets = torch.arange(batch, device=index.device)[:, None] * tokens
    return (index.repeat(batch // index.shape[0], 1) + offsets).reshape(-1)


def with_rows(out: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """A copy of `out` (B, N, C) with `values` (B, k, C) in its rows `rows` (B * k)."""
    width = out.shape[-1]
    return out.reshape(-1, width).index_copy(0, rows, values.reshape(-1, width).to(out.dtype)).view(out.shape)


def is_recorded(*tensors: Tensor) -> bool:
    """Whether gradients flow through any of `tensors`: then nothing may be written into them."""
    return any(tensor.requires_grad for tensor in tensors)


def plus(x: Tensor, out: Tensor) -> Tensor:
    """x + out, in the place of `x` unless gradients are recorded."""
    return x + out if torch.is_grad_enabled() else x.add_(out)


def plus_gated(x: Tensor, gate: Tensor, out: Tensor) -> Tensor:
    """x + gate * out, in the place of `x` unless gradients are recorded."""
    return torch.addcmul(x, gate, out) if torch.is_grad_enabled() else x.addcmul_(gate, out)
