"""The attributes of a scene as class numbers: what the text encoders learn to read, and the judge to see."""

from __future__ import annotations

import torch
from torch import Tensor

from dita.miniature import world

ABSENT = "-"
"""The class of an attribute that a scene does not have."""

_THING = {"shape": (ABSENT, *world.SHAPES), "colour": (ABSENT, *world.COLOURS), "size": (ABSENT, *world.SIZES)}

CLASSES: dict[str, tuple[str, ...]] = {
    "kind": tuple(world.KINDS),
    "count": ("1", "2", "3", "4"),
    "relation": (ABSENT, *world.RELATIONS, "inside", "between"),
    **{f"{what}_{i}": classes for i in (1, 2, 3) for what, classes in _THING.items()},
    "sign_colour": (ABSENT, *world.COLOURS),
    **{f"glyph_{i}": (ABSENT, *world.GLYPHS) for i in (1, 2, 3)},
    "background": tuple(world.BACKGROUNDS),
    "background_colour_1": (ABSENT, *world.BACKGROUND_COLOURS),
    "background_colour_2": (ABSENT, *world.BACKGROUND_COLOURS),
}
"""Every attribute and its classes, in the order of the columns of `labels`."""

SIZES = [len(classes) for classes in CLASSES.values()]
"""Number of classes of each attribute."""

_NUMBER = {name: {word: i for i, word in enumerate(classes)} for name, classes in CLASSES.items()}


def names(scene: world.Scene, said: bool = False) -> dict[str, str]:
    """The class of every attribute of a scene. With `said`, a size that the caption does not say is absent."""
    known = {name: str(value) for name, value in world.attributes(scene).items()}
    known |= {f"glyph_{i}": glyph for i, glyph in enumerate(known.pop("text", ""), start=1)}
    if said:
        known |= {f"size_{i}": ABSENT for i, thing in enumerate(scene.things[:3], start=1) if not thing.says_size}
    return {name: known.get(name, ABSENT) for name in CLASSES}


def labels(scenes: list[world.Scene], said: bool = False) -> Tensor:
    """Class numbers (N, attributes), int64."""
    rows = [[_NUMBER[name][word] for name, word in names(scene, said).items()] for scene in scenes]
    return torch.tensor(rows, dtype=torch.int64).view(len(scenes), len(CLASSES))
