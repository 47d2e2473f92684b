"""Whether what a picture shows is what its caption says, attribute by attribute, in the manner of GenEval.

GenEval (Ghosh et al., arXiv 2310.11513) finds the objects of a picture with a detector and checks count, colour and
place against the prompt. So does this: the objects seen are matched with those that the caption names, as well as they
can be, and each attribute is then right or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import permutations

from dita.miniature.judge.marks import Mark
from dita.miniature.judge.reading import Reading
from dita.miniature.world.tables import RELATIONS

SMALL = 0.15
"""Radius below which an object is small: between the ranges of the size words."""

Said = Mapping[str, str | int]
"""A caption's attributes, as `world.parse` returns them."""


@dataclass(frozen=True)
class Verdict:
    """Whether each attribute that a caption speaks of is right; None where it does not speak of it.

    shape, colour: every object named is there with its shape; with its colour (of a sign, the panel's).
    count: there are as many objects as named, and nothing else.
    relation: the objects lie as the caption says.
    size: every size that is said is right.
    sign: the text is right as a whole.
    background: its kind and its colours are right.
    motion: of clips only.
    """

    shape: bool | None = None
    colour: bool | None = None
    count: bool | None = None
    relation: bool | None = None
    size: bool | None = None
    sign: bool | None = None
    background: bool | None = None
    motion: bool | None = None

    @property
    def correct(self) -> bool:
        """Whether every attribute that the caption speaks of is right."""
        return all(value is not False for value in self.as_dict().values())

    def as_dict(self) -> dict[str, bool | None]:
        """The attributes by name, in the order of ATTRIBUTES."""
        return {name: getattr(self, name) for name in ATTRIBUTES}


ATTRIBUTES = tuple(field.name for field in fields(Verdict))
"""Names of a verdict's attributes."""


@dataclass(frozen=True)
class _Named:
    """An object as a caption names it; a size only where it is said."""

    shape: str
    colour: str
    size: str | None

    def shape_fits(self, mark: Mark) -> bool:
        return mark.kind == self.shape

    def colour_fits(self, mark: Mark) -> bool:
        return mark.colour == self.colour

    def size_fits(self, mark: Mark) -> bool:
        return self.size in (None, "small" if mark.radius < SMALL else "large")


def verdict(said: Said, seen: Reading) -> Verdict:
    """The verdict on one picture."""
    judged = {"sign": _sign, "group": _group}.get(str(said["kind"]), _scene)(said, seen)
    colours = tuple(said[key] for key in ("background_colour_1", "background_colour_2") if key in said)
    return replace(judged, background=seen.background == (said["background"], *colours))


def _sign(said: Said, seen: Reading) -> Verdict:
    alone = len(seen.signs) == 1 and not seen.objects and not seen.stray
    texts = [text for _, text in seen.signs]
    colours = [panel.colour for panel, _ in seen.signs]
    return Verdict(count=alone, colour=colours[:1] == [said["sign_colour"]], sign=texts == [said["text"]])


def _nothing_else(seen: Reading) -> bool:
    return not seen.signs and not seen.stray


def _group(said: Said, seen: Reading) -> Verdict:
    """Alike objects: all that are seen must be so, whether or not there are as many as the caption says."""
    named = _named(said)[0]
    some = bool(seen.objects)
    return Verdict(
        shape=some and all(map(named.shape_fits, seen.objects)),
        colour=some and all(map(named.colour_fits, seen.objects)),
        count=len(seen.objects) == said["count"] and _nothing_else(seen),
        size=None if named.size is None else some and all(map(named.size_fits, seen.objects)),
    )


def _scene(said: Said, seen: Reading) -> Verdict:
    named = _named(said)
    relation = said.get("relation")
    count = len(seen.objects) == len(named) and _nothing_else(seen)
    sizes_said = any(one.size is not None for one in named)
    chosen = _matched(named, seen.objects, relation)
    if chosen is None:
        wrong = Verdict(shape=False, colour=False, count=count)
        return replace(wrong, relation=False if relation else None, size=False if sizes_said else None)
    pairs = list(zip(named, chosen, strict=True))
    return Verdict(
        shape=all(one.shape_fits(mark) for one, mark in pairs),
        colour=all(one.colour_fits(mark) for one, mark in pairs),
        count=count,
        relation=holds(str(relation), chosen) if relation else None,
        size=all(one.size_fits(mark) for one, mark in pairs) if sizes_said else None,
    )


def _named(said: Said) -> list[_Named]:
    numbers = [i for i in (1, 2, 3) if f"shape_{i}" in said]
    sizes = [said.get(f"size_{i}") for i in numbers]
    return [
        _Named(str(said[f"shape_{i}"]), str(said[f"colour_{i}"]), None if size is None else str(size))
        for i, size in zip(numbers, sizes, strict=True)
    ]


def _matched(named: Sequence[_Named], seen: Sequence[Mark], relation: str | int | None) -> tuple[Mark, ...] | None:
    """The marks that fit the named objects best, in their order; None where there are fewer marks."""
    if len(seen) < len(named):
        return None

    def fit(chosen: tuple[Mark, ...]) -> tuple[int, bool, int]:
        pairs = list(zip(named, chosen, strict=True))
        looks = sum(one.shape_fits(mark) + one.colour_fits(mark) for one, mark in pairs)
        return looks, bool(relation) and holds(str(relation), chosen), sum(one.size_fits(mark) for one, mark in pairs)

    return max(permutations(seen, len(named)), key=fit)


def holds(relation: str, marks: Sequence[Mark]) -> bool:
    """Whether a relation of the world holds between the first mark and the others."""
    first, second = marks[:2]
    dx, dy = first.x - second.x, first.y - second.y
    if relation in RELATIONS:
        across, along = (dy, dx) if RELATIONS[relation][0] else (dx, dy)
        return along * sum(RELATIONS[relation]) > abs(across)
    if relation == "inside":
        return max(abs(dx), abs(dy)) + 0.8 * first.radius < second.radius
    if relation == "between":
        return _between(first, second, marks[2])
    raise ValueError(f"relation={relation!r}: a relation is one of {', '.join(RELATIONS)}, inside or between")


def _between(first: Mark, second: Mark, third: Mark) -> bool:
    """Whether the first lies on the middle part of the line from the second to the third, or near it."""
    ex, ey = third.x - second.x, third.y - second.y
    px, py = first.x - second.x, first.y - second.y
    length = math.hypot(ex, ey)
    if length < 1e-6:
        return False
    along, off = (px * ex + py * ey) / length**2, abs(px * ey - py * ex) / length
    return 0.1 < along < 0.9 and off < 0.3 * length
