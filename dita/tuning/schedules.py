"""Full steps to begin a search with, and those near given ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Schedule: TypeAlias = tuple[int, ...]
"""Full steps of a run in ascending order, the first of them 0."""

REACH = 3


def even(steps: int, number: int) -> Schedule:
    """`number` full steps of a run of `steps`, evenly spaced. Raises `ValueError` unless it is from 1 to `steps`."""
    return spaced(steps, number, 1.0)


def spaced(steps: int, number: int, power: float) -> Schedule:
    """`number` full steps at steps * (i / number)^power: denser at the start above 1 (2: quadratic), at the end below.

    Steps that would coincide move on to the next free one. Raises `ValueError` unless `number` is from 1 to `steps`.
    """
    if not 1 <= number <= steps:
        raise ValueError(f"full steps must be from 1 to the {steps} steps of the run, got {number}")
    if not power > 0:
        raise ValueError(f"power must be above 0, got {power}")
    chosen: list[int] = []
    for i in range(number):
        wanted = int(steps * (i / number) ** power + 0.5)
        earliest = chosen[-1] + 1 if chosen else 0
        chosen.append(min(max(wanted, earliest), steps - number + i))
    return tuple(chosen)


def relocations(full_steps: Sequence[int], steps: int, reach: int = REACH) -> list[Schedule]:
    """The schedules that have one full step moved by at most `reach` places, as in BudCache (arXiv 2606.13496).

    Step 0 stays, and no two steps coincide. Each schedule is there once, the shortest moves first.
    """
    taken = set(full_steps)
    found: dict[Schedule, None] = {}
    for distance in range(1, reach + 1):
        for step in full_steps:
            for moved in (step - distance, step + distance):
                if step and 0 < moved < steps and moved not in taken:
                    found[tuple(sorted(taken - {step} | {moved}))] = None
    return list(found)
