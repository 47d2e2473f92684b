"""Averages with their uncertainty: a mean over pictures and its bootstrap 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Average:
    """The mean of `count` values with its 95 % interval; `infinite` more values were infinite and are not in it.

    `mean`, `low` and `high` are None where no value was finite, as when all pictures are identical.
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int
    infinite: int = 0


def average(values: Sequence[float] | NDArray[np.float64], *, seed: int = 0, resamples: int = 2000) -> Average:
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
    means = finite[rng.integers(len(finite), size=(resamples, len(finite)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Average(float(finite.mean()), float(low), float(high), len(finite), infinite)
