"""Loss curves of trainings as pictures: python -m training.curves LOG.csv ... OUT.png."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

WINDOW = 5
"""Logged losses that are averaged for the line."""


def read(log: Path) -> tuple[list[int], list[float]]:
    """Steps and losses of a training's log.

    Raises:
        ValueError: the file is not such a log.
    """
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"step", "loss"} <= rows[0].keys():
        raise ValueError(f"{log} is no log of a training: it has no columns step and loss")
    return [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]


def plot(logs: Sequence[Path], out: Path) -> None:
    """Draws the loss of each log over its steps, on a logarithmic scale, side by side, into one PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(logs), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, log in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs, strict=True):
        steps, losses = read(log)
        starts = range(max(1, len(losses) - WINDOW + 1))
        smooth = [sum(losses[i : i + WINDOW]) / len(losses[i : i + WINDOW]) for i in starts]
        axes.plot(steps, losses, color="#9db4c8", linewidth=0.8)
        axes.plot(steps[-len(smooth) :], smooth, color="#1f4e79", linewidth=1.5)
        axes.set(title=log.stem, xlabel="step", ylabel="loss", yscale="log")
        axes.grid(True, which="both", linewidth=0.3)
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    *given, last = map(Path, sys.argv[1:])
    plot(given, last)
