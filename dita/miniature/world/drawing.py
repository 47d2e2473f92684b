"""Painting scenes, many at once, with anti-aliased edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dita.miniature.world.backgrounds import BACKGROUNDS
from dita.miniature.world.glyphs import ADVANCE, ALPHABET
from dita.miniature.world.scene import Scene, Sign, Thing
from dita.miniature.world.shapes import REACH, SHAPES, Distance, box
from dita.miniature.world.tables import BACKGROUND_COLOURS, COLOURS, Floats, Picture

BATCH = 128
"""Scenes painted together: enough to keep numpy busy, few enough for the canvas to stay in the processor's cache."""

PANEL_CORNER = 0.05
"""Radius of a sign's round corners."""


def draw(scene: Scene, size: int = 64) -> Picture:
    """The scene as an anti-aliased RGB picture: uint8 (size, size, 3)."""
    return draw_all([scene], size)[0]


def draw_all(scenes: Sequence[Scene], size: int = 64) -> Picture:
    """Many scenes at once: uint8 (N, size, size, 3). More than a thousand 64x64 pictures a second on one core."""
    if size < 1:
        raise ValueError(f"size={size}: a picture has at least 1 pixel a side")
    drawn = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    for start in range(0, len(scenes), BATCH):
        batch = scenes[start : start + BATCH]
        canvas = np.empty((len(batch), size, size, 3), dtype=np.float32)
        _paint_backgrounds(canvas, batch)
        _paint_things(canvas, batch)
        _paint_signs(canvas, batch)
        drawn[start : start + BATCH] = np.rint(canvas)
    return drawn


def _paint_backgrounds(canvas: Floats, scenes: Sequence[Scene]) -> None:
    for kind, background in BACKGROUNDS.items():
        rows = [i for i, scene in enumerate(scenes) if scene.background.kind == kind]
        if rows:
            rgb = np.array([[BACKGROUND_COLOURS[n] for n in scenes[i].background.colours] for i in rows], np.float32)
            first, last = rgb[:, 0, None, None, :], rgb[:, -1, None, None, :]
            canvas[rows] = first + background.paint(canvas.shape[1])[..., None] * (last - first)


def _paint_things(canvas: Floats, scenes: Sequence[Scene]) -> None:
    """Layer by layer from the last object to the first."""
    for layer in reversed(range(max((len(scene.things) for scene in scenes), default=0))):
        for shape, distance in SHAPES.items():
            rows = [i for i, s in enumerate(scenes) if len(s.things) > layer and s.things[layer].shape == shape]
            things: list[Thing] = [scenes[i].things[layer] for i in rows]
            places = [(thing.x, thing.y, thing.radius) for thing in things]
            _paint(canvas, rows, places, [COLOURS[thing.colour] for thing in things], distance, REACH)


def _paint_signs(canvas: Floats, scenes: Sequence[Scene]) -> None:
    signs = {i: scene.sign for i, scene in enumerate(scenes) if scene.sign is not None}
    if not signs:
        return
    half = np.array([(sign.width / 2, sign.height / 2) for sign in signs.values()], np.float32) - PANEL_CORNER
    half_width, half_height = half[:, 0, None, None], half[:, 1, None, None]

    def panel(x: Floats, y: Floats) -> Floats:
        return box(x, y, half_width, half_height) - np.float32(PANEL_CORNER)

    places = [(sign.x, sign.y, 1.0) for sign in signs.values()]
    _paint(canvas, list(signs), places, [COLOURS[sign.colour] for sign in signs.values()], panel, reach=1.0)
    for position in range(max(len(sign.text) for sign in signs.values())):
        for glyph, distance in ALPHABET.items():
            shown = {i: sign for i, sign in signs.items() if sign.text[position : position + 1] == glyph}
            places = [(_glyph_x(sign, position), sign.y, sign.glyph_height) for sign in shown.values()]
            inks = [BACKGROUND_COLOURS[sign.ink()] for sign in shown.values()]
            _paint(canvas, list(shown), places, inks, distance, reach=0.5)


def _glyph_x(sign: Sign, position: int) -> float:
    """The middle of the glyph at `position`; the text is in the middle of the panel."""
    return sign.x + (position - (len(sign.text) - 1) / 2) * ADVANCE * sign.glyph_height


def _paint(
    canvas: Floats,
    rows: Sequence[int],
    places: Sequence[tuple[float, float, float]],
    colours: Sequence[tuple[int, int, int]],
    distance: Distance,
    reach: float,
) -> None:
    """Lays one figure over each of the canvas rows, at `places`: x, y and the unit of `distance`.

    The edge's coverage is half a pixel wide to either side. Only a patch that holds all within `reach` units of the
    centre is touched.
    """
    if not rows:
        return
    size = canvas.shape[1]
    place = np.array(places, np.float32)
    rgb = np.array(colours, np.float32)
    half = reach * float(place[:, 2].max()) * size + 1
    side = min(size, math.ceil(2 * half) + 1)
    corner = np.clip(np.floor(place[:, :2] * size - half).astype(int), 0, size - side)  # (N, 2)
    pixels = corner[:, :, None] + np.arange(side)  # (N, 2, side)
    x0, y0, unit = (place[:, i, None] for i in range(3))
    centres = ((pixels + np.float32(0.5)) / np.float32(size)).astype(np.float32)
    x, y = np.broadcast_arrays(((centres[:, 0] - x0) / unit)[:, None, :], ((centres[:, 1] - y0) / unit)[:, :, None])
    coverage = np.clip(0.5 - distance(x, y) * unit[..., None] * size, 0, 1)[..., None]
    patch = (np.array(rows)[:, None, None], pixels[:, 1, :, None], pixels[:, 0, None, :])
    below = canvas[patch]
    canvas[patch] = below + coverage * (rgb[:, None, None, :] - below)
