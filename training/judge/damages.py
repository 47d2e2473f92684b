"""Drawings with one thing wrong: what a judge must reject, and what a reward must rank below the clean drawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dita.miniature import world
from dita.miniature.judge.marks import glyph_places
from dita.miniature.world.tables import BACKGROUND_COLOURS, COLOURS, Picture
from training.judge import oddities


def _lost(rng: np.random.Generator, scene: world.Scene) -> Picture:
    """Without one of its objects."""
    gone = int(rng.random() * len(scene.things))
    return world.draw(replace(scene, things=scene.things[:gone] + scene.things[gone + 1 :]))


def _one_more(rng: np.random.Generator, scene: world.Scene) -> Picture:
    """With a further object, of the first one's looks, where there is room."""
    first = scene.things[0]
    while True:
        x, y = 0.1 + 0.8 * rng.random(2)
        if all(np.hypot(x - t.x, y - t.y) > 1.25 * (t.radius + 0.1) for t in scene.things):
            more = replace(first, x=float(x), y=float(y), radius=0.1)
            return world.draw(replace(scene, things=(*scene.things, more)))


def _swapped(rng: np.random.Generator, scene: world.Scene) -> Picture:
    """With its two objects in each other's places."""
    first, second = scene.things
    swapped = (replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y))
    return world.draw(replace(scene, things=swapped))


def _recoloured(rng: np.random.Generator, scene: world.Scene) -> Picture:
    first, *rest = scene.things
    colour = rng.choice([name for name in COLOURS if name != first.colour])
    return world.draw(replace(scene, things=(replace(first, colour=str(colour)), *rest)))


def _reshaped(rng: np.random.Generator, scene: world.Scene) -> Picture:
    first, *rest = scene.things
    shape = rng.choice([name for name in world.SHAPES if name != first.shape])
    return world.draw(replace(scene, things=(replace(first, shape=str(shape)), *rest)))


def _blob(rng: np.random.Generator, scene: world.Scene) -> Picture:
    """With a shape of no name in place of the first object."""
    first, *rest = scene.things
    picture = world.draw(replace(scene, things=tuple(rest)))
    oddities.paint(picture, oddities.odd_shape(rng), first.x, first.y, first.radius, COLOURS[first.colour])
    return picture


def _misspelt(rng: np.random.Generator, scene: world.Scene) -> Picture:
    """With one glyph replaced by another."""
    sign = scene.sign
    assert sign is not None
    at = int(rng.random() * len(sign.text))
    glyph = rng.choice([glyph for glyph in world.GLYPHS if glyph != sign.text[at]])
    return world.draw(replace(scene, sign=replace(sign, text=sign.text[:at] + str(glyph) + sign.text[at + 1 :])))


def _without_glyph(rng: np.random.Generator, scene: world.Scene) -> Picture:
    sign = scene.sign
    assert sign is not None
    at = int(rng.random() * len(sign.text))
    return world.draw(replace(scene, sign=replace(sign, text=sign.text[:at] + " " + sign.text[at + 1 :])))


def _unreadable(rng: np.random.Generator, scene: world.Scene) -> Picture:
    """With one glyph replaced by a figure that no one reads."""
    sign = scene.sign
    assert sign is not None
    at = int(rng.random() * len(sign.text))
    picture = world.draw(replace(scene, sign=replace(sign, text=sign.text[:at] + " " + sign.text[at + 1 :])))
    (x, y), ink = glyph_places(sign)[at], BACKGROUND_COLOURS[sign.ink()]
    oddities.paint(picture, oddities.odd_glyph(rng), x, y, sign.glyph_height, ink)
    return picture


def _other_background(rng: np.random.Generator, scene: world.Scene) -> Picture:
    while (other := world.scenes(1, int(rng.integers(2**31)))[0].background) == scene.background:
        pass
    return world.draw(replace(scene, background=other))


DAMAGES: dict[str, tuple[tuple[str, ...], str, Callable[[np.random.Generator, world.Scene], Picture]]] = {
    "an object is missing": (("one", "two", "group", "inside", "between"), "count", _lost),
    "an object too many": (("one", "two", "group"), "count", _one_more),
    "objects are swapped": (("two",), "relation", _swapped),
    "another colour": (("one", "two", "inside", "between"), "colour", _recoloured),
    "another shape": (("one", "two", "inside", "between"), "shape", _reshaped),
    "a shape of no name": (("one", "two", "between"), "shape", _blob),
    "another glyph": (("sign",), "sign", _misspelt),
    "a glyph is missing": (("sign",), "sign", _without_glyph),
    "an unreadable glyph": (("sign",), "sign", _unreadable),
    "another background": (tuple(world.KINDS), "background", _other_background),
}
"""Damages: the kinds of scene that can suffer each, the attribute that is then wrong, and what does it."""
