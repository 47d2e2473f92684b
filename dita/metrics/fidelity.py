"""Paired fidelity: how close a picture is to the one that the plain pipeline makes from the same prompt and seed.

Pictures are (H, W, C) or batches (N, H, W, C), uint8 or floating point in [0, 1]. numpy only: no weights, no torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[Any]
Values = NDArray[np.float64]

_WINDOW = 11  # side of the Gaussian window, in pixels
_SIGMA = 1.5  # its standard deviation, in pixels
_C1, _C2 = 0.01**2, 0.03**2  # K1 = 0.01 and K2 = 0.03, squared, for a data range of 1


def psnr(a: Pictures, b: Pictures) -> Values:
    """Peak signal-to-noise ratio in dB of each pair of pictures, data range 1: inf where they are identical.

    Returns one value a pair: shape () for pictures, (N,) for batches. It is never pooled over a batch.
    Raises `ValueError` for shapes that differ, and for values that are neither uint8 nor floating point in [0, 1].

    >>> float(psnr(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)))
    0.0
    """
    x, y = _pair(a, b)
    error = np.mean(np.square(x - y), axis=(-3, -2, -1))
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(error))


def ssim(a: Pictures, b: Pictures) -> Values:
    """Structural similarity of each pair of pictures, at most 1 (Wang et al. 2004).

    An 11x11 Gaussian window of sigma 1.5, only where it lies inside the picture, population covariance, the mean over
    pixels and channels: skimage's with `gaussian_weights=True, use_sample_covariance=False`.
    Returns one value a pair: shape () for pictures, (N,) for batches. Raises `ValueError` as `psnr` does, and for
    pictures smaller than the window.
    """
    x, y = _pair(a, b)
    height, width = x.shape[-3:-1]
    if min(height, width) < _WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {_WINDOW}x{_WINDOW} pixels, got {height}x{width}")
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x * mean_x
    variance_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    contrast_structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return np.asarray(np.mean(luminance * contrast_structure, axis=(-3, -2, -1)))


def largest_difference(a: Pictures, b: Pictures) -> Values:
    """The largest difference of any pixel and channel of each pair of pictures, in 0..1; 0 where they are identical.

    Returns and raises as `psnr` does.
    """
    x, y = _pair(a, b)
    return np.asarray(np.abs(x - y).max(axis=(-3, -2, -1)))


def latent_error(latents: NDArray[Any], plain: NDArray[Any]) -> Values:
    """Relative L2 error |latents - plain| / |plain| of each sample: (B, ...) arrays of one shape give (B,).

    Raises `ValueError` for shapes that differ.
    """
    if latents.shape != plain.shape:
        raise ValueError(f"latents must have one shape, got {latents.shape} and {plain.shape}")
    reference = plain.astype(np.float64).reshape(len(plain), -1)
    difference = latents.astype(np.float64).reshape(len(plain), -1) - reference
    return np.asarray(np.linalg.norm(difference, axis=1) / np.linalg.norm(reference, axis=1))


def _pair(a: Pictures, b: Pictures) -> tuple[Values, Values]:
    if a.shape != b.shape:
        raise ValueError(f"pictures must have one shape, got {a.shape} and {b.shape}")
    if a.ndim not in (3, 4):
        raise ValueError(f"pictures are (H, W, C) or (N, H, W, C), got {a.shape}")
    return as_unit_range(a), as_unit_range(b)


def as_unit_range(pictures: Pictures) -> Values:
    """As float64 in [0, 1], before any difference is taken: uint8 would wrap around.

    Raises `ValueError` for values that are neither uint8 nor floating point in [0, 1].
    """
    if pictures.dtype == np.uint8:
        return pictures.astype(np.float64) / 255
    if not np.issubdtype(pictures.dtype, np.floating):
        raise ValueError(f"pictures must be uint8 or floating point, got {pictures.dtype}")
    if pictures.size and not (pictures.min() >= 0 and pictures.max() <= 1):  # also refuses NaN
        raise ValueError(f"floating-point pictures must lie in [0, 1], got {pictures.min()} to {pictures.max()}")
    return pictures.astype(np.float64)


def _blur(pictures: Values) -> Values:
    """Gaussian means of all windows inside the picture: (..., H, W, C) -> (..., H-10, W-10, C)."""
    distance = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(distance**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    rows, columns = (pictures.shape[axis] - _WINDOW + 1 for axis in (-3, -2))
    down = np.zeros((*pictures.shape[:-3], rows, *pictures.shape[-2:]))
    for i, weight in enumerate(weights):
        down += weight * pictures[..., i : i + rows, :, :]
    across = np.zeros((*down.shape[:-2], columns, down.shape[-1]))
    for i, weight in enumerate(weights):
        across += weight * down[..., i : i + columns, :]
    return across
