"""Quality against seconds of what a tuning tried, as pictures inside its page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, get_args

import numpy as np

from dita.plot_frame import axis_range, clamped, point_outwards, set_limits
from dita.quality_plot import (
    COLOURS,
    FRONT,
    INK,
    SOFT,
    Point,
    as_page_element,
    label_points,
    page_style,
    pareto_front,
)
from dita.tuning.results import Group, Tuning

GROUPS: tuple[Group, ...] = get_args(Group)
MARKERS = dict(zip(GROUPS, "Xs^oDv", strict=True))
"""Shapes that tell the groups apart where colours do not; `templates/report.html.j2` draws the same."""
HOLLOW: frozenset[Group] = frozenset(("published", "sampler"))

WIDE, NARROW = (6.4, 4.3), (4.3, 4.3)
"""Inches: on a desk, and on a phone, where the page shows it as large."""

LEAST_SPREAD = (0.1, 3.0)
"""Quartile distances that are not taken for smaller: share of the median of seconds; decibels."""


@dataclass(frozen=True)
class Mark:
    """A method in a plot. `name` is written beside it, if it has one; `words` are shown to a pointer."""

    group: Group
    seconds: float
    quality: float
    words: str
    name: str = ""
    chosen: bool = False
    between: tuple[float, float, float, float] | None = None
    """Quartiles of seconds and interval of quality."""


@dataclass(frozen=True)
class Frame:
    """The part of the plane that a plot shows: what lies beyond `low` or `high` is drawn at the border."""

    seconds: tuple[float, float]
    quality: tuple[float, float]

    def holds(self, mark: Mark) -> bool:
        """Whether the mark is where it belongs."""
        inside = self.seconds[0] <= mark.seconds <= self.seconds[1]
        return inside and self.quality[0] <= mark.quality <= self.quality[1]

    def place(self, mark: Mark) -> tuple[float, float]:
        """Where the mark is drawn."""
        return clamped(mark.seconds, self.seconds), clamped(mark.quality, self.quality)


def frame_of(marks: Sequence[Mark]) -> Frame:
    """What is to be seen of the plane: all marks but outliers, and those with a name in any case."""
    kept = [mark for mark in marks if mark.name or mark.chosen]
    around = [one for mark in kept if mark.between for one in (mark.between[:2],)]
    heights = [one for mark in kept if mark.between for one in (mark.between[2:],)]
    return Frame(
        _range([m.seconds for m in marks], [m.seconds for m in kept] + [v for a in around for v in a], 0),
        _range([m.quality for m in marks], [m.quality for m in kept] + [v for a in heights for v in a], 1),
    )


def _range(values: Sequence[float], wanted: Sequence[float], axis: int) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    middle = abs(float(np.median(finite))) if finite and axis == 0 else 1.0
    return axis_range(values, LEAST_SPREAD[axis] * middle, wanted)


def front_plot(
    marks: Sequence[Mark],
    tuning: Tuning,
    plain_seconds: float,
    *,
    quality: str,
    words: str,
    salt: str,
    size: tuple[float, float] = WIDE,
    front: bool = True,
) -> str:
    """Quality against seconds an image as an SVG element, whose colours are the page's.

    Args:
        marks: at least one of them finite.
        plain_seconds: of the plain pipeline, measured as the marks are.
        quality: what the other axis is, in words; PSNR is held against a goal of PSNR.
        words: what is shown, to those who do not see it.
        salt: keeps identifiers apart from those of other plots of the page.
        size: inches.
        front: draws the Pareto front.
    """
    import matplotlib

    frame = frame_of(marks)
    with matplotlib.rc_context(page_style(salt)):
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.grid(True, linewidth=0.6)
        axes.set_axisbelow(True)
        set_limits(axes, frame.seconds, frame.quality)
        if front:
            _draw_front(axes, [mark for mark in marks if frame.holds(mark)])
        for number, mark in enumerate(marks):
            _draw_mark(axes, mark, frame, f"{salt}-{number}", many=len(marks) > 20)
        goal = _draw_lines(axes, tuning, frame, plain_seconds, quality.startswith("PSNR"))
        axes.set_xlabel("seconds an image (left is faster)")
        axes.set_ylabel(quality)
        figure.canvas.draw()  # settles the layout, without which nothing can be placed
        _name(axes, marks, frame, goal)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = as_page_element(buffer.getvalue(), escape(words)).replace(f'id="{FRONT}"', f'id="{salt}-{FRONT}"')
    for number, mark in enumerate(marks):
        opening = f'<g id="{salt}-{number}">'
        svg = svg.replace(opening, f"{opening}<title>{escape(mark.words)}</title>", 1)
    return svg


def _draw_front(axes: Any, marks: Sequence[Mark]) -> None:
    points = [(mark.seconds, mark.quality) for mark in marks]
    front = [points[i] for i in pareto_front(points)]
    axes.plot(*zip(*front, strict=True), color=SOFT, linewidth=1.1, gid=FRONT, zorder=1)


def _draw_mark(axes: Any, mark: Mark, frame: Frame, gid: str, many: bool) -> None:
    x, y = frame.place(mark)
    colour, hollow = COLOURS[GROUPS.index(mark.group)], mark.group in HOLLOW
    if mark.between and frame.holds(mark):
        fastest, slowest, low, high = mark.between
        bars = {"xerr": [[x - fastest], [slowest - x]], "yerr": [[y - low], [high - y]]}
        axes.errorbar(x, y, **bars, fmt="none", ecolor=colour, elinewidth=1.2)
    axes.plot(
        [x],
        [y],
        marker=MARKERS[mark.group],
        markersize=(5.5 if many else 8) + (2 if mark.chosen else 0),
        markerfacecolor="none" if hollow else colour,
        markeredgecolor=colour,
        markeredgewidth=1.3 if hollow else 0.5,
        linestyle="none",
        gid=gid,
        zorder=4 if mark.chosen else 3,
    )
    if mark.chosen:
        ring = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "markeredgecolor": INK}
        axes.plot([x], [y], **ring, markeredgewidth=1.4, linestyle="none", zorder=5)
    if not frame.holds(mark):
        point_outwards(axes, (mark.seconds, mark.quality), (x, y), colour)


def _draw_lines(axes: Any, tuning: Tuning, frame: Frame, plain: float, is_psnr: bool) -> float:
    """Draws the goal, and the plain pipeline's seconds where they are near; returns the goal's seconds or NaN."""
    goal = tuning.goal
    dashed: dict[str, Any] = {"linewidth": 1.3, "linestyle": (0, (4, 3)), "zorder": 2}
    if goal.psnr is not None:
        if is_psnr and frame.quality[0] <= goal.psnr <= frame.quality[1]:
            axes.axhline(goal.psnr, color=INK, **dashed)
            above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            axes.annotate(f"goal: {goal}", (1, goal.psnr), (-4, 2), textcoords="offset points", color=INK, **above)
        seconds = math.nan
    else:
        seconds = plain / goal.speedup if goal.speedup is not None else float(goal.seconds or math.nan)
    left, right = axes.get_xlim()
    for at, what, colour in ((seconds, f"goal: {goal}", INK), (plain, "plain", SOFT)):
        if not left <= at <= right:
            continue
        axes.axvline(at, color=colour, **dashed)
        before = at > (left + right) / 2
        side: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "right" if before else "left"}
        axes.annotate(
            what, (at, 1), (-4 if before else 4, 3), textcoords="offset points", va="bottom", color=colour, **side
        )
    if plain > right:
        beyond: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "va": "bottom", "color": SOFT}
        axes.annotate(f"plain: {plain:.3g} s →", (1, 0), (-4, 3), textcoords="offset points", **beyond)
    return seconds if left <= seconds <= right else math.nan


def _name(axes: Any, marks: Sequence[Mark], frame: Frame, line: float) -> None:
    """Writes the names, each once, where nothing else is."""
    named, others = [], []
    for mark in marks:
        x, y = frame.place(mark)
        if not mark.name:
            others.append((x, y))
            continue
        fastest, slowest, low, high = mark.between or (x, x, y, y)
        named.append(Point(mark.name, x, fastest, slowest, y, low, high, GROUPS.index(mark.group)))
    if named:
        label_points(axes, named, COLOURS, axes.get_xlim()[0] if math.isnan(line) else line, others)
