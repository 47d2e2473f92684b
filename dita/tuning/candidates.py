"""What `dita tune` tries: fewer steps and samplers, every fixed method, and methods with chosen full steps."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

from dita.methods import (
    FORA,
    PAB,
    DeltaDiT,
    DuCa,
    FewerSteps,
    Method,
    TaylorSeer,
    TGate,
    ToCa,
    WholeCall,
)
from dita.samplers import FAMILY_SAMPLERS
from dita.shapes import Shape
from dita.tuning.results import Group
from dita.tuning.schedules import Schedule

LONGEST_CYCLE = 14
SLACK = 0.95
"""Share of the wanted FLOPs ratio from which on a fixed method is tried: seconds decide later."""

_FIXED: tuple[Callable[[int], Method], ...] = (
    FORA,
    lambda cycle: ToCa(cycle, 0.9),
    lambda cycle: ToCa(cycle, 0.9, "random"),
    lambda cycle: ToCa(cycle, 0.9, forecast=1),
    lambda cycle: DuCa(cycle, 0.9),
    lambda cycle: TaylorSeer(cycle, 1),
    lambda cycle: TaylorSeer(cycle, 2),
    lambda cycle: TaylorSeer(cycle, 2, basis="hermite"),
    lambda cycle: TaylorSeer(cycle, 1, lite=True),
    lambda cycle: TaylorSeer(cycle, 2, lite=True),
    lambda cycle: TaylorSeer(cycle, 1, ramp=True),
    lambda cycle: FORA(cycle, modules="attention"),
    lambda cycle: TaylorSeer(cycle, 1, modules="attention"),
    DeltaDiT,
)
"""Methods as published, by their cycle."""

_OTHERS: tuple[Method, ...] = (TGate(), PAB(1), PAB(2), PAB(3))


def fewer_steps(family: str, evaluations: int, steps: int) -> list[Method]:
    """So many steps of the pipeline's sampler, and of every one that the family has."""
    if not 1 <= evaluations <= steps:
        return []
    fraction = next(
        rounded
        for digits in range(2, 12)
        if round(steps * (rounded := round(evaluations / steps, digits))) == evaluations
    )
    return [FewerSteps(fraction), *(FewerSteps(fraction, name) for name in FAMILY_SAMPLERS.get(family, ()))]


def fixed_methods(shape: Shape, steps: int, ratio: float) -> list[Method]:
    """Every published method at the shortest cycle whose FLOPs ratio is about `ratio`."""
    found = []
    for make in _FIXED:
        for cycle in range(2, min(LONGEST_CYCLE, steps) + 1):
            method = make(cycle)
            if _flops_ratio(method, shape, steps) >= SLACK * ratio:
                found.append(method)
                break
    return [*found, *(one for one in _OTHERS if _flops_ratio(one, shape, steps) >= SLACK * ratio)]


def _flops_ratio(method: Method, shape: Shape, steps: int) -> float:
    """0 where the method does not run on the model, or not with so many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            method.check_family(shape.family)
            return method.plan(shape, steps).flops_ratio()
        except ValueError:
            return 0.0


def stretched(schedule: Sequence[int], steps: int, to: int) -> Schedule:
    """A schedule of `steps` on a grid of `to`, at the same shares of the run.

    Steps that would coincide move on to the next free one.
    """
    chosen: list[int] = []
    for number, step in enumerate(schedule):
        earliest = chosen[-1] + 1 if chosen else 0
        chosen.append(min(max(round(step * to / steps), earliest), to - len(schedule) + number))
    return tuple(chosen)


def modules_chosen(schedule: Schedule) -> list[Method]:
    """Methods that store every module's output, or that of the last block, with these full steps."""
    return [
        FORA(full_steps=schedule),
        TaylorSeer(order=1, full_steps=schedule),
        TaylorSeer(order=2, full_steps=schedule),
        TaylorSeer(order=1, lite=True, full_steps=schedule),
    ]


def tokens_chosen(schedule: Schedule, ratios: Sequence[float] = (0.9, 0.7)) -> list[Method]:
    """Token-wise methods with these full steps."""
    made: list[Method] = []
    for ratio in ratios:
        made += [
            ToCa(ratio=ratio, full_steps=schedule),
            ToCa(ratio=ratio, forecast=1, full_steps=schedule),
            DuCa(ratio=ratio, full_steps=schedule),
        ]
    return made


def with_schedule(method: Method, schedule: Schedule) -> Method:
    """The same method with other full steps; if there are not as many of them, without ratios of single steps."""
    changes: dict[str, object] = {"full_steps": schedule}
    if getattr(method, "ratios", None) is not None and len(schedule) != len(getattr(method, "full_steps", ())):
        changes["ratios"] = None
    found: Method = dataclasses.replace(method, **changes)
    return found


def group_of(method: Method) -> Group:
    """What kind of candidate a method is."""
    if isinstance(method, FewerSteps):
        return "sampler" if method.sampler is not None else "fewer steps"
    if isinstance(method, WholeCall):
        return "whole calls"
    if getattr(method, "full_steps", None) is None:
        return "published"
    return "tokens" if token_wise(method) else "chosen steps"


def token_wise(method: Method) -> bool:
    """Whether cached steps of a method compute some of the tokens."""
    return isinstance(method, ToCa) and method.computes_tokens
