"""The pipeline as it is, and the same with fewer steps: what every cache is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dita.methods.method import Method, checked_run
from dita.plan import Plan, full_step
from dita.shapes import Shape


@dataclass(frozen=True)
class Plain(Method):
    """The pipeline as it is: every step in full."""

    name: ClassVar[str] = "plain"

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        return Plan(self, shape, (full_step(shape),) * steps, steps)


@dataclass(frozen=True)
class FewerSteps(Method):
    """The honest rival of every cache: the same sampler with a `fraction` of the steps, spaced anew by itself.

    `fraction` in (0, 1]; the number of steps is rounded, and at least 1.
    """

    name: ClassVar[str] = "steps"
    positional: ClassVar[tuple[str, ...]] = ("fraction",)

    fraction: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")

    def run_steps(self, steps: int) -> int:
        return max(1, round(steps * self.fraction))

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        return Plan(self, shape, (full_step(shape),) * self.run_steps(steps), steps)
