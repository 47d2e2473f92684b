"""Quality against latency as a picture inside a page, with the Pareto front: what no other method beats in both."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dita.compare import Comparison, MethodResult

SERIES = 8  # colours that the page's style sheet defines
MARKERS = "osD^vPX*<>hpd8H"
"""Of the methods in turn: with 8 colours, methods of the same colour have another marker."""

METRICS = {
    "psnr": ("PSNR", "PSNR to plain, dB (up is closer)"),
    "ssim": ("SSIM", "SSIM to plain (up is closer)"),
    "judge": ("Judge", "pictures that the judge finds right, % (up is better)"),
}
"""What can be plotted: its name, and the words at the axis."""


INK, SOFT, LINE = "#010201", "#010202", "#010203"
COLOURS = tuple(f"#0101{i:02x}" for i in range(SERIES))
"""Stand-ins for the page's colours, since matplotlib takes no CSS variables; those of the methods in turn."""

FRONT = "pareto-front"
"""Identifier of the front's line in the SVG."""


class Point(NamedTuple):
    """A method in the plot: median seconds an image and quality, with what lies around them."""

    label: str
    seconds: float
    fastest: float
    slowest: float
    quality: float
    low: float
    high: float
    number: int


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the points (seconds, quality) no other one beats: is as fast and as good, and better in one.

    Returns their numbers, fastest first. Of equal points all are in it.
    """

    def beaten(seconds: float, quality: float) -> bool:
        return any(s <= seconds and q >= quality and (s, q) != (seconds, quality) for s, q in points)

    kept = [i for i, point in enumerate(points) if not beaten(*point)]
    return sorted(kept, key=lambda i: points[i])


def page_style(salt: str) -> dict[Any, Any]:
    """Settings of matplotlib for plots inside a page; `salt` keeps identifiers of one apart from those of others."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": LINE,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "grid.color": LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


def quality_plot(comparison: Comparison, metric: str) -> str:
    """Quality against latency as an SVG element: `metric` (a name of `METRICS`) over seconds an image.

    A thin line is the Pareto front among what is drawn. Colours are the page's variables, so the plot follows its light
    or dark style. Empty where there is nothing to compare.
    """
    import matplotlib

    points = [point for i, result in enumerate(comparison.results) if (point := _point(i, result, metric))]
    if not any(point.number for point in points):  # plain alone
        return ""
    crowded = len(points) > SERIES
    with matplotlib.rc_context(page_style(metric)):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.4, 5.4) if crowded else (5.6, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.grid(True, linewidth=0.6)
        axes.set_axisbelow(True)
        front = [points[i] for i in pareto_front([(point.seconds, point.quality) for point in points])]
        axes.plot([p.seconds for p in front], [p.quality for p in front], color=SOFT, linewidth=1, gid=FRONT, zorder=1)
        for point in points:
            axes.errorbar(
                point.seconds,
                point.quality,
                xerr=[[point.seconds - point.fastest], [point.slowest - point.seconds]],
                yerr=[
                    [max(0.0, point.quality - point.low)],
                    [max(0.0, point.high - point.quality)],
                ],
                fmt=MARKERS[point.number % len(MARKERS)],
                markersize=7,
                color=COLOURS[point.number % SERIES],
                elinewidth=0.6 if crowded else 1.2,
            )
        plain = comparison.results[0].seconds_per_image.median
        axes.axvline(plain, color=COLOURS[0], linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1.12 * max(result.seconds_per_image.high for result in comparison.results))
        axes.margins(y=0.18)
        at_top: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
        axes.annotate("plain", (plain, 1), (-5, -3), textcoords="offset points", color=COLOURS[0], **at_top)
        how = "as noted, not interleaved" if comparison.folders else "median"
        axes.set_xlabel(f"seconds {comparison.a_picture}, {how} (left is faster); the line: the Pareto front")
        axes.set_ylabel(METRICS[metric][1])
        figure.canvas.draw()  # settles the layout, without which nothing can be placed
        label_points(axes, points, COLOURS, plain)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return as_page_element(buffer.getvalue(), f"{METRICS[metric][0]} against seconds {comparison.a_picture}")


def _point(index: int, result: MethodResult, metric: str) -> Point | None:
    time = result.seconds_per_image
    if metric == "judge":
        share = result.judge.correct if result.judge else None
        quality, low, high = (share.share, share.low, share.high) if share else (None, None, None)
        factor = 100.0
    else:
        average = getattr(result, metric)
        quality, low, high = (average.mean, average.low, average.high) if average else (None, None, None)
        factor = 1.0
    if quality is None:
        return None
    around = [factor * (quality if value is None else value) for value in (quality, low, high)]
    return Point(result.label, time.median, time.low, time.high, around[0], around[1], around[2], index)


def label_points(
    axes: Any,
    points: Sequence[Point],
    colours: Sequence[str],
    line: float,
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Names every point beside it, at the first place that is still free.

    `line` is the x of a vertical line that names keep clear of, `others` are points without a name.
    """
    from matplotlib.transforms import Bbox

    def interval(point: Point) -> Bbox:
        (left, bottom), (right, top) = axes.transData.transform(
            [(point.seconds, point.low), (point.seconds, point.high)]
        )
        return Bbox([[left - 5, bottom - 4], [right + 5, top + 4]])

    frame = axes.get_window_extent()
    line_x = axes.transData.transform((line, 0))[0]
    taken = [interval(point) for point in points]
    taken.append(Bbox([[line_x - 2, frame.y0], [line_x + 2, frame.y1]]))
    taken += [Bbox([[x - 4, y - 4], [x + 4, y + 4]]) for x, y in map(axes.transData.transform, others)]
    places = [(9, 5), (9, -13), (-9, 5), (-9, -13), (9, 17), (-9, 17), (9, -25), (-9, -25), (9, 29), (-9, 29)]
    for point in sorted(points, key=lambda point: -point.quality):
        best: tuple[int, Any] | None = None
        for dx, dy in places:
            side = "left" if dx > 0 else "right"
            at, colour = (point.seconds, point.quality), colours[point.number % SERIES]
            name = axes.annotate(point.label, at, (dx, dy), textcoords="offset points", ha=side, color=colour)
            box = name.get_window_extent()
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
            faults = sum(box.overlaps(other) for other in taken) + 3 * outside
            if best is None or faults < best[0]:
                if best:
                    best[1].remove()
                best = (faults, name)
            else:
                name.remove()
        if best:
            taken.append(best[1].get_window_extent())


def as_page_element(svg: str, words: str) -> str:
    """Matplotlib's file as an element of a page: no prologue, namespaces or fixed size, colours as CSS variables.

    `words` say what it shows to those who do not see it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    variables = {INK: "ink", SOFT: "soft", LINE: "line"} | {colour: f"series-{i}" for i, colour in enumerate(COLOURS)}
    for colour, variable in variables.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
