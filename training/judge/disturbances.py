"""What a picture may suffer without becoming wrong: slight blur, noise, tints, rounding, a small warp."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

BLUR = 0.8
"""Largest deviation of the blur, in pixels."""

NOISE = 0.04
"""Largest deviation of the noise; pictures range from -1 to 1."""

TINT = 0.06
"""Largest change of each channel's gain and offset."""

WARP = 0.8
"""Largest shift of the warp, in pixels."""


def disturbed(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1], each mildly disturbed in a random way; a fifth are left as they are."""
    out = pictures.clone()
    changed = torch.rand(len(out), generator=random) < 0.8
    part = out[changed]
    if len(part):
        for change in (_warped, _blurred, _tinted, _noisy):
            rows = torch.rand(len(part), generator=random) < 0.5
            if rows.any():
                part[rows] = change(part[rows], random)
        for i in torch.nonzero(torch.rand(len(part), generator=random) < 0.12)[:, 0].tolist():
            part[i] = _compressed(part[i], int(torch.randint(50, 95, (), generator=random)))
        out[changed] = part.clamp(-1, 1)
    return out


def blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each picture with its own deviation (N,) in pixels, up to about 1.5."""
    count, channels, height, width = pictures.shape
    offsets = torch.arange(-3.0, 4.0)
    weights = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=1e-2)[:, None] ** 2))
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = functional.pad(pictures, (3, 3, 3, 3), mode="replicate").reshape(1, count * channels, height + 6, width + 6)
    across = functional.conv2d(flat, weights[:, None, None, :], groups=count * channels)
    return functional.conv2d(across, weights[:, None, :, None], groups=count * channels).view_as(pictures)


def _blurred(pictures: Tensor, random: torch.Generator) -> Tensor:
    return blurred(pictures, BLUR * torch.rand(len(pictures), generator=random))


def _noisy(pictures: Tensor, random: torch.Generator) -> Tensor:
    strength = NOISE * torch.rand(len(pictures), 1, 1, 1, generator=random)
    return pictures + strength * torch.randn(pictures.shape, generator=random)


def _tinted(pictures: Tensor, random: torch.Generator) -> Tensor:
    gain, offset = TINT * (2 * torch.rand(2, len(pictures), 3, 1, 1, generator=random) - 1)
    return pictures * (1 + gain) + offset


def _warped(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Shifted by a smooth field of up to WARP pixels."""
    count, _, height, width = pictures.shape
    field = (2 * torch.rand(count, 2, 5, 5, generator=random) - 1) * WARP * 2 / width
    field = functional.interpolate(field, (height, width), mode="bicubic", align_corners=True).movedim(1, -1)
    still = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 3, height, width], align_corners=False)
    return functional.grid_sample(pictures, still + field, padding_mode="border", align_corners=False)


def _compressed(picture: Tensor, quality: int) -> Tensor:
    """As a JPEG file of this quality keeps it."""
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    kept = torch.frombuffer(bytearray(Image.open(file).convert("RGB").tobytes()), dtype=torch.uint8)
    return (kept.view(*picture.shape[1:], 3).movedim(-1, 0).float()) / 127.5 - 1
