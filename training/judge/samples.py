"""The pictures that the judge learns from: drawings of the training split, and ones with something odd or missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dita.miniature import world
from dita.miniature.judge.marks import OTHER, Mark, glyph_places, marks, object_mark
from dita.miniature.world.sampling import pick, pick_by_rate, sample_background, sample_kind, uniform
from dita.miniature.world.shapes import REACH, SHAPES, Distance
from dita.miniature.world.split import looks
from dita.miniature.world.tables import BACKGROUND_COLOURS, COLOURS, MARGIN, Picture
from training.judge import oddities

RADII = (0.09, 0.34)
"""Range of the radii of freely placed objects."""


@dataclass(frozen=True)
class Sample:
    """A scene to draw, what lies over its drawing, and what a judge should see in the end.

    `odd_background` is drawn in place of the scene's own beyond a straight line.
    """

    scene: world.Scene
    seen: tuple[Mark, ...]
    overlays: tuple[Callable[[Picture], None], ...] = ()
    odd_background: world.Background | None = None
    line: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def background(self) -> tuple[str, ...]:
        """Its kind and colours, as `background_target` takes them."""
        return (OTHER,) if self.odd_background else (self.scene.background.kind, *self.scene.background.colours)


def sample(rng: np.random.Generator) -> Sample:
    """A random sample of any kind of _KINDS."""
    made = _SAMPLERS[pick_by_rate(rng, {name: rate for name, (rate, _) in _KINDS.items()})](rng)
    return _half_background(rng, made) if rng.random() < 0.05 else made


def draw(samples: list[Sample]) -> Picture:
    """The pictures of samples: uint8 (N, 64, 64, 3)."""
    drawn = world.draw_all([one.scene for one in samples])
    odd = [i for i, one in enumerate(samples) if one.odd_background]
    if odd:
        scenes = [
            replace(samples[i].scene, background=samples[i].odd_background or samples[i].scene.background) for i in odd
        ]
        centres = (np.arange(drawn.shape[1]) + 0.5) / drawn.shape[1]
        for i, other in zip(odd, world.draw_all(scenes), strict=True):
            a, b, c = samples[i].line
            beyond = a * centres[None, :] + b * centres[:, None] > c
            drawn[i][beyond] = other[beyond]
    for picture, one in zip(drawn, samples, strict=True):
        for overlay in one.overlays:
            overlay(picture)
    return drawn


def _of_world(rng: np.random.Generator) -> Sample:
    scene = world.sample_scene(rng)
    return Sample(scene, tuple(marks(scene)))


def _sign(rng: np.random.Generator) -> Sample:
    scene = sample_kind(rng, "sign", "train")
    return Sample(scene, tuple(marks(scene)))


def _inside(rng: np.random.Generator) -> Sample:
    """One object inside another; in some, the inner one is odd."""
    scene = sample_kind(rng, "inside", "train")
    if rng.random() > 0.25:
        return Sample(scene, tuple(marks(scene)))
    inner, outer = scene.things
    overlay = _figure(oddities.odd_shape(rng), inner.x, inner.y, inner.radius, COLOURS[inner.colour])
    scene = replace(scene, things=(outer,))
    return Sample(scene, (*marks(scene), object_mark(OTHER, inner.colour, inner.x, inner.y, inner.radius)), (overlay,))


def _scattered(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """(x, y, radius) of up to `count` objects that lie inside the picture and apart from each other."""
    places: list[tuple[float, float, float]] = []
    for _ in range(12 * count):
        radius = uniform(rng, RADII[0], RADII[1] if rng.random() < 0.3 else 0.2)
        x, y = (uniform(rng, radius + MARGIN, 1 - radius - MARGIN) for _ in range(2))
        if all(np.hypot(x - a, y - b) > 1.1 * (radius + c) + MARGIN for a, b, c in places):
            places.append((x, y, radius))
            if len(places) == count:
                break
    return places


def _free(rng: np.random.Generator) -> Sample:
    """None to four objects of any looks and sizes, without a relation that a caption could say."""
    things = []
    for x, y, radius in _scattered(rng, int(rng.random() * 5)):
        shape, colour = pick(rng, looks("alone", "train"))
        things.append(world.Thing(shape, colour, "small" if radius < 0.15 else "large", x, y, radius))
    scene = world.Scene(tuple(things), sample_background(rng))
    return Sample(scene, tuple(marks(scene)))


def _odd_objects(rng: np.random.Generator) -> Sample:
    """Objects among which some are odd in shape or colour."""
    background = sample_background(rng)
    things, seen, overlays = [], [], []
    for x, y, radius in _scattered(rng, 1 + int(rng.random() * 4)):
        shape, colour = pick(rng, looks("alone", "train"))
        odd = rng.random()
        if odd < 0.4:
            things.append(world.Thing(shape, colour, "small", x, y, radius))
            seen.append(object_mark(shape, colour, x, y, radius))
        elif odd < 0.85:
            overlays.append(_figure(oddities.odd_shape(rng), x, y, radius, COLOURS[colour]))
            seen.append(object_mark(OTHER, colour, x, y, radius))
        else:
            rgb = oddities.odd_colour(rng)
            grounds = np.array([BACKGROUND_COLOURS[name] for name in background.colours])
            if np.abs(grounds - np.array(rgb)).sum(axis=1).min() > 120:  # else it could not be seen
                overlays.append(_figure(SHAPES[shape], x, y, radius, rgb))
                seen.append(object_mark(shape, OTHER, x, y, radius))
    return Sample(world.Scene(tuple(things), background), tuple(seen), tuple(overlays))


def _odd_sign(rng: np.random.Generator) -> Sample:
    """A sign of which some glyphs are missing or odd."""
    scene = sample_kind(rng, "sign", "train")
    sign = scene.sign
    assert sign is not None
    text, seen, overlays = "", [], []
    for glyph, (x, y) in zip(sign.text, glyph_places(sign), strict=True):
        odd = rng.random()
        text += glyph if odd < 0.4 else " "
        if odd > 0.55:
            overlays.append(_figure(oddities.odd_glyph(rng), x, y, sign.glyph_height, BACKGROUND_COLOURS[sign.ink()]))
            seen.append(Mark("glyph", OTHER, "-", x, y, sign.glyph_height / 2))
    scene = replace(scene, sign=replace(sign, text=text))
    return Sample(scene, (*marks(scene), *seen), tuple(overlays))


def _odd_panel(rng: np.random.Generator) -> Sample:
    """A sign, or large objects one inside the other, beside a small odd one."""
    scene = sample_kind(rng, pick(rng, ("sign", "inside", "two")), "train")
    radius = uniform(rng, 0.07, 0.1)
    reach = [(m.x, m.y, REACH * m.radius) for m in marks(scene) if m.layer != "glyph"]
    for _ in range(20):
        x, y = (uniform(rng, radius, 1 - radius) for _ in range(2))
        if all(np.hypot(x - a, y - b) > c + 1.2 * radius for a, b, c in reach):
            overlay = _figure(oddities.odd_shape(rng), x, y, radius, COLOURS[colour := pick(rng, list(COLOURS))])
            return Sample(scene, (*marks(scene), object_mark(OTHER, colour, x, y, radius)), (overlay,))
    return Sample(scene, tuple(marks(scene)))


def _half_background(rng: np.random.Generator, made: Sample) -> Sample:
    """The sample with another background beyond a line through its middle part."""
    own, other = made.scene.background, sample_background(rng)
    if {own.kind, other.kind} == {"plain"} and own.colours == other.colours:
        return made
    turn = 2 * np.pi * rng.random()
    a, b = float(np.cos(turn)), float(np.sin(turn))
    return replace(made, odd_background=other, line=(a, b, 0.5 * (a + b) + uniform(rng, -0.15, 0.15)))


def _figure(
    distance: Distance, x: float, y: float, unit: float, rgb: tuple[int, int, int]
) -> Callable[[Picture], None]:
    return lambda picture: oddities.paint(picture, distance, x, y, unit, rgb)


_KINDS: dict[str, tuple[float, Callable[[np.random.Generator], Sample]]] = {
    "of the world": (0.42, _of_world),
    "sign": (0.10, _sign),
    "inside": (0.12, _inside),
    "free": (0.12, _free),
    "odd objects": (0.11, _odd_objects),
    "odd sign": (0.09, _odd_sign),
    "odd beside": (0.04, _odd_panel),
}
"""Kinds of sample, how often each is drawn, and how."""

_SAMPLERS = {name: sampler for name, (_, sampler) in _KINDS.items()}
