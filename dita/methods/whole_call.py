"""Whole-call forecasts: cached steps make no transformer call at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from dita.families import Phase
from dita.methods.full_steps import ChosenSteps, chosen_positions
from dita.methods.method import (
    Method,
    check_count,
    checked_run,
    warn_of_a_plan_that_saves_nothing,
)
from dita.methods.parameters import Cycle, OneOf, Range, Scale, Warmup
from dita.plan import Along, CallForecast, Plan, Predictor, Space, full_step, stored_step
from dita.shapes import Kind, Shape
from dita.values import shown

FACTORS = (1, 2, 3)
LARGEST_ORDER = 3
CHEBYSHEV_WINDOW = 5


@dataclass(frozen=True)
class WholeCall(ChosenSteps):
    """Cached steps skip the whole transformer call; its output is a weighted sum of the last full ones (dita's own).

    A cached step costs nothing but the scheduler's update, and the store is `order` + 1 latents. Where the full steps
    lie decides how close the picture is: `dita tune` chooses them for a model.

    Fields:
        cycle: N, full steps are N apart (at least 1; 1 is the plain pipeline).
        order: of the polynomial through the last outputs, 0 to 3; 0 reuses the last one. 1 is the safe choice.
        predictor: `lagrange` is that polynomial; `hermite` the scaled Hermite polynomials of HiCache (arXiv
            2508.16984); `chebyshev` a regularised fit to the last `window` outputs (Spectrum, arXiv 2603.01623), of
            degree `order`; `fitted` takes `weights` that a calibration found (JSON only).
        space: what is forecast: `output` of the model, the clean sample `x0`, or the `velocity`, as `auto` does.
        along: the coordinate of the forecast: `step` number, `noise` level (the timestep), or `log-snr`; `auto` is the
            noise level, and the step number where a sampler evaluates the model twice at a level.
        steps_factor: 1, 2 or 3 sampler steps for each of plain's, on a finer grid from the same noise.
        warmup: full steps at the start; None is `order` + 1.
        scale: of `hermite`, in (0, 1].
        window: outputs that are stored; None is `order` + 1, and 5 for `chebyshev`.
        weights: of `fitted`: for each cached step, those of the last outputs, oldest first.
    """

    name: ClassVar[str] = "call"
    positional: ClassVar[tuple[str, ...]] = ("cycle", "order")
    paper: ClassVar[str] = "dita's own; predictors of arXiv 2503.06923, 2508.16984 and 2603.01623"
    extends: ClassVar[tuple[str, ...]] = Method.families

    cycle: Cycle = 3
    order: Annotated[int, Range(0, why="0 is reuse")] = 1
    predictor: Predictor = "lagrange"
    space: Space = "auto"
    along: Along = "auto"
    steps_factor: Annotated[int, OneOf(FACTORS)] = 1
    warmup: Warmup | None = None
    scale: Scale = 0.5
    window: int | None = None  # at least `order` + 1, but of `chebyshev`
    weights: tuple[tuple[float, ...], ...] = ()
    full_steps: tuple[int, ...] | None = field(default=None, kw_only=True)
    full_of: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weights", _rows(self.weights))
        if self.order > LARGEST_ORDER and self.predictor != "chebyshev":
            raise ValueError(f"order must be at most {LARGEST_ORDER}, got {self.order}: higher ones swing")
        self.check_full_steps()
        if self.predictor == "hermite" and self.along not in ("auto", "step"):
            raise ValueError(f"predictor 'hermite' goes along 'step' only, got {self.along!r}")
        least = 1 if self.predictor == "chebyshev" else self.order + 1
        if self.window is not None:
            check_count("window", self.window, "outputs that the forecast needs", least=least)
        if (self.predictor == "fitted") != bool(self.weights):
            raise ValueError("predictor 'fitted' needs weights, and the others take none")

    def run_steps(self, steps: int) -> int:
        return steps * self.steps_factor

    @property
    def stored(self) -> int:
        """How many outputs are stored, at most."""
        if self.predictor == "fitted":
            return max(len(row) for row in self.weights)
        return self.window or (CHEBYSHEV_WINDOW if self.predictor == "chebyshev" else self.order + 1)

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        count = self.run_steps(steps) if timesteps is None else len(timesteps)
        chosen = self._on_grid().chosen_steps(shape, count, timesteps)
        if chosen is None:
            warmup = min(self.order + 1 if self.warmup is None else self.warmup, count)
            chosen = (*range(warmup - 1), *range(warmup - 1, count, self.cycle))
        full, cached = full_step(shape), stored_step(shape, Kind.CALL)
        positions = chosen_positions(chosen, count)
        taken = tuple(full if phase is Phase.FULL else cached for phase, _ in positions)
        if self.weights and len(self.weights) != taken.count(cached):
            raise ValueError(
                f"weights are of a run with {len(self.weights)} cached steps, and this one has {taken.count(cached)}"
            )
        forecast = CallForecast(
            self.order, self.predictor, self.space, self.along, self.scale, self.stored, self.weights
        )
        plan = Plan(self, shape, taken, steps, call_forecast=forecast)
        warn_of_a_plan_that_saves_nothing(plan, self.cycle, self.warmup or self.order + 1)
        return plan

    def _on_grid(self) -> WholeCall:
        """With `full_of` in steps of the grid."""
        if self.full_of is None:
            return self
        return replace(
            self, full_of=self.full_of * self.steps_factor, steps_factor=1, weights=(), predictor="lagrange", order=1
        )

    def label(self) -> str:
        return super().label() if not self.weights else replace(self, weights=(), predictor="lagrange").label() + FITTED


FITTED = ":predictor=fitted"


def _rows(given: Any) -> tuple[tuple[float, ...], ...]:
    """Rows of finite numbers. Raises `ValueError` for anything else."""
    try:
        rows = tuple(tuple(float(value) for value in row) for row in given)
    except (TypeError, ValueError):
        rows = ((math.nan,),)
    if not all(row and all(map(math.isfinite, row)) for row in rows):
        raise ValueError(f"weights must be rows of numbers, one row for each cached step, got {shown(given)}")
    return rows
