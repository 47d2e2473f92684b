"""Quality against latency as a picture inside a page, with the Pareto front: what no other method beats in both."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dita.plot_frame import Range, axis_range, clamped, point_outwards, set_limits
from dita.terminal import folded

if TYPE_CHECKING:
    from dita.comparison import Comparison, MethodResult

SERIES = 8  # colours that the page's style sheet defines
MARKERS = "osD^vPX*<>hpd8H"
"""Of the methods in turn: with 8 colours, methods of the same colour have another marker."""

METRICS = {
    "psnr": ("PSNR", "PSNR to plain, dB (up is closer)"),
    "ssim": ("SSIM", "SSIM to plain (up is closer)"),
    "judge": ("Judge", "pictures that the judge finds right, % (up is better)"),
}
"""What can be plotted: its name, and the words at the axis."""

NAME_WIDTH = 24  # characters of a name in a plot

INK, SOFT, LINE = "#010201", "#010202", "#010203"
COLOURS = tuple(f"#0101{i:02x}" for i in range(SERIES))
"""Stand-ins for the page's colours, since matplotlib takes no CSS variables; those of the methods in turn."""

FRONT = "pareto-front"
"""Identifier of the front's line in the SVG."""


LEAST_SPREAD = {"seconds": 0.1, "psnr": 3.0, "ssim": 0.03, "judge": 10.0}
"""Quartile distances that are not taken for smaller: share of the median of seconds; dB, SSIM, per cent."""

PLACES = tuple(
    (side * right, up)
    for up in (5, -13, 17, -25, 29, -37, 41, -49, 53, -61, 65)
    for right in (9, 26, 52)
    for side in (1, -1)
)
"""Where a name may stand beside its point, in points to the right and up."""

