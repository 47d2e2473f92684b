"""Things that a judge must not accept: blobs, fused and broken shapes, colours off the palette, glyphs no one reads.

Generators under heavy acceleration make such things. The judge learns to call them OTHER, so that it is not lenient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import combinations, pairwise

import numpy as np

from dita.miniature.world.glyphs import ALPHABET, GLYPH_WIDTH, STROKE
from dita.miniature.world.sampling import pick, uniform
from dita.miniature.world.shapes import SHAPES, Distance, squared_distance_to_segment
from dita.miniature.world.tables import COLOURS, Floats, Picture

READABLE = 0.7
"""An odd glyph shares at most this much (intersection over union) with any real one."""

FAR = 90
"""Least distance, in 8-bit RGB, of an odd colour from every colour of the palette."""


def paint(picture: Picture, distance: Distance, x: float, y: float, unit: float, rgb: tuple[int, int, int]) -> None:
    """Lays a figure over a picture (H, W, 3) in place, anti-aliased; x, y and `unit` are fractions of the side."""
    size = picture.shape[0]
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    px, py = np.broadcast_arrays(((centres - x) / unit)[None, :], ((centres - y) / unit)[:, None])
    coverage = np.clip(0.5 - distance(px, py) * unit * size, 0, 1)[..., None]
    picture[:] = np.rint(picture + coverage * (np.array(rgb, np.float32) - picture)).astype(np.uint8)


def odd_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour that is none of the palette's."""
    palette = np.array([*COLOURS.values()])
    while True:
        rgb = rng.integers(0, 256, 3)
        if np.sqrt(np.square(palette - rgb).sum(axis=1)).min() > FAR:
            return int(rgb[0]), int(rgb[1]), int(rgb[2])


def odd_shape(rng: np.random.Generator) -> Distance:
    """A shape that is none of the world's, in units of an object's radius."""
    return pick(rng, (_blob, _between, _cut, _stretched, _fused))(rng)


def _blob(rng: np.random.Generator) -> Distance:
    waves = np.arange(2, 6)
    heights = rng.normal(size=4)
    heights *= uniform(rng, 0.18, 0.35) / np.linalg.norm(heights)
    phases = rng.random(4) * 2 * np.pi

    def distance(x: Floats, y: Floats) -> Floats:
        angle = np.arctan2(y, x)[..., None]
        edge = 0.75 + (heights * np.cos(waves * angle + phases)).sum(axis=-1)
        return np.asarray(np.hypot(x, y) - edge, dtype=np.float32)

    return distance


def _two(rng: np.random.Generator) -> tuple[Distance, Distance]:
    first = pick(rng, list(SHAPES))
    return SHAPES[first], SHAPES[pick(rng, [name for name in SHAPES if name != first])]


def _between(rng: np.random.Generator) -> Distance:
    """Half way from one shape to another."""
    a, b = _two(rng)
    share = np.float32(uniform(rng, 0.38, 0.62))
    return lambda x, y: share * a(x, y) + (1 - share) * b(x, y)


def _cut(rng: np.random.Generator) -> Distance:
    """A shape with a side cut off."""
    whole = SHAPES[pick(rng, list(SHAPES))]
    turn = 2 * np.pi * rng.random()
    at, dx, dy = np.float32(uniform(rng, -0.2, 0.2)), np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return lambda x, y: np.maximum(whole(x, y), x * dx + y * dy - at)


def _stretched(rng: np.random.Generator) -> Distance:
    whole = SHAPES[pick(rng, list(SHAPES))]
    thin = np.float32(uniform(rng, 0.4, 0.55))
    if rng.random() < 0.5:
        return lambda x, y: thin * whole(x / thin, y)
    return lambda x, y: thin * whole(x, y / thin)


def _fused(rng: np.random.Generator) -> Distance:
    """Two shapes grown together."""
    a, b = _two(rng)
    turn, far = 2 * np.pi * rng.random(), uniform(rng, 0.4, 0.65)
    dx, dy = np.float32(far * np.cos(turn)), np.float32(far * np.sin(turn))
    grow = np.float32(0.7)
    return lambda x, y: grow * np.minimum(a((x - dx) / grow, (y - dy) / grow), b((x + dx) / grow, (y + dy) / grow))


def odd_glyph(rng: np.random.Generator) -> Distance:
    """A glyph that is none of the alphabet's, in units of a glyph's height."""
    return pick(rng, _odd_glyphs()) if rng.random() < 0.75 else _scribble(rng)


def _mirrored(glyph: Distance, x: Floats, y: Floats) -> Floats:
    return glyph(-x, y)


def _upturned(glyph: Distance, x: Floats, y: Floats) -> Floats:
    return glyph(x, -y)


def _overlaid(a: Distance, b: Distance, x: Floats, y: Floats) -> Floats:
    return np.minimum(a(x, y), b(x, y))


def _halved(glyph: Distance, across: int, sign: int, x: Floats, y: Floats) -> Floats:
    return np.maximum(glyph(x, y), np.float32(sign) * (x if across else y))


@cache
def _odd_glyphs() -> tuple[Distance, ...]:
    """Glyphs mirrored, turned upside down, laid over one another, cut in half: where that reads as no other glyph."""
    tried: list[Callable[[Floats, Floats], Floats]] = []
    for glyph in ALPHABET.values():
        tried += [partial(_mirrored, glyph), partial(_upturned, glyph)]
        tried += [partial(_halved, glyph, across, sign) for across in (0, 1) for sign in (-1, 1)]
    tried += [partial(_overlaid, a, b) for a, b in combinations(ALPHABET.values(), 2)]
    return tuple(one for one in tried if not _readable(one))


@cache
def _raster() -> tuple[Floats, Floats]:
    y, x = np.meshgrid(np.linspace(-0.5, 0.5, 41), np.linspace(-0.33, 0.33, 29), indexing="ij")
    return x.astype(np.float32), y.astype(np.float32)


@cache
def _alphabet_masks() -> np.ndarray:
    return np.stack([glyph(*_raster()) < 0 for glyph in ALPHABET.values()])


def _readable(glyph: Distance) -> bool:
    """Whether a figure is much like a glyph of the alphabet."""
    mask, known = glyph(*_raster()) < 0, _alphabet_masks()
    return bool(((mask & known).sum(axis=(1, 2)) / (mask | known).sum(axis=(1, 2))).max() > READABLE)


def _scribble(rng: np.random.Generator) -> Distance:
    """Three random strokes in the box of a glyph."""
    half = np.array([GLYPH_WIDTH - STROKE, 1 - STROKE]) / 2
    while True:
        ends = [tuple(map(float, point)) for point in (2 * rng.random((4, 2)) - 1) * half]
        strokes = [((a[0], a[1]), (b[0], b[1])) for a, b in pairwise(ends)]

        def distance(
            x: Floats, y: Floats, strokes: list[tuple[tuple[float, float], tuple[float, float]]] = strokes
        ) -> Floats:
            nearest = np.min([squared_distance_to_segment(x, y, a, b) for a, b in strokes], axis=0)
            return np.asarray(np.sqrt(nearest) - np.float32(STROKE / 2))

        if not _readable(distance):
            return distance
