"""Colours of the plots, on a light and on a dark background: those of the report's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dita.values import number, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_INCHES = 100
"""Of a figure's width: more than any screen or sheet has."""

ThemeName = Literal["light", "dark"]


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. `ink` is for text, `soft` for labels, `line` for frames; the others are actions."""

    page: str
    ink: str
    soft: str
    line: str
    full: str
    merged: str
    partial: tuple[str, str]
    """From few tokens to many."""
    forecast: str
    reuse: str
    skip: str
    heat: str
    """Name of matplotlib's colours for small to large numbers; the small ones stand out from the page."""


THEMES: dict[ThemeName, Theme] = {
    "light": Theme(
        page="#ffffff",
        ink="#1c2126",
        soft="#5d6670",
        line="#c6ccd2",
        full="#1d3f8f",
        merged="#0f8a8a",
        partial=("#fbd08a", "#c2410c"),
        forecast="#c4b1ea",
        reuse="#e3e7ea",
        skip="#ffffff",
        heat="plasma_r",
    ),
    "dark": Theme(
        page="#14171a",
        ink="#e6e9ec",
        soft="#9aa4ae",
        line="#4a525b",
        full="#7aa7ff",
        merged="#2dd4bf",
        partial=("#6b4a1c", "#fb923c"),
        forecast="#6f56a8",
        reuse="#31373e",
        skip="#14171a",
        heat="plasma",
    ),
}


def theme_of(name: str) -> Theme:
    """Raises `ValueError` for a name that is none."""
    for known, theme in THEMES.items():
        if known == name:
            return theme
    raise ValueError(f"theme must be {' or '.join(get_args(ThemeName))}, got {name!r}")


def checked_width(width: float, name: str = "width") -> float:
    """Inches of a figure. Raises `ValueError` for what is no width, or height, that can be drawn."""
    inches = number(name, width)
    if not 1 <= inches <= MOST_INCHES:
        raise ValueError(f"{name} must be 1 to {MOST_INCHES} inches, got {shown(width)}")
    return inches


def new_figure(theme: Theme, width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches that no global state of matplotlib knows: safe in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=theme.page, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, theme: Theme) -> None:
    """Gives axes the colours of the theme."""
    axes.set_facecolor(theme.page)
    axes.tick_params(colors=theme.soft, labelsize=8, length=3)
    for spine in axes.spines.values():
        spine.set_color(theme.line)
