"""The letters and digits of signs, as signed distances to strokes at points (x, y) in units of the glyph's height.

A glyph fills the box of height 1 and width GLYPH_WIDTH about the origin. Its strokes are polylines with round ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dita.miniature.world.shapes import Distance, squared_distance_to_segment
from dita.miniature.world.tables import Floats

GLYPH_WIDTH = 0.62
"""Width of a glyph."""

STROKE = 0.155
"""Width of a glyph's strokes."""

ADVANCE = GLYPH_WIDTH + 0.2
"""From the middle of one glyph to the middle of the next."""

Line = list[tuple[float, float]]

_RIGHT = (GLYPH_WIDTH - STROKE) / 2
_LEFT = -_RIGHT
_BOTTOM = (1 - STROKE) / 2
_TOP = -_BOTTOM
_BOWL = _BOTTOM - _RIGHT
"""How far above or below the middle the centre of a half-circle of full width lies that touches the top or bottom."""


def _arc(y: float, start: float, end: float) -> Line:
    """Part of a circle of full width about (0, y), between two angles in turns, clockwise from the right."""
    angles = 2 * np.pi * np.linspace(start, end, 1 + round(abs(end - start) * 12))
    return [(float(_RIGHT * np.cos(angle)), float(y + _RIGHT * np.sin(angle))) for angle in angles]


def _strokes(*lines: Line) -> Distance:
    """Signed distance to polylines of width STROKE."""

    def distance(x: Floats, y: Floats) -> Floats:
        nearest = np.full_like(x, np.inf)
        for line in lines:
            for start, end in pairwise(line):
                nearest = np.minimum(nearest, squared_distance_to_segment(x, y, start, end))
        return np.sqrt(nearest) - np.float32(STROKE / 2)

    return distance


def _bar(y: float, end: float, start: float = _LEFT) -> Line:
    return [(start, y), (end, y)]


def _stem(x: float) -> Line:
    return [(x, _TOP), (x, _BOTTOM)]


ALPHABET: dict[str, Distance] = {
    "A": _strokes([(_LEFT, _BOTTOM), (0, _TOP), (_RIGHT, _BOTTOM)], _bar(0.17, 0.15, start=-0.15)),
    "C": _strokes(_arc(-_BOWL, -0.08, -0.5) + _arc(_BOWL, 0.5, 0.08)),
    "E": _strokes(_stem(_LEFT), _bar(_TOP, _RIGHT), _bar(0, 0.16), _bar(_BOTTOM, _RIGHT)),
    "F": _strokes(_stem(_LEFT), _bar(_TOP, _RIGHT), _bar(0, 0.16)),
    "H": _strokes(_stem(_LEFT), _stem(_RIGHT), _bar(0, _RIGHT)),
    "K": _strokes(_stem(_LEFT), [(_RIGHT, _TOP), (_LEFT, 0.08)], [(-0.05, -0.08), (_RIGHT, _BOTTOM)]),
    "L": _strokes(_stem(_LEFT), _bar(_BOTTOM, _RIGHT)),
    "P": _strokes(_stem(_LEFT), [(_LEFT, _TOP), *_arc(-_BOWL, -0.25, 0.25), (_LEFT, _RIGHT - _BOWL)]),
    "T": _strokes(_bar(_TOP, _RIGHT), _stem(0)),
    "U": _strokes([(_LEFT, _TOP), *_arc(_BOWL, 0.5, 0), (_RIGHT, _TOP)]),
    "X": _strokes([(_LEFT, _TOP), (_RIGHT, _BOTTOM)], [(_RIGHT, _TOP), (_LEFT, _BOTTOM)]),
    "1": _strokes([(-0.16, -0.24), (0.02, _TOP), (0.02, _BOTTOM)], _bar(_BOTTOM, 0.2, start=-0.16)),
    "2": _strokes([*_arc(-_BOWL, -0.5, 0.08), (_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)]),
    "4": _strokes([(0.1, _BOTTOM), (0.1, _TOP), (_LEFT, 0.2), (_RIGHT, 0.2)]),
    "7": _strokes([(_LEFT, _TOP), (_RIGHT, _TOP), (-0.07, _BOTTOM)]),
    "9": _strokes(_arc(-_BOWL, 0, 1), [(_RIGHT, -_BOWL), (0.19, 0.1), (0, _BOTTOM)]),
}
"""Signed distance of each glyph."""

GLYPHS = "".join(ALPHABET)
"""The letters and digits that a sign can show."""


def text_width(text: Sequence[str]) -> float:
    """Width of `text`, in units of the glyphs' height."""
    return ADVANCE * (len(text) - 1) + GLYPH_WIDTH
