"""The best full steps of a run, by dynamic programming over the last two of them.

A state is (full step before, full step); the edge to the next full step costs what the steps between are expected to
miss. It takes two full steps to extrapolate, hence the state (DPCache, arXiv 2602.22654). Costs are raised to a power
gamma, which lies between their sum and the largest of them (MeanCache, arXiv 2601.19961; LeMiCa, arXiv 2511.00090).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dita.tuning.gram import Floats, checked_gram

Integers: TypeAlias = NDArray[np.int64]
HIGHEST_ORDER = 2
_ROUNDING = 1 + 1e-12  # of seconds that are summed up
_NONE: Integers = np.empty((1, 0), np.int64)  # the history of the first full step


class Gaps(Protocol):
    """What cached steps between two full ones are expected to miss.

    Attributes:
        steps: T, of the run.
        memory: how many full steps before the last one errors depend on.
    """

    steps: int
    memory: int

    def errors(self, last: int, before: Integers) -> Floats:
        """The errors (rows, T - last) of the gaps behind the full step `last`.

        Column j is the gap up to the next full step last + 1 + j, the last column that up to the end of the run.
        before: (rows, m) the m <= `memory` full steps before `last`, the latest first; a row is one history.
        """
        ...


class GramGaps:
    """Gaps whose steps are forecast by the polynomial through the last full steps.

    Args:
        gram: G (T, T), as `gram.gram_matrix`.
        order: of the polynomial, 0 to 2, and lower where there are too few full steps yet.
        along: the coordinate (T,) in which it extrapolates, such as noise levels or log-SNR; step numbers by default.
        sensitivities: c (T,): the error of a gap is |sum over its steps of c_t (z_t - forecast_t)|^2, by which errors
            that cancel in the final latents cost nothing; right where no later step corrects them. None: the sum of
            |z_t - forecast_t|^2.
    """

    def __init__(
        self, gram: ArrayLike, order: int = 1, along: ArrayLike | None = None, sensitivities: ArrayLike | None = None
    ) -> None:
        if order not in range(HIGHEST_ORDER + 1):
            raise ValueError(f"order must be 0 to {HIGHEST_ORDER}, got {order}")
        self._gram = checked_gram(gram)
        self.steps = len(self._gram)
        self.memory = order
        self._along = _of_steps("along", np.arange(self.steps) if along is None else along, self.steps)
        moves = np.diff(self._along)
        if not ((moves > 0).all() or (moves < 0).all()):
            raise ValueError("along must rise, or fall, from each step to the next")
        self._c = None if sensitivities is None else _of_steps("sensitivities", sensitivities, self.steps)
        self._sums = [self._moments(last) for last in range(self.steps)]

    def errors(self, last: int, before: Integers) -> Floats:
        base, cross, pair = self._sums[last]
        nodes = np.concatenate([np.full((len(before), 1), last), before], axis=1)
        powers = _lagrange_coefficients(self._along[nodes] - self._along[last])
        degrees = powers.shape[2]
        inner = np.einsum("rkm,rkl,rln->rmn", powers, self._gram[nodes[:, :, None], nodes[:, None, :]], powers)
        missed = base - 2 * np.einsum("rkm,mrkj->rj", powers, cross[:degrees][:, nodes])
        missed = missed + np.einsum("rmn,mnj->rj", inner, pair[:degrees, :degrees])
        return np.maximum(missed, 0.0)

    def _moments(self, last: int) -> tuple[Floats, Floats, Floats]:
        """Of the steps t behind `last`, with d = u_t - u_last: sums up to each next full step of what an error needs.

        z_t with itself; d^m z_t with each z up to `last`, m first; d^m+n, m and n first. Integrated, sums of products
        become products of sums.
        """
        after = slice(last + 1, None)
        distances = self._along[after] - self._along[last]
        powers = distances ** np.arange(self.memory + 1)[:, None]
        earlier = self._gram[: last + 1, after]
        if self._c is None:
            base = _sums_up_to(np.diag(self._gram)[after])
            cross = _sums_up_to(powers[:, None] * earlier)
            return base, cross, _sums_up_to(powers[:, None] * powers[None, :])
        c = self._c[after]
        weighted = self._gram[after, after] * c * c[:, None]
        lower = np.cumsum(np.tril(weighted, -1).sum(1)) if len(c) else c
        base = np.append(0.0, 2 * lower + np.cumsum(np.diag(weighted)))
        moments = _sums_up_to(powers * c)
        cross = moments[:, None] * _sums_up_to(earlier * c)
        return base, cross, moments[:, None] * moments[None, :]


class MeasuredGaps:
    """Gaps whose errors were measured one by one: of the final latents, say, when this gap alone is cached (LeMiCa).

    Args:
        table: (T, T + 1): the error of the gap from a full step (row) to the next one (column), T for the end.
    """

    memory = 0

    def __init__(self, table: ArrayLike) -> None:
        self._table = np.asarray(table, np.float64)
        if self._table.ndim != 2 or self._table.shape[1] != len(self._table) + 1 or not len(self._table):
            raise ValueError(f"a table of gaps has the shape (T, T + 1), got {self._table.shape}")
        self.steps = len(self._table)
        above = self._table[np.triu_indices(self.steps, 1, self.steps + 1)]
        if np.isnan(above).any() or (above < 0).any():
            raise ValueError("errors of gaps must be numbers, at least 0")

    def errors(self, last: int, before: Integers) -> Floats:
        return np.repeat(self._table[last, None, last + 1 :], len(before), axis=0)


@dataclass(frozen=True)
class Found:
    """Full steps, and what they are expected to miss.

    Attributes:
        cost: what was minimised, the sum of the gaps' errors to the power gamma; their maximum for infinity.
        error: the sum of the gaps' errors.
    """

    full_steps: tuple[int, ...]
    cost: float
    error: float


def gap_errors(gaps: Gaps, full_steps: Sequence[int]) -> list[float]:
    """The errors of the gaps behind each of the full steps, of which the first is 0."""
    errors = []
    for number, (last, end) in enumerate(pairwise((*full_steps, gaps.steps))):
        before = list(full_steps[max(0, number - gaps.memory) : number])[::-1]
        errors.append(float(gaps.errors(last, np.array([before], np.int64).reshape(1, -1))[0, end - last - 1]))
    return errors


def best_full_steps(
    gaps: Gaps,
    most: int | None = None,
    *,
    gamma: float = 1.0,
    forced: Collection[int] = (),
    longest: int | None = None,
) -> dict[int, Found]:
    """The best full steps for every number of them up to `most`, all T by default, for which there are any.

    Exact where errors depend on one full step before the last (order 1) or none. On two (order 2), a state remembers
    only the best of the steps before its own two: what is found has the cost that is stated, and may not be the best.

    Args:
        gamma: 1 minimises the sum of the gaps' errors; larger ones look at the large gaps, infinity at the largest.
        forced: steps that must be full.
        longest: the most steps from a full one to the next, None for any number.
    Raises `ValueError` for what is out of range.
    """
    steps = gaps.steps
    most = steps if most is None else most
    if not 1 <= most <= steps:
        raise ValueError(f"most must be from 1 to the {steps} steps of the run, got {most}")
    cost_of = _Costs(gaps, gamma, forced, longest)
    first = cost_of(0, _NONE)[0]
    found: dict[int, Found] = {}
    if math.isfinite(first[-1]):
        found[1] = _found(gaps, (0,), float(first[-1]))
    costs = np.full((steps, steps), np.inf)  # [full step before, full step]
    costs[0, 1:] = first[:-1]
    befores: list[Integers] = [np.full((steps, steps), -1, np.int64)]  # what comes before these two, layer by layer
    for number in range(2, most + 1):
        following = np.full((steps, steps), np.inf)
        before = np.full((steps, steps), -1, np.int64)
        ends = np.full((steps, steps), np.inf)
        for last in range(number - 1, steps):
            rows = np.flatnonzero(np.isfinite(costs[:last, last]))
            if not len(rows):
                continue
            history = np.stack([rows, befores[-1][rows, last]], axis=1)
            reach = cost_of.join(costs[rows, last][:, None], cost_of.of_rows(last, history))
            ends[rows, last] = reach[:, -1]
            best = reach[:, :-1].argmin(axis=0)
            before[last, last + 1 :] = rows[best]
            following[last, last + 1 :] = reach[best, np.arange(len(best))]
        if np.isfinite(ends.min()):
            pair = np.unravel_index(int(ends.argmin()), ends.shape)
            path = _walked_back(befores, int(pair[0]), int(pair[1]))
            found[number] = _found(gaps, path, float(ends.min()))
        costs = following
        befores.append(before)
    return found


class _Costs:
    """The costs of edges: errors to the power gamma, infinite where an edge is not allowed."""

    def __init__(self, gaps: Gaps, gamma: float, forced: Collection[int], longest: int | None) -> None:
        if not gamma >= 1:
            raise ValueError(f"gamma must be at least 1, or infinity, got {gamma}")
        if any(not 0 <= step < gaps.steps for step in forced):
            raise ValueError(f"forced steps must be from 0 to {gaps.steps - 1}, got {sorted(forced)}")
        if longest is not None and longest < 1:
            raise ValueError(f"longest must be at least 1, got {longest}")
        self.gaps = gaps
        self.join = np.maximum if math.isinf(gamma) else np.add
        self._gamma = 1.0 if math.isinf(gamma) else gamma
        later = [min((f for f in forced if f > last), default=gaps.steps) for last in range(gaps.steps)]
        reach = gaps.steps if longest is None else longest
        self._ends = [min(end, last + reach) for last, end in enumerate(later)]
        self._known: dict[int, Floats] = {}

    def __call__(self, last: int, before: Integers) -> Floats:
        costs = self.gaps.errors(last, before) ** self._gamma
        costs[:, self._ends[last] - last :] = np.inf
        return costs

    def of_rows(self, last: int, history: Integers) -> Floats:
        """The costs (rows, T - last) behind `last`, where rows are (full step before, the one before that or -1)."""
        if self.gaps.memory < HIGHEST_ORDER:
            if last not in self._known:
                every = np.arange(last)[:, None] if self.gaps.memory else np.empty((last, 0), np.int64)
                self._known[last] = self(last, every)
            return self._known[last][history[:, 0]]
        short = history[:, 1] < 0
        costs = np.empty((len(history), self.gaps.steps - last))
        for rows, width in ((short, 1), (~short, 2)):
            if rows.any():
                costs[rows] = self(last, history[rows, :width])
        return costs


def _walked_back(befores: Sequence[Integers], before: int, last: int) -> tuple[int, ...]:
    path = [last, before]
    for layer in reversed(befores[1:]):
        path.append(int(layer[path[-1], path[-2]]))
    return tuple(reversed(path))


def _found(gaps: Gaps, path: tuple[int, ...], cost: float) -> Found:
    return Found(path, cost, sum(gap_errors(gaps, path)))


# ------------------------------------------------------------------------------------------------ a budget of seconds


@dataclass(frozen=True)
class Mode:
    """One way to go through the cached steps of a gap.

    Attributes:
        gaps: what its steps are expected to miss; of a memory of at most one step.
        seconds: of one of its steps.
    """

    gaps: Gaps
    seconds: float


@dataclass(frozen=True)
class FoundWithin:
    """Full steps within a budget of seconds, and the mode of the gap behind each of them, by its number.

    A gap without a step has the mode 0. `cost` and `error` as those of `Found`.
    """

    full_steps: tuple[int, ...]
    modes: tuple[int, ...]
    seconds: float
    cost: float
    error: float


def best_within(
    modes: Sequence[Mode],
    full_seconds: float,
    budget: float,
    *,
    gamma: float = 1.0,
    forced: Collection[int] = (),
    longest: int | None = None,
    bins: int = 400,
) -> FoundWithin:
    """The best full steps, and the best mode for the gap behind each, in a run that takes at most `budget` seconds.

    With one mode, the number of full steps follows from the budget, and the answer is that of `best_full_steps`.
    Otherwise seconds are counted in `bins` of the budget: among runs of nearly the same seconds, one that is a little
    better may be passed over. What is returned keeps the budget to the digit.

    Args:
        full_seconds: of a full step.
    Raises `ValueError` for a budget below the least that a run takes, which it names.
    """
    if not modes or len({mode.gaps.steps for mode in modes}) > 1:
        raise ValueError("modes must be at least one, all of a run of the same steps")
    if not (full_seconds > 0 and math.isfinite(full_seconds) and all(0 <= m.seconds < full_seconds for m in modes)):
        raise ValueError("a full step must take some seconds, and cached ones fewer, at least 0")
    if not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"budget must be a number of seconds above 0, got {budget}")
    if len(modes) == 1:
        return _counted(modes[0], full_seconds, budget, gamma, forced, longest)
    if any(mode.gaps.memory > 1 for mode in modes):
        raise ValueError("with several modes, errors may depend on one full step before the last, no more")
    binned = _Binned(modes, full_seconds, budget / bins, bins, [_Costs(m.gaps, gamma, forced, longest) for m in modes])
    for path, used, cost in binned.runs():
        lengths = [end - start - 1 for start, end in pairwise((*path, binned.steps))]
        seconds = len(path) * full_seconds + sum(n * modes[m].seconds for n, m in zip(lengths, used, strict=True))
        if seconds <= budget * _ROUNDING:
            errors = [gap_errors(modes[mode].gaps, path)[number] for number, mode in enumerate(used)]
            shown = tuple(mode if length else 0 for length, mode in zip(lengths, used, strict=True))
            return FoundWithin(path, shown, seconds, cost, sum(errors))
    raise _too_small(budget, binned.steps, full_seconds, min(mode.seconds for mode in modes), forced, longest)


class _Binned:
    """The programme over (full step before, full step, bins of seconds that are spent before the latter)."""

    def __init__(
        self, modes: Sequence[Mode], full_seconds: float, unit: float, bins: int, costs: Sequence[_Costs]
    ) -> None:
        self.steps = modes[0].gaps.steps
        self._costs = costs
        lengths = np.arange(self.steps)  # cached steps of a gap
        self._spent = [np.rint((full_seconds + lengths * mode.seconds) / unit).astype(np.int64) for mode in modes]
        shape = (self.steps, bins + self.steps + 1, self.steps)  # rounding may add half a bin for each full step
        self._best = np.full(shape, np.inf)  # [full step, bins before it, full step before]
        self._origin = np.full((*shape, 3), -1, np.int16)  # of a state: its bins, the full step before, its gap's mode
        self._ends: list[tuple[float, int, int, int, int]] = []  # cost, last full step, its bins, step before, mode

    def runs(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], float]]:
        """Full steps, modes of their gaps and cost of runs, the best first: one for each state that ends a run."""
        self._best[0, 0, 0] = 0.0
        for last in range(self.steps):
            for mode in range(len(self._costs)):
                self._leave(last, mode)
        for cost, last, spent, before, mode in sorted(self._ends):
            yield *self._walked_back(last, spent, before, mode), cost

    def _leave(self, last: int, mode: int) -> None:
        """Goes from every state of a full step to every next full step, or to the end."""
        rows = np.arange(max(last, 1))
        held = self._best[last][:, rows]  # (bins, rows)
        bins = np.flatnonzero(np.isfinite(held).any(axis=1))
        if not len(bins):
            return
        costs = self._costs[mode]
        edges = costs(0, _NONE) if last == 0 else costs.of_rows(last, np.stack([rows, rows], axis=1))
        sums = costs.join(held[bins][:, :, None], edges)  # (bins, rows, ends)
        from_row = sums.argmin(axis=1)
        values = np.take_along_axis(sums, from_row[:, None], axis=1)[:, 0]
        for column, spent in enumerate(self._spent[mode][: values.shape[1]]):
            fits = (bins + spent < self._best.shape[1]) & np.isfinite(values[:, column])
            self._arrive(
                last,
                mode,
                last + 1 + column,
                bins[fits],
                bins[fits] + spent,
                rows[from_row[fits, column]],
                values[fits, column],
            )

    def _arrive(
        self, last: int, mode: int, end: int, bins: Integers, into: Integers, before: Integers, costs: Floats
    ) -> None:
        if end == self.steps:
            arrived = zip(costs, bins, before, strict=True)
            self._ends += [(float(cost), last, int(spent), int(row), mode) for cost, spent, row in arrived]
            return
        better = costs < self._best[end][into, last]
        self._best[end][into[better], last] = costs[better]
        of_mode = np.full(int(better.sum()), mode)
        self._origin[end][into[better], last] = np.stack([bins[better], before[better], of_mode], axis=1)

    def _walked_back(self, last: int, spent: int, before: int, mode: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        path, modes = [last], [mode]
        while last > 0:
            earlier, two_before, of_gap = (int(value) for value in self._origin[last, spent, before])
            path.append(before)
            modes.append(of_gap)
            last, spent, before = before, earlier, two_before
        return tuple(reversed(path)), tuple(reversed(modes))


def _counted(
    mode: Mode, full_seconds: float, budget: float, gamma: float, forced: Collection[int], longest: int | None
) -> FoundWithin:
    steps = mode.gaps.steps
    count = math.floor((budget * _ROUNDING - steps * mode.seconds) / (full_seconds - mode.seconds))
    most = min(count, steps)
    within = best_full_steps(mode.gaps, most, gamma=gamma, forced=forced, longest=longest) if most > 0 else {}
    if not within:
        raise _too_small(budget, steps, full_seconds, mode.seconds, forced, longest)
    found = min(within.values(), key=lambda one: one.cost)
    number = len(found.full_steps)
    seconds = number * full_seconds + (steps - number) * mode.seconds
    return FoundWithin(found.full_steps, (0,) * number, seconds, found.cost, found.error)


def _too_small(
    budget: float, steps: int, full: float, cached: float, forced: Collection[int], longest: int | None
) -> ValueError:
    """The error for a budget that no run keeps, with the seconds of the shortest."""
    reach = steps if longest is None else longest
    needed = sorted({0, *forced})
    count = sum(math.ceil((end - start) / reach) for start, end in pairwise((*needed, steps)))
    least = count * full + (steps - count) * cached
    return ValueError(f"no run takes {budget:.4g} s or less: the shortest takes {least:.4g} s")


# ------------------------------------------------------------------------------------------------ pieces


def _lagrange_coefficients(places: Floats) -> Floats:
    """(rows, nodes, powers) of the polynomials that are 1 at a node and 0 at the others, for nodes at (rows, nodes)."""
    count = places.shape[1]
    result = np.zeros((len(places), count, count))
    for k in range(count):
        polynomial = np.zeros((len(places), count))
        polynomial[:, 0] = 1.0
        for other in range(count):
            if other == k:
                continue
            raised = np.roll(polynomial, 1, axis=1)  # times the coordinate; the highest power is still 0
            polynomial = (raised - places[:, other, None] * polynomial) / (places[:, k] - places[:, other])[:, None]
        result[:, k] = polynomial
    return result


def _sums_up_to(values: Floats) -> Floats:
    """The sums of the first 0, 1, 2 ... along the last axis."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums


def _of_steps(name: str, values: ArrayLike, steps: int) -> Floats:
    array = np.asarray(values, np.float64)
    if array.shape != (steps,) or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a finite number for each of the {steps} steps, got the shape {array.shape}")
    return array
