"""From the network's maps to what a picture shows: objects, signs with their text, the background."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dita.miniature.judge.marks import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    GRID,
    LAYERS,
    OTHER,
    Mark,
)
from dita.miniature.judge.network import Answer, LayerAnswer

PRESENT = 0.4
"""Least chance of presence at which something is seen."""

SURE = 0.6
"""Least chance of a kind or colour at which it is named; below, it is OTHER."""

UNREAD = "?"
"""Stands in a text for a glyph that is none of the alphabet's."""


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    objects: marks of objects, the surest first; kind and colour may be OTHER.
    signs: each sign's mark with its text, in which UNREAD stands for what is no glyph.
    stray: number of glyphs outside of any sign.
    background: its kind and its colours, one or two.
    """

    objects: tuple[Mark, ...]
    signs: tuple[tuple[Mark, str], ...]
    stray: int
    background: tuple[str, ...]


def readings(answer: Answer) -> list[Reading]:
    """What each picture of a batch shows."""
    found = {layer: _peaks(layer, said) for layer, said in answer.layers.items()}
    kinds, first, second = (part.argmax(dim=1).tolist() for part in answer.background)
    made = []
    for i in range(len(kinds)):
        large = found["large"][i]
        objects = _distinct([mark for mark in (*found["object"][i], *large) if mark[1].kind != "sign"])
        panels = [mark for _, mark in large if mark.kind == "sign"]
        glyphs = [mark for _, mark in found["glyph"][i]]
        signs = tuple((panel, _text(panel, glyphs)) for panel in panels)
        stray = sum(all(not _on(glyph, panel) for panel in panels) for glyph in glyphs)
        colours = (BACKGROUND_COLOURS[first[i]], BACKGROUND_COLOURS[second[i]])
        background = (BACKGROUND_KINDS[kinds[i]], *(colour for colour in colours if colour != "-"))
        made.append(Reading(objects, signs, stray, background))
    return made


def _peaks(layer: str, said: LayerAnswer) -> list[list[tuple[float, Mark]]]:
    """The marks of one layer in each picture with their chances, the surest first."""
    chance = said.presence.sigmoid()
    highest = functional.max_pool2d(chance[:, None], 3, stride=1, padding=1)[:, 0]
    picture, row, column = torch.nonzero((chance == highest) & (chance >= PRESENT), as_tuple=True)
    at = (picture, slice(None), row, column)
    kinds, colours = _named(said.kind[at], LAYERS[layer]), _named(said.colour[at], COLOURS)
    geometry = said.geometry[at]
    x = ((column + 0.5 + geometry[:, 0]) / GRID).tolist()
    y = ((row + 0.5 + geometry[:, 1]) / GRID).tolist()
    radius = geometry[:, 2].clamp(-6, 0).exp().tolist()
    chances = chance[picture, row, column].tolist()
    found: list[list[tuple[float, Mark]]] = [[] for _ in range(len(chance))]
    for i, mark in enumerate(zip(kinds, colours, x, y, radius, strict=True)):
        kind, colour, *place = mark
        found[int(picture[i])].append((chances[i], Mark(layer, kind, "-" if layer == "glyph" else colour, *place)))
    return [_apart(sorted(marks, key=lambda one: -one[0])) for marks in found]


def _named(logits: Tensor, names: tuple[str, ...]) -> list[str]:
    best = logits.softmax(dim=1).max(dim=1)
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [names[index] if chance >= SURE else OTHER for chance, index in pairs]


def _apart(marks: list[tuple[float, Mark]]) -> list[tuple[float, Mark]]:
    """Without those that lie on a surer one of their layer: two peaks of one object."""
    kept: list[tuple[float, Mark]] = []
    for chance, mark in marks:
        if all(_distance(mark, other) > 0.6 * max(mark.radius, other.radius) for _, other in kept):
            kept.append((chance, mark))
    return kept


def _distinct(marks: list[tuple[float, Mark]]) -> tuple[Mark, ...]:
    """Without those that are the same object, seen in both layers because its radius is near LARGE."""
    kept: list[Mark] = []
    for _, mark in sorted(marks, key=lambda one: -one[0]):
        if not any(_same(mark, other) for other in kept):
            kept.append(mark)
    return tuple(kept)


def _same(a: Mark, b: Mark) -> bool:
    sizes = sorted((a.radius, b.radius))
    return a.layer != b.layer and _distance(a, b) < 0.4 * sizes[0] and sizes[0] > 0.75 * sizes[1]


def _distance(a: Mark, b: Mark) -> float:
    return math.hypot(a.x - b.x, a.y - b.y)


def _on(glyph: Mark, panel: Mark) -> bool:
    return abs(glyph.x - panel.x) < panel.radius and abs(glyph.y - panel.y) < panel.radius


def _text(panel: Mark, glyphs: list[Mark]) -> str:
    """The glyphs on a panel, from left to right."""
    mine = sorted((glyph for glyph in glyphs if _on(glyph, panel)), key=lambda glyph: glyph.x)
    return "".join(UNREAD if glyph.kind == OTHER else glyph.kind for glyph in mine)
