"""How many tokens to reuse where: a programme over measured costs (DiffSparse, arXiv 2604.03674, its cheap half)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Choices:
    """For every place, the number of the option that is taken; what all of them cost, and what they take away."""

    options: tuple[int, ...]
    cost: float
    taken: int


def best_choices(costs: ArrayLike, units: ArrayLike, least: int) -> Choices:
    """The options that take away at least `least` units together, at the least sum of costs.

    F(l, r) = min over s of F(l - 1, r - units[l, s]) + costs[l, s] over the places l, such as layers or pairs of a
    cached step and a module, and what is taken away so far, r, of which more than `least` counts as `least`.

    Args:
        costs: C (L, S): what was measured when place l alone has option s; infinite where it must not be.
        units: whole numbers (S,) or (L, S), at least 0: what an option takes away, tokens or microseconds, say.
        least: at least 0.
    Raises `ValueError` for arrays that do not fit, and where all options together take away less than `least`.
    """
    cost = np.asarray(costs, np.float64)
    if cost.ndim != 2 or not cost.size or np.isnan(cost).any() or np.isneginf(cost).any():
        raise ValueError(f"costs must be numbers (places, options), at least one of each, got the shape {cost.shape}")
    given = np.asarray(units)
    if given.shape not in (cost.shape, cost.shape[1:]) or given.dtype.kind not in "iu" or (given < 0).any():
        raise ValueError(f"units must be whole numbers, at least 0, of the shape {cost.shape} or {cost.shape[1:]}")
    if least < 0:
        raise ValueError(f"least must be at least 0, got {least}")
    amounts = np.minimum(np.broadcast_to(given, cost.shape).astype(np.int64), least)
    best = np.full(least + 1, np.inf)
    best[0] = 0.0
    picked: list[tuple[np.ndarray, np.ndarray]] = []  # of each place: the option for every r, and the r before
    for row, away in zip(cost, amounts, strict=True):
        following = np.full(least + 1, np.inf)
        option, before = np.full(least + 1, -1), np.full(least + 1, -1)
        for number, (price, amount) in enumerate(zip(row, away, strict=True)):
            sums = best + price
            last = int(sums[least - amount :].argmin()) + least - amount  # of those that take away enough
            arrived = np.concatenate([np.full(amount, np.inf), sums[: least - amount], sums[last : last + 1]])
            origin = np.concatenate([np.full(amount, -1), np.arange(least - amount), [last]])
            better = arrived < following
            following[better], option[better], before[better] = arrived[better], number, origin[better]
        picked.append((option, before))
        best = following
    if not math.isfinite(best[least]):
        most = int(np.where(np.isfinite(cost), np.broadcast_to(given, cost.shape), -1).max(axis=1).sum())
        raise ValueError(f"the options take away {most} units at most, less than {least}")
    return _walked_back(picked, np.broadcast_to(given, cost.shape), float(best[least]), least)


def _walked_back(picked: list[tuple[np.ndarray, np.ndarray]], units: np.ndarray, cost: float, place: int) -> Choices:
    options = []
    for option, before in reversed(picked):
        options.append(int(option[place]))
        place = int(before[place])
    options.reverse()
    return Choices(tuple(options), cost, int(sum(units[row, chosen] for row, chosen in enumerate(options))))
