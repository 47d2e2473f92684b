"""Pictures as anyone hands them over, to what the small networks read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pictures = Sequence[Image.Image] | NDArray[np.uint8]
"""PIL pictures, or uint8 (N, H, W, 3)."""


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def tensor(pictures: Pictures, side: int = 64) -> Tensor:
    """Float (N, 3, side, side) in [-1, 1]; pictures of other sizes are resized by PIL, which averages as it shrinks.

    Raises:
        ValueError: an array that is not uint8 (N, H, W, 3), or a picture that is not square.
    """
    if isinstance(pictures, np.ndarray):
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ValueError(f"pictures must be uint8 (N, H, W, 3), got {pictures.dtype} {pictures.shape}")
        if pictures.shape[1:3] == (side, side):
            return to_tensor(np.ascontiguousarray(pictures))
        pictures = [Image.fromarray(picture) for picture in pictures]
    if not len(pictures):
        return torch.empty(0, 3, side, side)
    return to_tensor(np.stack([_sized(picture, side) for picture in pictures]))


def _sized(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    if picture.width != picture.height:
        raise ValueError(f"pictures of the shapes world are square, got {picture.width}x{picture.height} pixels")
    picture = picture.convert("RGB")
    if picture.width != side:
        whole = picture.width % side == 0
        picture = picture.resize((side, side), Image.Resampling.BOX if whole else Image.Resampling.BICUBIC)
    return np.asarray(picture)
