"""Scenes that differ from a given one in one thing that its caption says: the hard negatives of both networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from dita.miniature import world
from dita.miniature.world.sampling import pick, sample_background
from dita.miniature.world.tables import COLOURS, COUNTS, RELATIONS, SIZES


def perturbed(rng: np.random.Generator, scene: world.Scene) -> world.Scene:
    """A scene whose caption says one thing differently. It is for its caption: places and sizes may not fit it."""
    said = world.caption(scene)
    while True:
        made = pick(rng, _CHANGES)(rng, scene)
        if made is not None and world.caption(made) != said:
            return made


def _other(rng: np.random.Generator, names: Iterable[str], taken: str) -> str:
    return pick(rng, [name for name in names if name != taken])


def _with_look(rng: np.random.Generator, scene: world.Scene, what: str, names: Iterable[str]) -> world.Scene | None:
    """With another shape, colour or size; the objects of a group stay alike."""
    if not scene.things:
        return None
    at = int(rng.random() * len(scene.things))
    name = _other(rng, names, getattr(scene.things[at], what))
    chosen = range(len(scene.things)) if scene.kind == "group" else (at,)
    change: dict[str, Any] = {what: name}
    things = tuple(replace(thing, **change) if i in chosen else thing for i, thing in enumerate(scene.things))
    return replace(scene, things=things)


def _colour(rng: np.random.Generator, scene: world.Scene) -> world.Scene | None:
    if scene.sign is not None:
        return replace(scene, sign=replace(scene.sign, colour=_other(rng, COLOURS, scene.sign.colour)))
    return _with_look(rng, scene, "colour", COLOURS)


def _shape(rng: np.random.Generator, scene: world.Scene) -> world.Scene | None:
    return _with_look(rng, scene, "shape", world.SHAPES)


def _size(rng: np.random.Generator, scene: world.Scene) -> world.Scene | None:
    return _with_look(rng, scene, "size", SIZES)


def _relation(rng: np.random.Generator, scene: world.Scene) -> world.Scene | None:
    """Another side; or, of any relation, the first two objects' roles exchanged."""
    if scene.relation is None:
        return None
    if scene.relation in RELATIONS and rng.random() < 0.5:
        return replace(scene, relation=_other(rng, RELATIONS, scene.relation))
    first, second, *rest = scene.things
    return replace(scene, things=(second, first, *rest))


def _count(rng: np.random.Generator, scene: world.Scene) -> world.Scene | None:
    if scene.kind != "group":
        return None
    count = pick(rng, [count for count in COUNTS.values() if count != len(scene.things)])
    return replace(scene, things=scene.things[:1] * count)


def _text(rng: np.random.Generator, scene: world.Scene) -> world.Scene | None:
    """Another glyph, or two neighbouring ones exchanged."""
    if scene.sign is None:
        return None
    text, at = scene.sign.text, int(rng.random() * len(scene.sign.text))
    if rng.random() < 0.25:
        at = min(at, len(text) - 2)
        spelt = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    else:
        spelt = text[:at] + _other(rng, world.GLYPHS, text[at]) + text[at + 1 :]
    return replace(scene, sign=replace(scene.sign, text=spelt))


def _background(rng: np.random.Generator, scene: world.Scene) -> world.Scene:
    return replace(scene, background=sample_background(rng))


_CHANGES: tuple[Callable[[np.random.Generator, world.Scene], world.Scene | None], ...] = (
    _colour,
    _shape,
    _size,
    _relation,
    _count,
    _text,
    _background,
)
