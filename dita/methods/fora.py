"""FORA: whole steps that reuse every module's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dita.families import FAMILIES, Phase
from dita.methods.full_steps import ChosenSteps, chosen_positions
from dita.methods.method import (
    Modules,
    cached_step,
    checked_run,
    warn_of_a_plan_that_saves_nothing,
)
from dita.methods.parameters import Cycle
from dita.plan import Plan, full_step
from dita.shapes import Kind, Shape


@dataclass(frozen=True)
class FORA(ChosenSteps):
    """Whole-step caching (FORA, arXiv 2407.01425): a full step, then `cycle` - 1 that reuse every module's output.

    The first step is full, on Open-Sora the first three. FLUX counts from the last full step; the others take the
    steps whose number is a multiple of `cycle`, DiT counting down to 0, so that its last step is full.

    Fields:
        cycle: N, full steps are N apart (at least 1; 1 is the plain pipeline).
        modules: what cached steps reuse: `all` as published, or `attention` alone, so that they compute every MLP
            (dita's own): slower, and on some models nearer to the plain pipeline.
    """

    name: ClassVar[str] = "fora"
    positional: ClassVar[tuple[str, ...]] = ("cycle",)
    paper: ClassVar[str] = "Selvaraju et al., FORA: Fast-Forward Caching in Diffusion Transformers, arXiv 2407.01425"

    cycle: Cycle = 3
    modules: Modules = "all"
    full_steps: tuple[int, ...] | None = field(default=None, kw_only=True)
    full_of: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_full_steps()

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        full, reuse = full_step(shape), cached_step(shape, self.modules, Kind.REUSE)
        chosen = self.chosen_steps(shape, steps, timesteps)
        settings = FAMILIES[shape.family]
        warmup = settings.reuse_warmup
        if chosen is None:
            positions = settings.positions(steps, self.cycle, warmup=warmup, varying=False, strict=False)
        else:
            positions = chosen_positions(chosen, steps)
        plan = Plan(self, shape, tuple(full if phase is Phase.FULL else reuse for phase, _ in positions), steps)
        warn_of_a_plan_that_saves_nothing(plan, self.cycle, warmup)
        return plan
