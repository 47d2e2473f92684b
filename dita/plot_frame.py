"""The part of the plane that a plot shows: all points but outliers, which stand at its border with an arrow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FENCE = 1.5
"""Quartile distances from the quartiles, beyond which a point is an outlier."""
MARGIN = 0.09
"""Share of the width and height between the last point and the border: where outliers stand."""

Range = tuple[float, float]


def axis_range(values: Sequence[float], least: float, wanted: Sequence[float] = ()) -> Range:
    """What one axis shows: all `values` but outliers, and all that are `wanted`; at least `least` wide.

    Values that are not finite are left out. Quartile distances below `least` are taken for `least`.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = np.quantile(finite, (0.25, 0.75))
    reach = FENCE * max(high - low, least)
    inside = [value for value in finite if low - reach <= value <= high + reach]
    inside += [value for value in wanted if math.isfinite(value)]
    bottom, top = float(min(inside)), float(max(inside))
    slack = max(0.0, least - (top - bottom)) / 2
    return bottom - slack, top + slack


def set_limits(axes: Any, seconds: Range, quality: Range) -> None:
    """Lets matplotlib's axes show the two ranges, and room at the border for outliers."""
    for (low, high), limit in ((seconds, axes.set_xlim), (quality, axes.set_ylim)):
        edge = MARGIN * (high - low)
        limit(low - edge, high + edge)


def clamped(value: float, within: Range) -> float:
    """Where a value is drawn: at the near end of the range if it lies beyond."""
    return min(max(value, within[0]), within[1])


def point_outwards(axes: Any, point: tuple[float, float], at: tuple[float, float], colour: str) -> None:
    """Draws an arrow from `at`, where an outlier is drawn, to the border beyond which it lies as `point`."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x = at[0] if point[0] == at[0] else right if point[0] > at[0] else left
    y = at[1] if point[1] == at[1] else bottom if not point[1] > at[1] else top
    arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.1, "shrinkA": 3, "shrinkB": 0}
    axes.annotate("", (x, y), at, arrowprops=arrow, zorder=3)
