"""Quality against latency as a plot: a line for each N, its points for each R, beside fewer steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from dita.demo.grid import HIGHEST_PSNR, Point
from dita.methods import FewerSteps, Plain
from dita.plots.theme import ThemeName, dress, new_figure, theme_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Quality = Literal["psnr", "ssim", "right"]
AXES: dict[Quality, str] = {
    "psnr": "PSNR to plain, dB (up is closer)",
    "ssim": "SSIM to plain (up is closer)",
    "right": "pictures that are right, % (up is better)",
}
SERIES = ("#3b82f6", "#e08a00", "#0fa968", "#a855f7", "#e0458b", "#0aa5c0")  # to be read on light and dark alike


def plot_grid(
    points: Sequence[Point], quality: Quality, theme: ThemeName = "light", width: float = 9.0
) -> Figure | None:
    """The points that have a number for `quality`, over seconds a picture; None where none has.

    Points of one N are joined and named by it, each with its R; fewer steps are a dashed line, the rival to beat: what
    lies above and to the left of it earns its place. The plain pipeline's seconds are a vertical line.
    """
    colours = theme_of(theme)
    lines = _lines(points, quality)
    if not lines:
        return None
    figure = new_figure(colours, width, width * 0.5)
    axes: Any = figure.subplots()
    dress(axes, colours)
    axes.grid(True, color=colours.line, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    number = 0
    for name, found in lines.items():
        rival = found[0][2].rival
        colour = colours.soft if rival else SERIES[number % len(SERIES)]
        number += not rival
        xs, ys = [x for x, _, _ in found], [y for _, y, _ in found]
        axes.plot(xs, ys, "s--" if rival else "o-", color=colour, linewidth=1.2, markersize=6, label=name)
        for place, (x, y, point) in enumerate(found):  # neighbours are named above and below in turn
            offset: dict[str, Any] = {"xytext": (6, -12 if place % 2 else 5), "textcoords": "offset points"}
            offset |= {"fontsize": 8, "color": colour}
            axes.annotate(_mark(point), (x, y), **offset)
    plain = next((point.seconds for point in points if isinstance(point.method, Plain)), None)
    if plain is not None:
        axes.axvline(plain, color=colours.soft, linewidth=1, linestyle=":")
        axes.annotate(
            "plain", (plain, 1), (-4, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right", va="top", fontsize=9, color=colours.soft,
        )  # fmt: skip
    axes.set_xlim(0, 1.08 * max(point.seconds for point in points))
    axes.margins(y=0.15)
    axes.set_xlabel("seconds a picture (left is faster)", color=colours.soft, fontsize=9)
    axes.set_ylabel(AXES[quality], color=colours.soft, fontsize=9)
    figure.legend(
        loc="outside lower center", ncols=min(len(lines), 7), frameon=False, fontsize=9, labelcolor=colours.ink
    )
    return figure


def has(points: Sequence[Point], quality: Quality) -> bool:
    """Whether any point has a number for `quality`."""
    return any(_value(point, quality) is not None for point in points)


def _lines(points: Sequence[Point], quality: Quality) -> dict[str, list[tuple[float, float, Point]]]:
    """By name: (seconds, quality, point), from left to right."""
    lines: dict[str, list[tuple[float, float, Point]]] = {}
    for point in points:
        value = _value(point, quality)
        if value is not None and not isinstance(point.method, Plain):
            lines.setdefault(_name(point), []).append((point.seconds, value, point))
    return {name: sorted(found, key=lambda one: one[0]) for name, found in lines.items()}


def _value(point: Point, quality: Quality) -> float | None:
    if quality == "psnr":
        # identical pictures are nowhere on the axis
        return None if point.psnr is None or point.psnr >= HIGHEST_PSNR else point.psnr
    return point.ssim if quality == "ssim" else None if point.right is None else 100 * point.right


def _name(point: Point) -> str:
    cycle = getattr(point.method, "cycle", None)
    return "fewer steps" if point.rival else point.method.name if cycle is None else f"{point.method.name}, N = {cycle}"


def _mark(point: Point) -> str:
    if isinstance(point.method, FewerSteps):
        return f"{point.method.fraction:.0%}"
    ratio = getattr(point.method, "ratio", None)
    return "" if ratio is None else f"R {ratio:.0%}"
