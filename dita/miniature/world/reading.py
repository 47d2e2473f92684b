"""Captions back to what they say: the inverse of `words.py`, so that a picture can be judged by its prompt alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from dita.miniature.world.backgrounds import BACKGROUNDS
from dita.miniature.world.glyphs import GLYPHS
from dita.miniature.world.motion import MOTIONS
from dita.miniature.world.shapes import PLURALS, SHAPES
from dita.miniature.world.tables import BACKGROUND_COLOURS, COLOURS, COUNTS, RELATIONS, SIZES


def parse(caption: str) -> dict[str, str | int]:
    """What a caption of a scene or clip says, under the keys of `attributes`.

    Only what is said is there: no size that the caption leaves out, and no ink of a sign. A clip's caption has the key
    `motion` as well.

    Raises:
        ValueError: the caption is not of the world's grammar.

    >>> parse("a red circle on a white background")["colour_1"]
    'red'
    """
    found = _caption().fullmatch(" ".join(caption.split()))
    if not found:
        raise ValueError(
            f'{caption!r} is no caption of the world, such as "a large red circle left of a blue star on a white'
            ' background" or "a green sign saying "7K" on a grey to black gradient background"'
        )
    said = {key: value for key, value in found.groupdict().items() if value is not None}
    if ("shape_3" in said) != (said.get("relation") == "between"):
        raise ValueError(f'{caption!r} is no caption of the world: "between" takes two objects, joined by "and"')
    known: dict[str, str | int] = {"kind": _kind(said), "count": _count(said)}
    known |= {"relation": said["relation"]} if "relation" in said else {}
    for i in (1, 2, 3):
        known |= {f"{what}_{i}": said[f"{what}_{i}"] for what in ("shape", "colour", "size") if f"{what}_{i}" in said}
    if "number" in said:
        known["shape_1"] = next(shape for shape, plural in PLURALS.items() if plural == said["plural"])
        known["colour_1"] = said["group_colour"]
        known |= {"size_1": said["group_size"]} if "group_size" in said else {}
    known |= {key: said[key] for key in ("text", "sign_colour", "motion") if key in said}
    return known | _background(said["background"])


def _kind(said: dict[str, str]) -> str:
    if "text" in said:
        return "sign"
    if "number" in said:
        return "group"
    relation = said.get("relation")
    return "one" if relation is None else "two" if relation in RELATIONS else relation


def _count(said: dict[str, str]) -> int:
    return COUNTS[said["number"]] if "number" in said else 1 + sum(f"shape_{i}" in said for i in (2, 3))


def _background(words: str) -> dict[str, str]:
    kind, names = _backgrounds()[words]
    return {"background": kind} | {f"background_colour_{i}": name for i, name in enumerate(names, start=1)}


@cache
def _backgrounds() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every background's words, with its kind and colours."""
    known: dict[str, tuple[str, tuple[str, ...]]] = {}
    for kind, entry in BACKGROUNDS.items():
        pairs = [(a,) for a in BACKGROUND_COLOURS]
        names: list[tuple[str, ...]] = [*pairs] if entry.count == 1 else [(a, b) for (a,) in pairs for (b,) in pairs]
        known |= {entry.words(colours): (kind, colours) for colours in names if len(set(colours)) == entry.count}
    return known


@cache
def _caption() -> re.Pattern[str]:
    """The grammar of all captions as one pattern with named groups."""
    size, colour = _any(SIZES), _any(COLOURS)

    def thing(i: int) -> str:
        return rf"(?:a|an) (?:(?P<size_{i}>{size}) )?(?P<colour_{i}>{colour}) (?P<shape_{i}>{_any(SHAPES)})"

    group = (
        rf"(?P<number>{_any(COUNTS)}) (?:(?P<group_size>{size}) )?(?P<group_colour>{colour})"
        rf" (?P<plural>{_any(PLURALS.values())})"
    )
    # The second thing of "between" stands before "and" and a third one; other relations have but two things.
    related = rf"{thing(1)}(?: (?P<relation>{_any([*RELATIONS, 'inside', 'between'])}) {thing(2)}(?: and {thing(3)})?)?"
    sign = rf'(?:a|an) (?P<sign_colour>{colour}) sign saying "(?P<text>[{re.escape(GLYPHS)}]{{2,3}})"'
    motion = rf"(?: (?P<motion>{_any(MOTIONS)}))?"
    return re.compile(
        rf"(?:{related}|{group}|{sign}){motion} on (?:a|an) (?P<background>{_any(_backgrounds())}) background"
    )


def _any(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
