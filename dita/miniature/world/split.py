"""The held-out split: combinations of shape, colour and relation, and texts of signs, that training never sees.

About 10 % are held out, decided by a hash of their words that is the same everywhere and always.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import product

from dita.miniature.world.glyphs import GLYPHS
from dita.miniature.world.scene import Scene
from dita.miniature.world.shapes import SHAPES
from dita.miniature.world.tables import COLOURS

SPLITS = ("train", "held-out", "all")
"""Which scenes may be drawn: those of training, those that training never sees, or both."""

SALT = 198
"""Begins what is hashed. Chosen so that every relation and motion has several shapes and colours held out."""


def is_held_out(scene: Scene) -> bool:
    """Whether training never sees such a scene.

    Decided by shape and colour of the first object with the relation, where one object is "alone" and alike ones are a
    "group"; of a sign by its text. Sizes, places, backgrounds and the other objects do not count.
    """
    if scene.sign is not None:
        return holds_out(scene.sign.text)
    first = scene.things[0]
    relation = scene.relation or ("alone" if len(scene.things) == 1 else "group")
    return holds_out(f"{first.colour} {first.shape} {relation}")


def holds_out(words: str) -> bool:
    """Whether `words` are of the tenth that is held out."""
    return int.from_bytes(hashlib.sha256(f"{SALT} {words}".encode()).digest()[:8], "big") % 10 == 0


def check_split(split: str) -> None:
    """Raises ValueError where `split` is none of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: a split is one of {', '.join(SPLITS)}")


def _in_split(words: str, split: str) -> bool:
    return split == "all" or holds_out(words) == (split == "held-out")


@cache
def looks(relation: str, split: str) -> tuple[tuple[str, str], ...]:
    """Every (shape, colour) of a first object in this relation ("alone", "group", a motion) and split."""
    check_split(split)
    return tuple((s, c) for s, c in product(SHAPES, COLOURS) if _in_split(f"{c} {s} {relation}", split))


@cache
def texts(length: int, split: str) -> tuple[str, ...]:
    """Every text of `length` glyphs in this split."""
    check_split(split)
    return tuple(text for text in map("".join, product(GLYPHS, repeat=length)) if _in_split(text, split))
