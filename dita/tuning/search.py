"""The closed loop: what is tried on the prompts of calibration, and in which order."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dita.methods import FewerSteps, Method, ToCa, WholeCall
from dita.samplers import FAMILY_SAMPLERS
from dita.shapes import Shape
from dita.tuning import candidates
from dita.tuning.corrections import Rows, directions, fitted, line_rows
from dita.tuning.crew import Crew, Timing, tried
from dita.tuning.gram import Floats
from dita.tuning.observing import Observed, observed
from dita.tuning.programme import GramGaps, best_full_steps
from dita.tuning.schedules import Schedule, even, relocations, spaced
from dita.tuning.token_ratios import TokenRatios
from dita.tuning.trials import Bench, Trial

FACTORS = (1, 2, 3)
"""Sampler steps for each of plain's that whole-call forecasts are tried with."""
SLACK = 1.03
"""Seconds that still count as within the budget, for each of the budget's: they were measured once."""
REACH = 3
FITTING = 0.5
"""Share of the time in which the first weights are fitted, at most."""
TOKENS, TOKENS_FAR = 0.15, 0.05
"""Shares of the time left in which token ratios are measured, and if the best token-wise method is far behind."""
TOKENS_NEAR = 10.0
"""It is not if it is at most so many times the error of the best, 10 dB."""
CLOSE = 4.0
"""A group is searched further if its best is at most so many times the error of the best, 6 dB."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a run on the prompts of calibration, from few measured runs.

    Attributes:
        fixed: of a run without steps: reading the prompts.
        step: of a full step with the sampler's part.
        cached: of a step without a transformer call.
    """

    fixed: float
    step: float
    cached: float

    def seconds(self, evaluations: int, steps: int) -> float:
        """Of a run of so many steps, so many of them full, the others without a call."""
        return self.fixed + evaluations * self.step + (steps - evaluations) * self.cached

    def evaluations(self, seconds: float, steps: int) -> int:
        """The most full steps of a run that takes at most `seconds`."""
        free = seconds - self.fixed - steps * self.cached
        return max(0, min(steps, math.floor(free / (self.step - self.cached) + 1e-9)))


def _is_unfitted(method: Method) -> bool:
    """Whether a method is a whole-call forecast whose weights are those of a predictor."""
    return isinstance(method, WholeCall) and not method.weights


