"""The classes of shapes-dit: one object of a shape and a colour on a plain background of a colour."""

from __future__ import annotations

from itertools import product

import numpy as np

from dita.miniature import world
from dita.miniature.world.sampling import sample_alone

PARTS: tuple[tuple[str, str, str], ...] = tuple(product(world.SHAPES, world.COLOURS, world.BACKGROUND_COLOURS))
"""Shape, colour and background's colour of each class, by its number."""


def scene(number: int, rng: np.random.Generator) -> world.Scene:
    """A random scene of the class `number`: the object has any place and size."""
    shape, colour, background = PARTS[number]
    return world.Scene((sample_alone(rng, (shape, colour)),), world.Background("plain", (background,)))


def scenes(count: int, seed: int) -> list[world.Scene]:
    """`count` random scenes, classes uniform. None is held out: of a class that it never saw, a model knows nothing."""
    rng = np.random.default_rng(seed)
    return [scene(int(rng.random() * len(PARTS)), rng) for _ in range(count)]


def number(scene: world.Scene) -> int:
    """The class of such a scene."""
    thing = scene.things[0]
    return PARTS.index((thing.shape, thing.colour, *scene.background.colours))


def names() -> list[str]:
    """The caption of each class, which says no size: "a red circle on a white background"."""
    return [
        world.caption(
            world.Scene((world.Thing(shape, colour, "small", 0.5, 0.5, 0.2),), world.Background("plain", (ground,)))
        )
        for shape, colour, ground in PARTS
    ]


def prompts(count: int, seed: int = 0) -> list[str]:
    """`count` names, in an order that depends on the seed; each occurs again only when all have."""
    order = np.random.default_rng(seed).permutation(len(PARTS))
    every = names()
    return [every[order[i % len(order)]] for i in range(count)]
