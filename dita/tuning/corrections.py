"""Weights of whole-call forecasts that are fitted to what a run with them misses in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dita.predictors import lagrange
from dita.tuning.schedules import Schedule
from dita.tuning.trials import SMALLEST, steady

Rows = tuple[tuple[float, ...], ...]
"""For each cached step, the weights of the last full outputs, oldest first."""

KEPT = 3
"""Outputs that fitted weights use."""


def line_rows(full_steps: Schedule, coordinates: Sequence[float], order: int = 1) -> Rows:
    """The weights of the polynomial of `order` through the last full steps, for each cached step."""
    rows = []
    known: list[int] = []
    for step in range(len(coordinates)):
        if step in full_steps:
            known.append(step)
        else:
            rows.append(lagrange([coordinates[one] for one in known[-(order + 1) :]], coordinates[step], order))
    return tuple(rows)


def directions(full_steps: Schedule, coordinates: Sequence[float]) -> list[Rows]:
    """By how much weights may change: for each gap, along the slope of the last two outputs and, where three are
    stored, along their curvature, both in proportion to the distance from the gap's full step."""
    steps = len(coordinates)
    ends = [*full_steps[1:], steps]
    found = []
    for number, (start, end) in enumerate(zip(full_steps, ends, strict=True)):
        for degree in range(1, min(number, KEPT - 1) + 1):
            nodes = [coordinates[step] for step in full_steps[number - degree : number + 1]]
            differences = _top_difference(nodes)
            scale = (coordinates[end - 1] - nodes[-1]) or 1.0
            changes = []
            for step in range(steps):
                if step in full_steps:
                    continue
                inside = start < step < end
                share = (coordinates[step] - nodes[-1]) / scale if inside else 0.0
                changes.append(tuple(share * value for value in differences) if inside else (0.0,))
            if any(any(row) for row in changes):
                found.append(tuple(changes))
    return found


def _top_difference(nodes: Sequence[float]) -> list[float]:
    """Weights of the highest divided difference of values at `nodes`, times the span of the nodes to its power."""
    weights = []
    for i, node in enumerate(nodes):
        others = [node - other for j, other in enumerate(nodes) if j != i]
        weights.append(float(np.prod([(nodes[-1] - nodes[0]) / other for other in others])))
    return weights


def changed(rows: Rows, changes: Sequence[Rows], amounts: Sequence[float]) -> Rows:
    """`rows` with each of `changes` added, times its amount."""
    result = []
    for number, row in enumerate(rows):
        total = np.zeros(KEPT)
        total[KEPT - len(row) :] += row
        for change, amount in zip(changes, amounts, strict=True):
            total[KEPT - len(change[number]) :] += amount * np.asarray(change[number])
        filled = np.flatnonzero(total)
        first = min(filled[0] if len(filled) else KEPT - 1, KEPT - len(row))
        result.append(tuple(float(value) for value in total[first:]))
    return tuple(result)


def fitted(
    rows: Rows,
    changes: Sequence[Rows],
    run: Callable[[Rows], NDArray[np.float32]],
    reference: NDArray[np.float32],
    *,
    probe: float = 0.05,
    ridge: float = 1e-3,
    chords: int = 2,
    run_all: Callable[[Sequence[Rows]], Sequence[NDArray[np.float32]]] | None = None,
) -> Rows:
    """Weights with which the final latents of `run` come nearer to `reference`: a step of Gauss and Newton.

    Each change is tried alone, by `probe`; the latents, (prompts, ...), are taken to move in proportion. Then come at
    most `chords` more steps with the same slopes, each of one run, as long as they help. Prompts count by the logarithm
    of their error, as decibels do: each is divided by its error at the start. Those that are not `steady` are left out:
    their pictures went another way, and tell nothing of small changes.

    `run_all` gives the latents of several rows, where they are made at once.

    Returns the weights of the nearest run; `rows` itself if no step comes nearer.
    """
    start = run(rows)
    kept = steady(tuple(_squares(reference - start)))
    wanted = reference[kept].astype(np.float64)
    now = start[kept].astype(np.float64)
    sizes = np.sqrt(_squares(wanted - now)).clip(1e-6)

    def scaled(latents: NDArray[np.float64]) -> NDArray[np.float64]:
        return (latents.reshape(len(latents), -1) / sizes[:, None]).ravel()

    count = len(changes)
    probes = [changed(rows, changes, [probe * (number == one) for one in range(count)]) for number in range(count)]
    tried = run_all(probes) if run_all is not None else map(run, probes)
    columns = [scaled(latents[kept].astype(np.float64) - now) / probe for latents in tried]
    jacobian = np.stack(columns, axis=1)
    inner = jacobian.T @ jacobian
    inner += ridge * np.trace(inner) / len(inner) * np.eye(len(inner))
    best, least = rows, _level(wanted - now)
    steps = np.zeros(len(changes))
    for _ in range(1 + chords):
        steps = steps + np.linalg.solve(inner, jacobian.T @ scaled(wanted - now))
        moved = changed(rows, changes, [float(value) for value in steps])
        now = run(moved)[kept].astype(np.float64)
        level = _level(wanted - now)
        if not level < least:
            break
        best, least = moved, level
    return best


def _squares(missed: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The mean square of each prompt."""
    found: NDArray[np.float64] = np.square(missed.astype(np.float64)).reshape(len(missed), -1).mean(axis=1)
    return found


def _level(missed: NDArray[np.float64]) -> float:
    """The mean over prompts of the logarithm of their error."""
    return float(np.log(_squares(missed).clip(SMALLEST)).mean())
