"""The feature network for Frechet distances: what the judge's eyes hold of a picture, pooled over the picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dita.miniature.judge.network import SIDE, Eyes


class Features(nn.Module):
    """Pictures (N, 3, H, W), uint8 or floats in [0, 1], to features (N, 256) in float32.

    Mean and deviation over the picture of the trunk's last features (96 each: what is seen) and of its finest ones (32
    each: edges and grain, which blur and noise change). Pictures of other sizes are resized, averaging as they shrink.

    Raises:
        ValueError: another shape or type of input.
    """

    def __init__(self, eyes: Eyes) -> None:
        super().__init__()
        self.trunk = eyes.trunk
        self.width = 2 * (eyes.widths.quarter + eyes.widths.half)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"pictures must be (N, 3, H, W), got {tuple(pictures.shape)}")
        if pictures.dtype == torch.uint8:
            pictures = pictures.float() / 255
        elif not pictures.is_floating_point():
            raise ValueError(f"pictures must be uint8 or floating point, got {pictures.dtype}")
        if pictures.shape[2:] != (SIDE, SIDE):
            pictures = functional.interpolate(pictures.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        fine, last = self.trunk.levels(pictures.float() * 2 - 1)
        return torch.cat([part for level in (last, fine) for part in (level.mean((2, 3)), level.std((2, 3)))], dim=1)