@dataclass
class Search:
    """Looks for the methods that come nearest to the reference within so many seconds.

    Attributes:
        budget: seconds of a run on the prompts of calibration.
        deadline: on the clock of `time.monotonic`; a trial that has begun is finished.
        crew: who draws. As many methods are tried at once as it can; which one is taken does not depend on that.
        told: called after each trial.
        skipped: methods that raised, and what they said.
    """

    bench: Bench
    shape: Shape
    family: str
    steps: int
    observed: Observed
    costs: Costs
    budget: float
    reference: str
    deadline: float
    crew: Crew
    told: Callable[[Trial], None] = lambda trial: None
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._timing = Timing(self.bench)

    def run(self) -> None:
        """Tries everything that time allows; `bench.known` has the trials."""
        self.try_all(self._rivals(), always=True)
        self._whole_calls()
        self._fit_best()
        self.try_all(self._published())
        self._chosen()
        self._token_ratios()
        self._refine()

    def ended(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    def fits(self, trial: Trial) -> bool:
        """Whether a trial kept the budget, measurements being what they are."""
        return trial.seconds <= self.budget * SLACK

    def try_all(self, methods: Iterable[Method], *, always: bool = False) -> list[Trial]:
        """The trials of those that run on the model, until the time is up or, with `always`, of all."""
        found: list[Trial] = []
        for together in self._at_once(methods):
            if self.ended() and not always:
                break
            found += filter(None, self._try_together(together))
        return found

    def try_one(self, method: Method) -> Trial | None:
        """A method's trial; None where it does not run on the model."""
        return self._try_together([method])[0]

    def _at_once(self, methods: Iterable[Method]) -> Iterator[list[Method]]:
        """As many together as the crew draws at once."""
        left = iter(methods)
        while together := list(itertools.islice(left, self.crew.count)):
            yield together

    def _try_together(self, methods: Sequence[Method]) -> list[Trial | None]:
        """The trials of methods that are drawn at once, None for those that do not run."""
        wanted = []
        for method in methods:
            try:
                method.check_family(self.family)
            except ValueError as error:
                self.skipped[method.label()] = str(error)
            else:
                if method not in self.bench.known:
                    wanted.append(method)
        for method, found in tried(self.crew, self.bench, self._timing, wanted).items() if wanted else ():
            if isinstance(found, Trial):
                self.told(found)
            else:
                self.skipped[method.label()] = found
        return [self.bench.known.get(method) for method in methods]

    def ranked(self, keep: Callable[[Method], bool] = lambda method: True) -> list[Trial]:
        """Trials within the budget, the nearest to the reference first."""
        fitting = [trial for trial in self.bench.known.values() if self.fits(trial) and keep(trial.method)]
        return sorted(fitting, key=lambda trial: trial.error(self.reference))

    # ------------------------------------------------------------------------------------------------ what is tried

    def _rivals(self) -> list[Method]:
        number = math.floor((SLACK * self.budget - self.costs.fixed) / self.costs.step + 1e-9)
        return candidates.fewer_steps(self.family, max(1, min(number, self.steps)), self.steps)

    def _published(self) -> list[Method]:
        plain = self.costs.seconds(self.steps, self.steps)
        return candidates.fixed_methods(self.shape, self.steps, plain / self.budget)

    def _whole_calls(self) -> None:
        for factor in FACTORS:
            number = self.costs.evaluations(SLACK * self.budget, self.steps * factor)
            if number < 2:
                continue
            for schedule in self._starts(min(number, self.steps)):
                on_grid = candidates.stretched(schedule, self.steps, self.steps * factor)
                self.try_all([WholeCall(steps_factor=factor, full_steps=on_grid)])
        best = next(iter(self.ranked(_is_unfitted)), None)
        if best is not None:
            method = best.method
            self.try_all(
                dataclasses.replace(method, **change)
                for change in (
                    {"order": 2},
                    {"order": 0},
                    {"space": "x0"},
                    {"space": "output"},
                    {"along": "step"},
                    {"along": "log-snr"},
                    {"predictor": "hermite", "order": 2},
                    {"predictor": "chebyshev", "order": 2},
                )
            )

    def _starts(self, number: int) -> list[Schedule]:
        """Schedules of `number` full steps on plain's grid to begin with."""
        found = [even(self.steps, number), spaced(self.steps, number, 1.5)]
        try:
            gram = self.observed.gram("velocity")
            along = self.observed.coordinates("noise")
            sensitivities: Floats | None = self.observed.sensitivities("velocity")
            for moves, gamma in ((None, 4.0), (sensitivities, 1.0), (None, 1.0), (sensitivities, 4.0)):
                best = best_full_steps(GramGaps(gram, 1, along, moves), number, gamma=gamma)
                found.append(best[number].full_steps)
        except (ValueError, KeyError, TypeError) as error:  # a sampler whose noise levels are not told, say
            self.skipped["programme"] = str(error)
        return list(dict.fromkeys(found))

    def _chosen(self) -> None:
        """Modules and tokens with chosen full steps, and fewer steps of the samplers' own grids."""
        plain = self.costs.seconds(self.steps, self.steps)
        number = max(2, self.costs.evaluations(SLACK * self.budget, self.steps))
        schedules = self._starts(min(number, self.steps))
        own = [FewerSteps(full_steps=schedule) for schedule in schedules]
        others = [
            FewerSteps(sampler=name, full_steps=schedule)
            for name in FAMILY_SAMPLERS.get(self.family, ())
            for schedule in schedules[:2]
        ]
        self.try_all([*own, *others])
        for make in (candidates.modules_chosen, candidates.tokens_chosen):
            for schedule in self._starts(max(2, number - 1))[:3]:
                for trial in self.try_all(make(schedule)):
                    self._shortened(trial, plain)

    def _shortened(self, trial: Trial, plain: float) -> None:
        """Tries the method with fewer full steps until it keeps the budget."""
        while not self.fits(trial) and not self.ended():
            full = getattr(trial.method, "full_steps", None) or ()
            each = plain / self.steps
            fewer = len(full) - max(1, math.ceil((trial.seconds - self.budget) / each))
            if fewer < 2:
                return
            schedule = self._starts(fewer)[-1]
            again = self.try_one(candidates.with_schedule(trial.method, schedule))
            if again is None or again is trial:
                return
            trial = again

    def _token_ratios(self) -> None:
        """Tries ratios of each cached step on the best token-wise method with chosen full steps."""
        ranked = self.ranked()
        base = next((trial for trial in ranked if _has_one_ratio(trial.method)), None)
        if base is None or any(_has_own_ratios(known, base.method) for known in self.bench.known):
            return
        near = base.error(self.reference) <= TOKENS_NEAR * ranked[0].error(self.reference)
        now = time.monotonic()
        until = now + (TOKENS if near else TOKENS_FAR) * max(0.0, self.deadline - now)
        TokenRatios(
            self.bench,
            self.crew,
            self.shape,
            self.family,
            self.steps,
            self.reference,
            self.budget * SLACK,
            until,
            self.try_one,
        ).improved(base)

    # ------------------------------------------------------------------------------------------------ going on

    def _refine(self) -> None:
        """Moves full steps of what is near the best, a group after the other, and fits weights, until time is up."""
        turn = 0
        while not self.ended():
            tops = self._tops()
            if not tops:
                return
            moved = False
            for top in tops:
                moved |= self._climb(top, turn)
                if isinstance(top.method, WholeCall):
                    moved |= self._fit(top)
                if self.ended():
                    return
            turn += 1
            if not moved:
                return

    def _tops(self) -> list[Trial]:
        """The best trial of each kind with chosen full steps that is near the best of all, but for fitted weights."""
        ranked = self.ranked(lambda method: not getattr(method, "weights", ()))
        if not ranked:
            return []
        least = ranked[0].error(self.reference)
        found: dict[tuple[object, ...], Trial] = {}
        for trial in ranked:
            method = trial.method
            if getattr(method, "full_steps", None) is None or trial.error(self.reference) > CLOSE * least:
                continue
            kind = (type(method), getattr(method, "steps_factor", 1), getattr(method, "sampler", None))
            found.setdefault(kind, trial)
        return list(found.values())[:4]

    def _climb(self, trial: Trial, turn: int) -> bool:
        """One round of relocations of a method's full steps: takes the first that is better."""
        method, full = trial.method, getattr(trial.method, "full_steps", ())
        factor = getattr(method, "steps_factor", 1)
        near = relocations(full, self.steps * factor, REACH * factor)
        order = np.random.default_rng([len(full), turn, *full]).permutation(len(near))
        for together in self._at_once(candidates.with_schedule(method, near[number]) for number in order):
            if self.ended():
                return False
            for moved in self._try_together(together):
                if moved is not None and moved.error(self.reference) < trial.error(self.reference):
                    return True
        return False

    def _fit_best(self) -> None:
        """Fits the weights of the best whole-call forecast on each grid, if that is near the best of all.

        This brings more than moving full steps does, so it comes before everything that may take the rest of the time.
        """
        until = self.deadline
        self.deadline = min(until, time.monotonic() + FITTING * (until - time.monotonic()))
        for top in [one for one in self._tops() if isinstance(one.method, WholeCall)]:
            if self.ended():
                break
            self._fit(top)
        self.deadline = until

    def _fit(self, trial: Trial) -> bool:
        """Fits the weights of a whole-call forecast, where that has not been done; whether that came nearer."""
        method = trial.method
        assert isinstance(method, WholeCall) and method.full_steps is not None
        if any(known.weights and known.full_steps == method.full_steps for known in self._fitted()):
            return False
        few = self.bench.prompts.batches(self.bench.model.batch)[0]  # thousands of numbers each, for dozens of weights
        share = len(few) / len(self.bench.prompts)
        if not self.time_for((2 * len(method.full_steps) + 2) * trial.seconds * share):
            return False
        try:
            along = self._coordinates(method)
        except ValueError:
            return False
        space = "velocity" if method.space == "auto" else method.space

        def with_rows(given: Rows) -> WholeCall:
            return dataclasses.replace(method, predictor="fitted", order=1, window=None, space=space, weights=given)

        def run(given: Rows) -> NDArray[np.float32]:
            return self.bench.model.sample(with_rows(given), few).latents

        def run_all(given: Sequence[Rows]) -> list[NDArray[np.float32]]:
            waves = [self.crew.draw(some, few) for some in self._at_once(map(with_rows, given))]
            made = [one.sampled for wave in waves for one in wave]  # None where memory was short in a crowd, say
            return [run(rows) if one is None else one.latents for rows, one in zip(given, made, strict=True)]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = line_rows(method.full_steps, along)
            changes = directions(method.full_steps, along)
            wanted = self.bench.references[self.reference][: len(few)]
            found = fitted(start, changes, run, wanted, run_all=run_all)
        after = self.try_one(with_rows(found))
        return after is not None and after.error(self.reference) < trial.error(self.reference)

    def time_for(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return time.monotonic() + seconds <= self.deadline

    def _fitted(self) -> Sequence[WholeCall]:
        return [one for one in self.bench.known if isinstance(one, WholeCall) and one.weights]

    def _coordinates(self, method: WholeCall) -> tuple[float, ...]:
        """Noise levels of the grid that a method runs on."""
        with observed(self.bench.model.pipe) as seen:
            self.bench.model.sample(method, self.bench.prompts.batches(1)[0])
        return seen.coordinates("noise")


def _has_one_ratio(method: Method) -> bool:
    """Whether it is a token-wise method with chosen full steps, and the same ratio in all cached ones."""
    return candidates.group_of(method) == "tokens" and getattr(method, "ratios", None) is None


def _has_own_ratios(method: Method, base: Method) -> bool:
    """Whether it is `base` with other ratios, of each cached step."""
    return isinstance(method, ToCa) and method.ratios is not None and dataclasses.replace(method, ratios=None) == base
