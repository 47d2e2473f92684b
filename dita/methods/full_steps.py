"""Full steps that are chosen one by one, in place of those of a cycle: what every method that has them shares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

from dita.families import Phase, usual_timesteps
from dita.methods.method import Method, check_count, listed_steps
from dita.shapes import Shape

_MIDWAY = 1.5  # steps below 1000 at which a run that begins there is taken for the rest of a longer one


class CarriedOverWarning(UserWarning):
    """Full steps that were chosen for another number of steps are carried over to those of the run."""


class ChosenSteps(Method):
    """A method whose full steps may be chosen one by one.

    A subclass is a dataclass with the two fields, as the last ones and by keyword, checks them by `check_full_steps`
    at the end of its `__post_init__`, and asks `chosen_steps` in its `plan`.

    Fields:
        full_steps: the full steps, counted from 0, in ascending order, the first of them 0; in short full=0/3/7. All
            others are cached, and `cycle`, `warmup`, `ramp` and `window` decide nothing about where full steps lie.
        full_of: the number of steps of the run that `full_steps` were chosen for; in short of=28. In a run of another
            number of steps, the steps at the nearest noise levels take their place, with a warning. Without it the
            numbers are taken as they are, and must fit the run.
    """

    full_steps: tuple[int, ...] | None
    full_of: int | None
    steps_factor: int = 1  # steps of the run for each of plain's, where a method has a finer grid

    def check_full_steps(self) -> None:
        """Raises `ValueError` for steps that no run can have, and for `full_of` alone."""
        if self.full_steps is not None:
            _check_order(self.full_steps)
        if self.full_of is None:
            return
        check_count("full_of", self.full_of, "the steps of the run that full_steps are for")
        if self.full_steps is None:
            raise ValueError(f"full_of says which run full_steps are for: give both, got full_of={self.full_of} alone")
        last = self.full_of * self.steps_factor - 1
        if self.full_steps[-1] > last:
            raise ValueError(
                f"full_steps of a run of full_of={self.full_of} steps must be at most {last}, got step"
                f" {self.full_steps[-1]}"
            )

    def chosen_steps(
        self, shape: Shape | None, steps: int, timesteps: Sequence[float] | None = None
    ) -> tuple[int, ...] | None:
        """`full_steps` as they are in a run of `steps`, None where a cycle decides.

        shape, timesteps: as `Method.plan` has them, for noise levels.
        Warns where they are carried over from a run of `full_of` steps. Raises `ValueError` for steps beyond the run.
        """
        if self.full_steps is None:
            return None
        midway = timesteps is not None and _begins_midway(timesteps)
        if self.full_of is not None and (self.full_of != steps or midway):
            return self._carried_over(self.full_of, shape, steps, timesteps, midway)
        if self.full_steps[-1] >= steps:
            raise ValueError(
                f"full_steps must be below {steps}, the steps of this run, got step {self.full_steps[-1]};"
                " steps chosen for another number are carried over where full_of (of= in short) says for which"
            )
        return self.full_steps

    def nearest_steps(
        self, among: Sequence[int], shape: Shape | None, steps: int, timesteps: Sequence[float] | None = None
    ) -> list[int]:
        """For each step of a run, the one of `among` that it takes the place of; these count in the run of `full_of`.

        It is the one at the nearest noise level, as in `chosen_steps`, and in the same run the step itself or, where
        that is not among them, the nearest.
        """
        midway = timesteps is not None and _begins_midway(timesteps)
        if self.full_of is None or (self.full_of == steps and not midway):
            return [among[_nearest(among, step)] for step in range(steps)]
        levels, wanted = _levels(self.full_of, among, shape, steps, timesteps, midway)
        return [among[_nearest(wanted, level)] for level in levels]

    def _carried_over(
        self, of: int, shape: Shape | None, steps: int, timesteps: Sequence[float] | None, midway: bool
    ) -> tuple[int, ...]:
        levels, wanted = _levels(of, self.full_steps or (), shape, steps, timesteps, midway)
        carried = tuple(sorted({0, *(_nearest(levels, level) for level in wanted)}))
        warnings.warn(
            f"{self.label()}: its full steps, chosen for {of} steps, are carried over to these {steps} by noise level:"
            f" {listed_steps(carried)}",
            CarriedOverWarning,
            stacklevel=5,
        )
        return carried


def chosen_positions(full: Sequence[int], steps: int, counts_down: bool = False) -> list[tuple[Phase, int]]:
    """What each step of a run is, as `Family.positions`, where the full steps are `full`.

    The position of a cached step is its distance to the full step before or, where the family's reference counts its
    steps down, to the next one.
    """
    taken: list[tuple[Phase, int]] = []
    for start, end in pairwise((*full, steps)):
        distances = range(1, end - start)
        taken += [(Phase.FULL, 0), *((Phase.CACHED, n) for n in (reversed(distances) if counts_down else distances))]
    return taken


def first_difference(full: Sequence[int], warmup: int) -> int:
    """The first step at which a forecast forms differences, where the full steps are `full` and a start has `warmup`.

    It is the last of the full steps that the run begins with, as after a cycle's start, of which no more than `warmup`
    count; 1 where the second step is cached.
    """
    leading = next((number for number, step in enumerate(full) if step != number), len(full))
    return max(min(leading, warmup) - 1, 1)


def _check_order(steps: tuple[int, ...]) -> None:
    if not steps or steps[0] != 0:
        raise ValueError(
            f"full_steps must begin with 0, as nothing is stored before the first step, got {listed_steps(steps) or ()}"
        )
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"full_steps must be in ascending order, each step once, got {listed_steps(steps)}")


def _begins_midway(timesteps: Sequence[float]) -> bool:
    """Whether a run begins below pure noise, as that from a picture does."""
    return bool(timesteps) and timesteps[0] < 1000 * (1 - _MIDWAY / len(timesteps))


def _levels(
    of: int,
    wanted: Sequence[int],
    shape: Shape | None,
    steps: int,
    timesteps: Sequence[float] | None,
    midway: bool,
) -> tuple[Sequence[float], list[float]]:
    """Noise levels of the steps of a run, and those that steps `wanted` of a run of `of` are at."""
    levels = usual_timesteps(shape, steps) if timesteps is None else list(timesteps)
    if timesteps is None or midway:
        usual = usual_timesteps(shape, of)
        return levels, [usual[step] for step in wanted]
    return levels, [_between(levels, step / of) for step in wanted]


def _nearest(levels: Sequence[float], level: float) -> int:
    """The number of the level that is nearest to `level`."""
    return min(range(len(levels)), key=lambda number: abs(levels[number] - level))


def _between(levels: Sequence[float], share: float) -> float:
    """The noise level at a share of a run, in [0, 1), on the straight line between its steps; it ends at 0."""
    place = share * len(levels)
    before = min(int(place), len(levels) - 1)
    after = levels[before + 1] if before + 1 < len(levels) else 0.0
    return levels[before] + (place - before) * (after - levels[before])
