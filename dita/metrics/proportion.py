"""Shares with their uncertainty: how many of how many, and the 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Share:
    """`right` of `count`, with the 95 % interval of the share; where `count` is 0, share and interval are None."""

    right: int
    count: int
    share: float | None
    low: float | None
    high: float | None


def share(right: int, count: int) -> Share:
    """The share of `right` in `count` with its Wilson score interval (Wilson 1927, as in Agresti and Coull 1998).

    Unlike the interval of plus and minus a standard error, it stays within 0 and 1 and has a width at both ends.
    Raises `ValueError` where `right` is not between 0 and `count`.

    >>> share(8, 10).share
    0.8
    """
    if not 0 <= right <= count:
        raise ValueError(f"right must be between 0 and count={count}, got {right}")
    if not count:
        return Share(0, 0, None, None, None)
    p, z2 = right / count, _Z * _Z / count
    middle, half = p + z2 / 2, _Z * math.sqrt(p * (1 - p) / count + z2 / (4 * count))
    return Share(right, count, p, max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2)))
