"""Averages with their uncertainty: a mean over pictures and its bootstrap 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_BLOCK = 1 << 22  # random numbers held at once, so that memory does not grow with the number of pictures

Values = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Average:
    """The mean of `count` values with its 95 % interval; `infinite` more values were infinite and are not in it.

    `mean`, `low` and `high` are None where no value was finite, as when all pictures are identical; `low` and `high`
    also where no interval could be computed.
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int
    infinite: int = 0


def average(values: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> Average:
    """Mean and percentile-bootstrap 95 % interval of `values`, the same for the same `seed`.

    Infinite values (the PSNR of identical pictures) are counted apart. Raises `ValueError` for NaN.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if np.isnan(numbers).any():
        raise ValueError("cannot average values that hold NaN")
    finite = numbers[np.isfinite(numbers)]
    infinite = len(numbers) - len(finite)
    if not len(finite):
        return Average(None, None, None, 0, infinite)
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(finite))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    means = [finite[rng.integers(len(finite), size=(size, len(finite)))].mean(axis=1) for size in sizes]
    low, high = interval(np.concatenate(means))
    return Average(float(finite.mean()), low, high, len(finite), infinite)


def difference(values: Values, plain: Values, *, seed: int = 0) -> Average:
    """Mean of `values[i] - plain[i]` with its interval, by resampling pairs: much narrower than that of two means.

    Pairs with an infinite value on either side are counted in `infinite`. Raises `ValueError` for different numbers
    of values and for NaN.
    """
    a, b = np.asarray(values, dtype=np.float64), np.asarray(plain, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values have one count, got {len(a)} and {len(b)}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("cannot average values that hold NaN")
    finite = np.isfinite(a) & np.isfinite(b)
    apart = np.full(len(a), np.inf)
    apart[finite] = a[finite] - b[finite]
    return average(apart, seed=seed)


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of a statistic's resampled values."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return float(low), float(high)