NEAR = (10.0, 18.0)
"""Points to the right and up within which a name needs no line to its point."""


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
    or dark style. Where names would lie on each other, methods have their numbers, which the page's table tells; long
    names are their number and beginning. Outliers stand at the border, with an arrow and their values. Empty where
    there is nothing to compare.
    """
    points = [point for i, result in enumerate(comparison.results) if (point := _point(i, result, metric))]
    if not any(point.number for point in points):  # plain alone
        return ""
    labels = [result.label for result in comparison.results]
    svg, faults = _drawn(comparison, metric, points, plot_names(labels))
    if faults:
        svg, _ = _drawn(comparison, metric, points, [str(number) for number in range(len(labels))])
    return as_page_element(svg, f"{METRICS[metric][0]} against seconds {comparison.a_picture}")


def _drawn(comparison: Comparison, metric: str, points: Sequence[Point], names: Sequence[str]) -> tuple[str, int]:
    """The plot as matplotlib writes it, and how many names lie on something."""
    import matplotlib

    crowded = len(points) > SERIES
    plain = comparison.results[0].seconds_per_image.median
    middle = statistics.median(result.seconds_per_image.median for result in comparison.results)
    seconds = axis_range([*(point.seconds for point in points), plain], LEAST_SPREAD["seconds"] * middle)
    quality = axis_range([point.quality for point in points], LEAST_SPREAD[metric])
    with matplotlib.rc_context(page_style(metric)):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.4, 5.8) if crowded else (5.6, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.grid(True, linewidth=0.6)
        axes.set_axisbelow(True)
        set_limits(axes, seconds, quality)
        front = [points[i] for i in pareto_front([(point.seconds, point.quality) for point in points])]
        inside = [p for p in front if _place(p, seconds, quality) == (p.seconds, p.quality)]
        line: dict[str, Any] = {"color": SOFT, "linewidth": 1, "gid": FRONT, "zorder": 1}
        axes.plot([p.seconds for p in inside], [p.quality for p in inside], **line)
        for point in points:
            _draw_point(axes, point, _place(point, seconds, quality), crowded)
        line_x = _draw_plain(axes, plain)
        how = "as noted, not interleaved" if comparison.folders else "median"
        axes.set_xlabel(f"seconds {comparison.a_picture}, {how} (left is faster); the line: the Pareto front")
        axes.set_ylabel(METRICS[metric][1])
        figure.canvas.draw()  # settles the layout, without which nothing can be placed
        placed = [_named(point, names[point.number], _place(point, seconds, quality)) for point in points]
        faults = label_points(axes, placed, COLOURS, line_x)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue(), faults


def plot_names(labels: Sequence[str]) -> list[str]:
    """What a plot calls methods: their labels, or number and beginning of a long one and of one that stands twice."""
    names = []
    for number, label in enumerate(labels):
        short = folded(label, NAME_WIDTH)[0]
        if len(label) > NAME_WIDTH or labels.count(label) > 1:
            short = f"{number} {short}…" if short != label else f"{number} {label}"
        names.append(short)
    return names


def _place(point: Point, seconds: Range, quality: Range) -> tuple[float, float]:
    return clamped(point.seconds, seconds), clamped(point.quality, quality)


def _named(point: Point, name: str, at: tuple[float, float]) -> Point:
    """The point where it is drawn; the values of one at the border stand in its name."""
    if at == (point.seconds, point.quality):
        return point._replace(label=name)
    beyond = [f"{point.seconds:.3g} s"] * (at[0] != point.seconds) + [f"{point.quality:.3g}"] * (at[1] != point.quality)
    name = f"{name} ({', '.join(beyond)})"
    return point._replace(label=name, seconds=at[0], quality=at[1], low=at[1], high=at[1])


def _draw_point(axes: Any, point: Point, at: tuple[float, float], crowded: bool) -> None:
    colour = COLOURS[point.number % SERIES]
    if at == (point.seconds, point.quality):
        axes.errorbar(
            *at,
            xerr=[[max(0.0, point.seconds - point.fastest)], [max(0.0, point.slowest - point.seconds)]],
            yerr=[[max(0.0, point.quality - point.low)], [max(0.0, point.high - point.quality)]],
            fmt="none",
            ecolor=colour,
            elinewidth=0.6 if crowded else 1.2,
        )
    else:
        point_outwards(axes, (point.seconds, point.quality), at, colour)
    axes.plot(*at, marker=MARKERS[point.number % len(MARKERS)], markersize=7, color=colour, linestyle="none")


def _draw_plain(axes: Any, plain: float) -> float:
    """Draws the plain pipeline's seconds, or says where they are; returns the x of the line."""
    left, right = axes.get_xlim()
    if not left <= plain <= right:
        words, x, side = (
            (f"plain: {plain:.3g} s →", 1, "right") if plain > right else (f"← plain: {plain:.3g} s", 0, "left")
        )
        at: dict[str, Any] = {"xycoords": "axes fraction", "ha": side, "va": "bottom", "color": COLOURS[0]}
        axes.annotate(words, (x, 0), (-4 if x else 4, 3), textcoords="offset points", **at)
        return float(right if x else left)
    axes.axvline(plain, color=COLOURS[0], linewidth=1.2, linestyle=(0, (4, 3)))
    at_top: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
    axes.annotate("plain", (plain, 1), (-5, -3), textcoords="offset points", color=COLOURS[0], **at_top)
    return plain


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
) -> int:
    """Names every point beside it, at the first place that is still free; returns how many names lie on something.

    `line` is the x of a vertical line that names keep clear of, `others` are points without a name. A name that stands
    apart has a thin line to its point. Other points' intervals may cross a name only where no place is free.
    """
    from matplotlib.transforms import Bbox

    def around(x: float, y: float, reach: float = 5) -> Any:
        x, y = axes.transData.transform((x, y))
        return Bbox([[x - reach, y - reach], [x + reach, y + reach]])

    def interval(point: Point) -> Any:
        low, high = axes.transData.transform([(point.seconds, point.low), (point.seconds, point.high)])
        return Bbox([[low[0] - 1, low[1]], [high[0] + 1, high[1]]])

    frame = axes.get_window_extent()
    line_x = axes.transData.transform((line, 0))[0]
    solid = [around(point.seconds, point.quality) for point in points] + [around(x, y, 4) for x, y in others]
    solid += [text.get_window_extent() for text in axes.texts if text.get_text()]
    thin = [interval(point) for point in points] + [Bbox([[line_x - 2, frame.y0], [line_x + 2, frame.y1]])]
    unplaced = 0
    for point in sorted(points, key=lambda point: -point.quality):
        name = axes.annotate(point.label, (point.seconds, point.quality), PLACES[0], textcoords="offset points")
        name.set_color(colours[point.number % SERIES])
        faults: dict[tuple[int, int], int] = {}
        for place in PLACES:
            box = _box_at(name, place)
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
            faults[place] = 10 * sum(map(box.overlaps, solid)) + sum(map(box.overlaps, thin)) + 30 * outside
            if not faults[place]:
                break
        best = min(faults, key=lambda place: faults[place])
        box = _box_at(name, best)
        solid.append(box)
        unplaced += faults[best] >= 10
        if abs(best[0]) > NEAR[0] or not -NEAR[1] < best[1] < NEAR[1]:
            _tie(axes, point, box, name.get_color())
    return unplaced


def _box_at(name: Any, place: tuple[int, int]) -> Any:
    """Moves a name to a place beside its point; returns what it covers."""
    name.set_position(place)
    name.set_horizontalalignment("left" if place[0] > 0 else "right")
    return name.get_window_extent()


def _tie(axes: Any, point: Point, box: Any, colour: str) -> None:
    """A thin line from a point to the nearest spot of its name."""
    x, y = axes.transData.transform((point.seconds, point.quality))
    near = (min(max(x, box.x0), box.x1), min(max(y, box.y0 + 2), box.y1 - 2))
    ends = axes.transData.inverted().transform([(x, y), near])
    axes.plot(ends[:, 0], ends[:, 1], color=colour, linewidth=0.5, zorder=1.5)


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
