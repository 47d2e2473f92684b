"""How far outputs are from each other."""

from __future__ import annotations

import torch


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Over the length of `other` (L2)."""
    return float((one - other).norm() / other.norm())
