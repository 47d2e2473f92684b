"""A benchmark as a table in the terminal, and as JSON."""

from __future__ import annotations

import dataclasses
from statistics import median
from typing import Any

from rich.table import Table

from dita.bench.job import Benchmark, Row

LEGEND = (
    "s: median of a run of the sampling loop. Ratios of seconds and FLOPs: plain over this row; efficiency: the former"
    " over the latter."
    " FLOPs of methods are those of their plans, scores left out; of all else, counted. / roofline: seconds over those"
    " that the counted operations take at the measured peak. error: distance to plain's final latents, over the way"
    " plain went. rivals: @ full steps to match."
)


def table(result: Benchmark) -> Table:
    """One line for each contender."""
    shown = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("", overflow="fold")
    for head in ("s", "s\nratio", "FLOPs\nratio", "effi-\nciency", "steps: ms", "peak\nMiB", "/ roof-\nline", "error"):
        shown.add_column(head, justify="right" if head != "steps: ms" else "left", no_wrap=True)
    for row in result.rows:
        plain = row.role == "plain"
        shown.add_row(
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
    return shown


def _steps(row: Row) -> str:
    return ", ".join(f"{time.count} {kind} {1e3 * time.seconds:.2f}" for kind, time in row.steps.items())


def heading(result: Benchmark) -> str:
    """What was measured, and on what."""
    layers = " + ".join(map(str, result.sizes["layers"].values()))
    return (
        f"{result.sizes['name']}: {layers} layers of {result.sizes['width']}, {result.sizes['image_tokens']} image"
        f" tokens, {result.sizes['rows']} samples a call; {result.steps} steps, {result.dtype} on {result.device},"
        f" {result.threads} threads, compile {result.compile}; best {result.peak.flops / 1e9:,.0f} GFLOP/s,"
        f" {result.peak.bytes / 1e9:,.1f} GB/s"
    )


def as_json(result: Benchmark) -> dict[str, Any]:
    """Everything measured, JSON-ready."""
    data = dataclasses.asdict(result)
    data["refused"] = [{"label": label, "reason": reason} for label, reason in result.refused]
    return data
