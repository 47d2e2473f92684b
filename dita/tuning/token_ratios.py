"""Token ratios of each cached step: what changing one of them costs is measured, and a programme chooses among all.

A cached step, or a few neighbouring ones between two full steps, gets another R while all others keep theirs: how much
farther from the reference the run then ends is the price of that R there. What it saves is known from the plan.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dita.methods import Method, ToCa
from dita.shapes import Shape
from dita.tuning.crew import Crew
from dita.tuning.ratios import best_choices
from dita.tuning.trials import Bench, Prompts, Trial, squared_errors

OPTIONS = (1.0, 0.95, 0.9, 0.8, 0.6, 0.3)
"""R that each place is tried with; 1.0 computes no tokens."""
FEW_OPTIONS = (1.0, 0.9, 0.6)
"""Those of a search that has little time."""
PROMPTS = 3
"""Prompts that prices are measured on, at least, if there are so many."""
UNIT = 1e-3
"""Of the FLOPs of a full step: what savings are counted in."""
MOST = 4.0
"""FLOPs of tokens that are tried, at most, in those of the method to begin with."""
TRIES = 2


@dataclass(frozen=True)
class Grid:
    """What is measured.

    Attributes:
        places: cached steps that share an R.
        options: R that each of them may have.
    """

    places: tuple[tuple[int, ...], ...]
    options: tuple[float, ...]

    def runs(self, known: float) -> int:
        """How many runs measure it, where all places have the R `known` to begin with."""
        return len(self.places) * sum(option != known for option in self.options)


def grids(method: ToCa, family: str, steps: int) -> list[Grid]:
    """What could be measured, the finest first: neighbours between two full steps share an R, more and more of them."""
    gaps: dict[int, list[int]] = {}
    full = method.full_steps or ()
    for step in method.token_steps(family, steps):
        gaps.setdefault(sum(one < step for one in full), []).append(step)
    found = []
    for options in (OPTIONS, FEW_OPTIONS):
        allowed = tuple(sorted({*options, method.ratio}, reverse=True))
        for size in range(1, max(map(len, gaps.values()), default=0) + 1):
            places = [tuple(gap[i : i + size]) for gap in gaps.values() for i in range(0, len(gap), size)]
            found.append(Grid(tuple(places), allowed))
    return found


def with_ratios(method: ToCa, steps: int, changes: Mapping[int, float]) -> ToCa:
    """The method with other R in some steps of a run of `steps`, and its own in the other cached ones."""
    full = set(method.full_steps or ())
    cached = [step for step in range(steps) if step not in full]
    return dataclasses.replace(method, ratios=tuple(changes.get(step, method.ratio) for step in cached))


def token_flops(method: ToCa, shape: Shape, steps: int, options: Sequence[float]) -> NDArray[np.float64]:
    """FLOPs of tokens, (options, steps): what each step takes beyond one that computes none; a full step's are 1."""
    found = []
    for option in (1.0, *options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = dataclasses.replace(method, ratio=option, ratios=None).plan(shape, steps)
        found.append([plan.step_flops(step) for step in plan.steps])
    none, *others = np.asarray(found)
    full = none[0]  # the first step is full
    return np.maximum(np.asarray(others) - none, 0.0) / full


@dataclass
class TokenRatios:
    """Looks for token ratios of each cached step of a method with chosen full steps.

    Attributes:
        budget: seconds of a run on the prompts of calibration, at most.
        until: on the clock of `time.monotonic`, when measuring ends.
        attempt: makes a trial of a method.
    """

    bench: Bench
    crew: Crew
    shape: Shape
    family: str
    steps: int
    reference: str
    budget: float
    until: float
    attempt: Callable[[Method], Trial | None]

    def improved(self, base: Trial) -> Trial | None:
        """The nearest trial with ratios found from `base`, a ToCa or DuCa with one R; None where time is short."""
        method = base.method
        assert isinstance(method, ToCa) and method.ratios is None
        few = self._few()
        each = base.seconds * len(few) / len(self.bench.prompts) / self.crew.count
        left = self.until - time.monotonic() - (1 + TRIES) * base.seconds
        number = math.floor(left / each) if each > 0 else math.inf
        wanted = (grid for grid in grids(method, self.family, self.steps) if 0 < grid.runs(method.ratio) <= number)
        grid = next(wanted, None) if math.isfinite(base.error(self.reference)) else None
        nothing = self.attempt(dataclasses.replace(method, ratio=1.0)) if grid is not None else None
        if grid is None or nothing is None:
            return None
        costs = self._costs(base, grid, few)
        flops = token_flops(method, self.shape, self.steps, (method.ratio, *grid.options))
        own, of_options = flops[0], flops[1:]
        spent = np.array([of_options[:, list(place)].sum(axis=1) for place in grid.places])
        return self._tried(base, nothing, grid, costs, spent, float(own[list(sum(grid.places, ()))].sum()))

    def _tried(
        self,
        base: Trial,
        nothing: Trial,
        grid: Grid,
        costs: NDArray[np.float64],
        spent: NDArray[np.float64],
        own: float,
    ) -> Trial | None:
        """The best of few trials; where one is too slow, the next one has fewer FLOPs of tokens to spend.

        spent: FLOPs of tokens, (places, options), in those of a full step; own: those of the base.
        """
        method = base.method
        assert isinstance(method, ToCa)
        allowed = allowed_flops(own, base.seconds, nothing.seconds, self.budget)
        found: list[Trial] = []
        for _ in range(TRIES):
            chosen = cheapest(costs, spent, allowed)
            if chosen is None or {grid.options[n] for n in chosen} == {method.ratio}:
                break
            changes = {s: grid.options[n] for place, n in zip(grid.places, chosen, strict=True) for s in place}
            trial = self.attempt(with_ratios(method, self.steps, changes))
            if trial is None:
                break
            found.append(trial)
            took = float(sum(spent[place, n] for place, n in enumerate(chosen)))
            again = allowed_flops(took, trial.seconds, nothing.seconds, self.budget)
            if trial.seconds <= self.budget or again >= allowed:
                break
            allowed = again
        within = [trial for trial in found if trial.seconds <= self.budget] or found
        return min(within, key=lambda trial: trial.error(self.reference), default=None)

    def _few(self) -> Prompts:
        """The first prompts, of whole pipeline calls."""
        batch = self.bench.model.batch
        count = min(len(self.bench.prompts), math.ceil(PROMPTS / batch) * batch)
        return Prompts(self.bench.prompts.texts[:count], self.bench.prompts.seeds[:count])

    def _costs(self, base: Trial, grid: Grid, few: Prompts) -> NDArray[np.float64]:
        """What each option costs at each place alone, in the logarithm of the error, (places, options).

        0 is as the base; infinite is what could not be measured, or was not any more.
        """
        method, count = base.method, len(few)
        assert isinstance(method, ToCa)
        before = math.log(self._error(method, base.errors[self.reference][:count]))
        found = np.full((len(grid.places), len(grid.options)), math.inf)
        found[:, grid.options.index(method.ratio)] = 0.0
        others = [number for number, option in enumerate(grid.options) if option != method.ratio]
        left = iter([(place, number) for number in others for place in range(len(grid.places))])
        while (together := list(islice(left, self.crew.count))) and time.monotonic() < self.until:
            methods = [
                with_ratios(method, self.steps, dict.fromkeys(grid.places[place], grid.options[number]))
                for place, number in together
            ]
            for (place, number), changed, one in zip(together, methods, self.crew.draw(methods, few), strict=True):
                if one.sampled is not None:
                    wanted = self.bench.references[self.reference][:count]
                    error = self._error(changed, squared_errors(one.sampled.latents, wanted))
                    found[place, number] = math.log(error) - before if math.isfinite(error) else math.inf
        return found

    def _error(self, method: Method, errors: tuple[float, ...]) -> float:
        return Trial(method, 0.0, {self.reference: errors}).error(self.reference)


def allowed_flops(own: float, seconds: float, without: float, budget: float) -> float:
    """FLOPs of tokens that fit the budget, on the line through a run that has `own` of them and one that has none.

    seconds, without: of these two. As many as now where the line does not rise, as seconds of few runs may be.
    """
    if own <= 0 or seconds <= without:
        return own
    return min(max(0.0, own * (budget - without) / (seconds - without)), MOST * own)


def cheapest(costs: NDArray[np.float64], spent: NDArray[np.float64], allowed: float) -> tuple[int, ...] | None:
    """The options whose costs are the least together, of those that spend at most `allowed`; None where none do."""
    units = np.ceil(spent / UNIT - 1e-9).astype(np.int64)
    most = units.max(axis=1, keepdims=True)
    least = max(0, int(most.sum()) - math.floor(allowed / UNIT + 1e-9))
    try:
        return best_choices(costs, most - units, least).options
    except ValueError:
        return None
