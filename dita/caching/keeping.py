"""The forms in which the store keeps a tensor: as it was computed, in fewer bits, or in the host's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dita.caching.offload import to_device, to_host
from dita.caching.rows import gather_rows, is_recorded, scatter_rows
from dita.stores import Store

FLOAT8_LARGEST = 448.0  # of float8_e4m3fn


class Packed:
    """A tensor (..., C) in another precision, or on another device, than it is used in.

    Attributes:
        values: its numbers, in the store's dtype; in float8 divided by the scale.
        scale: in float8, the factor of each token, (..., 1) in float32.
        dtype: of the tensor itself.
        away: the device that the tensor is used on, where `values` lie on another one.
    """

    def __init__(self, values: Tensor, scale: Tensor | None, dtype: torch.dtype, away: torch.device | None) -> None:
        self.values = values
        self.scale = scale
        self.dtype = dtype
        self.away = away

    def tensors(self) -> Iterator[Tensor]:
        """What it is made of."""
        yield self.values
        if self.scale is not None:
            yield self.scale


Kept = Tensor | Packed
"""A tensor as it was computed, or in another form."""


class Keeper:
    """Brings tensors into the form that a `Store` says.

    Where gradients are recorded these hold the tensors anyway: they stay where they are, with the numbers that the
    store's precision would leave, and gradients pass as if nothing had been rounded.

    Attributes:
        dtype: to keep numbers in; None for the tensor's own.
        offloads: whether tensors go to the host's memory.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.dtype: torch.dtype | None = getattr(torch, store.dtype) if store and store.dtype else None
        self.offloads = store is not None and store.device is not None

    def keep(self, x: Tensor) -> Kept:
        """`x` as the store keeps it: `x` itself by default."""
        return self.stow(self.pack(x))

    def pack(self, x: Tensor) -> Kept:
        """`x` in the store's precision, on its own device."""
        if self.dtype is None or self.dtype == x.dtype:
            return x
        values, scale = packed(x.detach(), self.dtype)
        kept = Packed(values, scale, x.dtype, None)
        return tensor_of(kept) + (x - x.detach()) if is_recorded(x) else kept

    def stow(self, kept: Kept) -> Kept:
        """What was packed, where the store is."""
        if not self.offloads or (isinstance(kept, Tensor) and is_recorded(kept)):
            return kept
        if isinstance(kept, Tensor):
            return Packed(to_host(kept), None, kept.dtype, kept.device)
        values = to_host(kept.values)
        scale = None if kept.scale is None else to_host(kept.scale)
        return Packed(values, scale, kept.dtype, kept.values.device)


def packed(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The numbers of `x` (..., C) in `dtype`, and what to multiply each token with: (..., 1), None for 1."""
    if dtype == torch.float8_e4m3fn:
        numbers = x.float()
        scale = numbers.abs().amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny) / FLOAT8_LARGEST
        return (numbers / scale).to(dtype), scale
    if dtype == torch.float16:  # numbers of bfloat16 can be larger
        largest = torch.finfo(dtype).max
        return x.to(dtype).clamp_(-largest, largest), None
    return x.to(dtype), None


def near(kept: Kept) -> Kept:
    """`kept` on the device that it is used on."""
    if isinstance(kept, Tensor) or kept.away is None:
        return kept
    values = to_device(kept.values, kept.away)
    scale = None if kept.scale is None else to_device(kept.scale, kept.away)
    return values if values.dtype == kept.dtype else Packed(values, scale, kept.dtype, None)


def tensor_of(kept: Kept) -> Tensor:
    """The tensor, on the device that it is used on. One that is kept as it is comes out itself, not a copy."""
    kept = near(kept)
    if isinstance(kept, Tensor):
        return kept
    if kept.scale is None:
        return kept.values.to(kept.dtype)
    return (kept.values.float() * kept.scale).to(kept.dtype)


def rows_of(kept: Kept, rows: Tensor, ragged: bool = False) -> Kept:
    """The rows `rows` (B * k) of a (B, N, C) that is near, as (B, k, C), or (K) as (1, K, C) where `ragged`."""
    if isinstance(kept, Tensor):
        return _rows(kept, rows, ragged)
    scale = None if kept.scale is None else _rows(kept.scale, rows, ragged)
    return Packed(_rows(kept.values, rows, ragged), scale, kept.dtype, None)


def write_rows(kept: Kept, rows: Tensor, values: Tensor) -> None:
    """Writes `values` (B, k, C) into the rows `rows` (B * k) of a (B, N, C) that is near, in place."""
    if isinstance(kept, Tensor):
        _write(kept, rows, values.to(kept.dtype))
        return
    numbers, scale = packed(values, kept.values.dtype)
    _write(kept.values, rows, numbers)
    if kept.scale is not None and scale is not None:
        _write(kept.scale, rows, scale)


def parts(kept: Kept) -> Iterator[Tensor]:
    """The tensors that `kept` holds in memory."""
    if isinstance(kept, Tensor):
        yield kept
    else:
        yield from kept.tensors()


def with_each(kept: Kept, change: Callable[[Tensor], Tensor]) -> Kept:
    """`kept`, made of `change` of each tensor that it holds in memory."""
    if isinstance(kept, Tensor):
        return change(kept)
    scale = None if kept.scale is None else change(kept.scale)
    return Packed(change(kept.values), scale, kept.dtype, kept.away)


def _rows(x: Tensor, rows: Tensor, ragged: bool) -> Tensor:
    found = gather_rows(_as_bytes(x), rows, ragged)
    return found if found.dtype == x.dtype else found.view(x.dtype)  # no gradient passes a view as another dtype


def _write(out: Tensor, rows: Tensor, values: Tensor) -> None:
    scatter_rows(_as_bytes(out), rows, _as_bytes(values))


def _as_bytes(x: Tensor) -> Tensor:
    """float8 as the bytes that it is: few operations know it."""
    return x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x
