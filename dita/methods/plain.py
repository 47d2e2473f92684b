"""The pipeline as it is, and the same with fewer steps: what every cache is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dita.methods.full_steps import ChosenSteps
from dita.methods.method import Method, checked_run
from dita.methods.parameters import Range
from dita.plan import Plan, full_step
from dita.samplers import FAMILY_SAMPLERS, Sampler
from dita.shapes import Shape


@dataclass(frozen=True)
class Plain(Method):
    """The pipeline as it is: every step in full."""

    name: ClassVar[str] = "plain"

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        return Plan(self, shape, (full_step(shape),) * steps, steps)


@dataclass(frozen=True)
class FewerSteps(ChosenSteps):
    """A `fraction` of the steps, spaced anew by the sampler: the honest rival of every cache.

    The number of steps is rounded, and at least 1.

    Fields:
        fraction: share of the steps that are taken, in (0, 1].
        sampler: one of diffusers' multistep samplers in place of the pipeline's own, made from its configuration, with
            flow sigmas for flow matching: `unipc`, `dpm++` or `deis`; None keeps the own one.
        full_steps: chosen steps in place of a fraction: of the grid that the sampler has for the plain number of
            steps, those at these numbers, from 0 on; in short full=0/3/7. For samplers whose steps are given by noise
            levels.
    """

    name: ClassVar[str] = "steps"
    positional: ClassVar[tuple[str, ...]] = ("fraction", "sampler")

    fraction: Annotated[float, Range(0, 1, above=True)] = 0.5
    sampler: Sampler | None = None
    full_steps: tuple[int, ...] | None = field(default=None, kw_only=True)
    full_of: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_full_steps()

    def check_family(self, family: str) -> None:
        super().check_family(family)
        offered = FAMILY_SAMPLERS.get(family, ())
        if self.sampler is not None and self.sampler not in offered:
            raise ValueError(
                f"sampler {self.sampler!r} is not offered for {family}, where it was not seen to converge; offered:"
                f" {', '.join(offered) or 'none'}"
            )

    def run_steps(self, steps: int) -> int:
        return len(self.full_steps) if self.full_steps is not None else max(1, round(steps * self.fraction))

    def grid_steps(self, steps: int) -> int:
        return steps if self.full_steps is not None else self.run_steps(steps)

    def steps_of_grid(self, timesteps: Sequence[float]) -> tuple[int, ...]:
        """The steps that are taken of a sampler's grid. Warns where they are carried over, and raises `ValueError` for
        steps beyond it."""
        chosen = self.chosen_steps(None, len(timesteps), timesteps)
        return tuple(range(len(timesteps))) if chosen is None else chosen

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        taken = self.run_steps(steps)
        if self.full_steps is not None:
            taken = len(timesteps or self.chosen_steps(shape, steps) or ())
        return Plan(self, shape, (full_step(shape),) * taken, steps)
