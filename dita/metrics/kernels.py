"""Maximum mean discrepancy between two sets of features: KID and CMMD, for samples too small for FID.

KID: Bińkowski et al. 2018 (arXiv 1801.01401). CMMD: Jayasumana et al. 2024 (arXiv 2401.09603).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

BLOCK = 1024  # feature vectors a side of one block of the kernel matrix
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def kid(x: torch.Tensor, y: torch.Tensor) -> float:
    """Kernel inception distance of features (n, d) and (m, d): smaller is closer, about 0 for equal distributions.

    The unbiased estimate over the full sets, not over random subsets, with the cubic kernel (x.y / d + 1)^3; being
    unbiased it may be slightly negative. Raises `ValueError` for different widths and for fewer than two vectors.
    """
    _check(x, y)
    return _mmd(x, y, _cubic, biased=False)


def cmmd(x: torch.Tensor, y: torch.Tensor, *, biased: bool = True) -> float:
    """CLIP maximum mean discrepancy, times 1000: smaller is closer.

    `x` (n, d) and `y` (m, d) are CLIP image embeddings of length 1. Gaussian kernel of sigma 10. The published code
    is the biased estimate; the unbiased one does not depend on the number of pictures. Raises `ValueError` as `kid`.
    """
    _check(x, y)
    return CMMD_SCALE * _mmd(x, y, _gaussian, biased=biased)


def _cubic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _gaussian(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)[None] - 2 * x @ y.T
    return torch.exp(-squared / (2 * CMMD_SIGMA**2))


def _mmd(x: torch.Tensor, y: torch.Tensor, kernel: Kernel, *, biased: bool) -> float:
    n, m = len(x), len(y)
    xx, yy, xy = _sum(x, x, kernel), _sum(y, y, kernel), _sum(x, y, kernel)
    if biased:
        return xx / n**2 + yy / m**2 - 2 * xy / (n * m)
    diagonals = (_diagonal_sum(x, kernel), _diagonal_sum(y, kernel))
    return (xx - diagonals[0]) / (n * (n - 1)) + (yy - diagonals[1]) / (m * (m - 1)) - 2 * xy / (n * m)


def _sum(x: torch.Tensor, y: torch.Tensor, kernel: Kernel) -> float:
    """The sum of the kernel matrix in float64, a block at a time."""
    total = 0.0
    for rows in x.split(BLOCK):
        wide = rows.to(torch.float64)
        total += sum(float(kernel(wide, columns.to(torch.float64)).sum()) for columns in y.split(BLOCK))
    return total


def _diagonal_sum(x: torch.Tensor, kernel: Kernel) -> float:
    """The sum of each vector's kernel with itself."""
    blocks = (block.to(torch.float64) for block in x.split(64))
    return sum(float(kernel(block, block).diagonal().sum()) for block in blocks)


def _check(x: torch.Tensor, y: torch.Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features are (pictures, width) of one width, got {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs at least 2 pictures a side, got {min(len(x), len(y))}")
