"""Position tables of STDiT3: 2D sines and cosines over the patches of a frame, rotary angles over the frames.

Both are functions with an explicit dtype, not buffers: Open-Sora 1.2 was trained and is sampled with tables that are
rounded to bfloat16 at certain places, and a buffer that `from_pretrained` leaves in float32 would silently differ.
"""

from __future__ import annotations

import math

import torch

PERIOD = 10000.0


def patch_positions(
    grid: tuple[int, int],
    height: float,
    width: float,
    dim: int,
    *,
    base_size: int = 512,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The position of every patch of a frame, row by row: `(1, rows * columns, dim)` in `dtype`.

    `grid` is (rows, columns) in patches, `height` x `width` the nominal size in pixels. The first half of the channels
    encodes the column, the second half the row, each as [sin, cos]. Coordinates are scaled so that a frame of any size
    covers about the range that a square of `base_size` pixels covers. The pixel sizes and the frequencies are rounded
    to `dtype`, as the official model's are; coordinates are float32, angles float32 or the wider `dtype`.
    """
    rows, columns = grid
    height, width = (torch.tensor(float(side)).to(dtype).item() for side in (height, width))
    scale = math.sqrt(height * width) / base_size
    side = round(math.sqrt(rows * columns))

    half = dim // 2
    exact = torch.promote_types(dtype, torch.float32)
    frequencies = 1 / PERIOD ** (torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    frequencies = frequencies.to(dtype).to(exact)

    def axis(count: int) -> torch.Tensor:  # (count, half)
        coordinates = torch.arange(count, dtype=torch.float32, device=device) / scale * (side / count)
        angles = coordinates[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    by_column = axis(columns)[None].expand(rows, -1, -1)
    by_row = axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([by_column, by_row], dim=-1).reshape(1, rows * columns, dim).to(dtype)


def rotary_frequencies(head_dim: int, device: torch.device | str | None = None) -> torch.Tensor:
    """The `head_dim / 2` rotary frequencies in float32, the value of `rope.freqs` in official checkpoints."""
    return 1 / PERIOD ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


def frame_rotary(
    frames: int, head_dim: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `(frames, head_dim)` for `rotate`; frequencies, angles and results are in `dtype`."""
    frequencies = rotary_frequencies(head_dim, device).to(dtype)
    angles = torch.arange(frames, device=device).to(dtype)[:, None] * frequencies
    angles = angles.repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Queries or keys `(B, T, heads, head_dim)` turned by the angles of their frames; neighbours form the pairs.

    The angles are those of all sequences, `(T, head_dim)`, or of each, `(B, T, head_dim)`.

    The arithmetic stays in the dtype of `x`: diffusers' `apply_rotary_emb` works in float32 and rounds once, the
    official model in bfloat16 and after every operation.
    """
    cos, sin = (table.unsqueeze(-2) for table in rotary)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x * cos + turned * sin
