"""TaylorSeer: cached steps whose features are forecast from those of the full steps before."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dita.families import FAMILIES, Phase
from dita.methods.full_steps import ChosenSteps, chosen_positions, first_difference
from dita.methods.method import (
    Modules,
    cached_step,
    checked_run,
    warn_of_a_plan_that_saves_nothing,
)
from dita.methods.parameters import Cycle, Range, Scale, Warmup
from dita.plan import Basis, Forecast, Plan, Span, Step, blocks_of, full_step
from dita.shapes import Kind, Shape


class LoweredOrderWarning(UserWarning):
    """A forecast's order needs more full steps than the run has."""


@dataclass(frozen=True)
class TaylorSeer(ChosenSteps):
    """Cached steps that forecast every module's output (TaylorSeer, ICCV 2025, arXiv 2503.06923).

    After the full steps of the start, a full step every `cycle`. Each full step forms finite differences to the one
    before; between full steps, a Taylor polynomial of them continues every module's output. Nothing is computed in the
    blocks of a cached step.

    Fields:
        cycle: N, full steps are N apart (at least 1; 1 is the plain pipeline).
        order: O, of the polynomial; 0 reuses the last output, and memory grows with O + 1. An order that the run has
            too few full steps for is lowered, with a warning.
        basis: `taylor` is x^i; `hermite` replaces it by scaled Hermite polynomials (HiCache, arXiv 2508.16984), which
            grow less.
        scale: of `hermite`, in (0, 1]: c of c^i H_i(c x).
        lite: forecast the hidden state behind the last block alone: one tensor in place of one a module.
        warmup: full steps at the start; None is the reference's: 3 on FLUX, 2 on DiT. Differences begin with the last
            of them, and where `full_steps` are chosen, with the last that the run begins with, at most as many.
        ramp: after the start, full steps are 2, 3, 4 ... apart, up to `cycle` (dita's own). Features change fastest in
            the first steps, and a difference of neighbouring steps does not reach far.
        modules: what cached steps forecast: `all` as published, or `attention` alone, so that they compute every MLP
            (as diffusers' TaylorSeer does by default): slower, and on some models nearer to the plain pipeline.
    """

    name: ClassVar[str] = "taylorseer"
    positional: ClassVar[tuple[str, ...]] = ("cycle", "order")
    paper: ClassVar[str] = "Liu et al., From Reusing to Forecasting, ICCV 2025, arXiv 2503.06923"
    extends: ClassVar[tuple[str, ...]] = ("pixart", "opensora")

    cycle: Cycle = 5
    order: Annotated[int, Range(0, why="0 is reuse")] = 2
    basis: Basis = "taylor"
    scale: Scale = 0.5
    lite: bool = False
    warmup: Warmup | None = None
    ramp: bool = False
    modules: Modules = "all"
    full_steps: tuple[int, ...] | None = field(default=None, kw_only=True)
    full_of: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_full_steps()
        if self.lite and self.modules != "all":
            raise ValueError(
                f"lite forecasts what all blocks put out: it takes modules='all' only, got {self.modules!r}"
            )

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        chosen = self.chosen_steps(shape, steps, timesteps)
        settings = FAMILIES[shape.family]
        warmup = self.warmup or settings.forecast_warmup
        if chosen is None:
            since = max(warmup - 1, 1)
            positions = settings.positions(
                steps, self.cycle, warmup=warmup, varying=False, strict=False, counter=True, ramp=self.ramp
            )
        else:
            since = first_difference(chosen, warmup)
            positions = chosen_positions(chosen, steps)
        full = full_step(shape)
        cached = cached_step(shape, self.modules, Kind.SKIP if self.lite else Kind.FORECAST)
        taken = tuple(full if phase is Phase.FULL else cached for phase, _ in positions)
        blocks = blocks_of(shape)
        span = Span(blocks[0], blocks[-1])
        skips = {s: span for s, (phase, _) in enumerate(positions) if self.lite and phase is not Phase.FULL}
        forecast = formed(Forecast(self.order, self.basis, self.scale, since), taken, self.label())
        plan = Plan(self, shape, taken, steps, skips=skips, forecast=forecast)
        warn_of_a_plan_that_saves_nothing(plan, self.cycle, warmup)
        return plan


def formed(forecast: Forecast, steps: Sequence[Step], label: str) -> Forecast:
    """`forecast` with the order that the full steps of a run can form; warns where that is lower."""
    full = [s for s, step in enumerate(steps) if any(action.kind is Kind.FULL for action in step.values())]
    cached = [s for s, step in enumerate(steps) if any(action.kind is not Kind.FULL for action in step.values())]
    if not cached:
        return forecast
    possible = sum(forecast.since <= s < cached[-1] for s in full)
    if forecast.order <= possible:
        return forecast
    warnings.warn(
        f"{label}: order {forecast.order} needs more full steps than the {len(full)} of these {len(steps)} steps; it is"
        f" lowered to {possible}",
        LoweredOrderWarning,
        stacklevel=4,
    )
    return Forecast(possible, forecast.basis, forecast.scale, forecast.since)
