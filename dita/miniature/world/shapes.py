"""The shapes of objects, as signed distances (negative inside) at points (x, y) in units of the object's radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dita.miniature.world.tables import Floats

Distance = Callable[[Floats, Floats], Floats]


def box(x: Floats, y: Floats, half_width: Floats | float, half_height: Floats | float) -> Floats:
    """Signed distance to a rectangle about the origin; half sizes broadcast against the points."""
    dx, dy = np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height)
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def squared_distance_to_segment(x: Floats, y: Floats, start: tuple[float, float], end: tuple[float, float]) -> Floats:
    """Squared distance of the points to the straight line from `start` to `end`."""
    ex, ey = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    px, py = x - np.float32(start[0]), y - np.float32(start[1])
    along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    return np.square(px - along * ex) + np.square(py - along * ey)


def polygon(corners: Sequence[tuple[float, float]]) -> Distance:
    """Signed distance to a closed polygon (negative inside, even-odd rule)."""

    def distance(x: Floats, y: Floats) -> Floats:
        nearest = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
            nearest = np.minimum(nearest, squared_distance_to_segment(x, y, (ax, ay), (bx, by)))
            if by != ay:
                slope = np.float32(bx - ax) / np.float32(by - ay)
                inside ^= ((ay <= y) != (by <= y)) & (x - np.float32(ax) < slope * (y - np.float32(ay)))
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)

    return distance


def _circle(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - np.float32(0.92)


def _square(x: Floats, y: Floats) -> Floats:
    return box(x, y, 0.8, 0.8)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.22)


def _cross(x: Floats, y: Floats) -> Floats:
    return np.minimum(box(x, y, 0.95, 0.3), box(x, y, 0.3, 0.95))


def _on_circle(turns: Sequence[float], radii: Sequence[float], drop: float = 0.0) -> list[tuple[float, float]]:
    """Corners at `turns` (fractions of a full turn, clockwise from the top) and `radii`, moved down by `drop`."""
    angles = [2 * np.pi * turn for turn in turns]
    return [(float(r * np.sin(a)), float(drop - r * np.cos(a))) for a, r in zip(angles, radii, strict=True)]


def _heart_outline() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(float(a / 17), float(-(b + 2.5) / 17)) for a, b in zip(x, y, strict=True)]


SHAPES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": polygon(_on_circle([0, 1 / 3, 2 / 3], [1.1] * 3, drop=0.2)),
    "star": polygon(_on_circle([i / 10 for i in range(10)], [1.05, 0.45] * 5, drop=0.05)),
    "ring": _ring,
    "cross": _cross,
    "heart": polygon(_heart_outline()),
}
"""Signed distance of each shape at points (x, y), in units of the object's radius: negative inside."""

PLURALS: dict[str, str] = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
"""Each shape's word for more than one."""

REACH = 1.22
"""Farthest that a shape's points lie from its centre, in units of its radius (a corner of the triangle)."""
