"""A benchmark as a table, in the terminal and in Markdown, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import median
from typing import Any

from dita.bench.job import Benchmark, Row
from dita.bench.precision import Deviation
from dita.terminal import Column, FittingTable

LEGEND = (
    "s: median of a run of the sampling loop. Ratios of seconds and FLOPs: plain over this row; efficiency: the former"
    " over the latter."
    " FLOPs of methods are those of their plans, scores left out; of all else, counted. / roofline: seconds over those"
    " that the counted operations take at the measured peak. error: distance to plain's final latents, over the way"
    " plain went. rivals: @ full steps to match."
)
PRECISION_LEGEND = (
    "error: distance of the final latents to those of the same run in the wider type, over the way that this one went"
    " from the noise. / plain: over plain's error. same tokens: share of the chosen tokens that both runs chose."
)

HEADS = ("", "s", "s\nratio", "FLOPs\nratio", "effi-\nciency", "steps: ms", "peak\nMiB", "/ roof-\nline", "error")
PRECISION_HEADS = ("", "error", "/ plain", "same\ntokens")
LEFT = ("", "steps: ms")
"""Columns of text; all others are numbers."""
RANKS = {"s": 0, "s\nratio": 0, "FLOPs\nratio": 0, "error": 0, "steps: ms": 2}
"""Of columns where not all fit in a terminal's width, as `Column.rank`; 1 for all others."""


def lines(result: Benchmark) -> list[tuple[str, ...]]:
    """The cells below `HEADS`, one line for each contender."""
    return [_cells(row) for row in result.rows]


def _cells(row: Row) -> tuple[str, ...]:
    plain = row.role == "plain"
    return (
        row.label,
        f"{median(row.seconds):.3f}",
        f"{row.seconds_ratio:.3f}",
        f"{row.flops_ratio:.3f}",
        "" if plain else f"{row.efficiency:.3f}",
        _steps(row),
        f"{row.peak_bytes / 2**20:.1f}",
        f"{row.over_roofline:.2f}",
        "" if plain else f"{row.error:.2e}",
    )


def _steps(row: Row) -> str:
    return ", ".join(f"{time.count} {kind} {1e3 * time.seconds:.2f}" for kind, time in row.steps.items())


def precision_lines(found: Sequence[Deviation]) -> list[tuple[str, ...]]:
    """The cells below `PRECISION_HEADS`, one line for each run."""
    return [
        (
            one.label,
            f"{one.error:.2e}",
            "" if one.label == "plain" else f"{one.over_plain:.2f}",
            "" if one.same_tokens is None else f"{one.same_tokens:.1%}",
        )
        for one in found
    ]


def table(result: Benchmark) -> FittingTable:
    """One line for each contender."""
    return terminal(HEADS, lines(result))


def terminal(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> FittingTable:
    """A table for a terminal of any width, whose first column is the labels'."""
    shown = FittingTable(heads[0], [Column(head, RANKS.get(head, 1), head in LEFT) for head in heads[1:]])
    for label, *cells in lines:
        shown.add(label, cells)
    return shown


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    names = [head.replace("-\n", "").replace("\n", " ") for head in heads]
    sides = ["---" if head in LEFT else "---:" for head in heads]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (names, sides, *lines))


def heading(result: Benchmark) -> str:
    """What was measured, and on what."""
    layers = " + ".join(map(str, result.sizes["layers"].values()))
    return (
        f"{result.sizes['name']}: {layers} layers of {result.sizes['width']}, {result.sizes['image_tokens']} image"
        f" tokens, {result.sizes['rows']} samples a call; {result.steps} steps, {result.dtype} on {result.device},"
        f" {result.threads} threads, compile {result.compile}; best {result.peak.flops / 1e9:,.0f} GFLOP/s,"
        f" {result.peak.bytes / 1e9:,.1f} GB/s"
        + (
            f"; {result.earlier_rounds} of {result.repeats} rounds are of a run that was interrupted"
            if result.earlier_rounds
            else ""
        )
    )


def as_json(result: Benchmark) -> dict[str, Any]:
    """Everything measured, JSON-ready."""
    data = dataclasses.asdict(result)
    data["refused"] = [{"label": label, "reason": reason} for label, reason in result.refused]
    return data
