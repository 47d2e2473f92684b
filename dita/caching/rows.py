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
