"""What lies where in a drawing, coarsely: for each image token the figure and the colour that it belongs to.

The flow training reads it from the middle of the transformer (`flow.FlowLoss`): a model that must know early what it
draws where learns to draw it sooner, as with features of a pretrained network (REPA, arXiv 2410.06940).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dita.miniature import world
from dita.miniature.world.glyphs import ADVANCE

FIGURES = ("background", *world.SHAPES, "panel", *world.GLYPHS)
COLOURS = ("background", *world.COLOURS)
_FIGURE = {name: i for i, name in enumerate(FIGURES)}
_COLOUR = {name: i for i, name in enumerate(COLOURS)}


def layout(scenes: Sequence[world.Scene], grid: int) -> Tensor:
    """Class numbers (N, grid * grid, 2), uint8: of FIGURES and of COLOURS, at the centre of each token.

    An object owns the disc about it, holes and corners included; a glyph owns its box.
    """
    classes = np.zeros((len(scenes), grid, grid, 2), np.uint8)
    at = (np.arange(grid) + 0.5) / grid
    x, y = at[None, :], at[:, None]
    for of_scene, scene in zip(classes, scenes, strict=True):
        for thing in reversed(scene.things):  # the first lies on top
            inside = (x - thing.x) ** 2 + (y - thing.y) ** 2 < (1.1 * thing.radius) ** 2
            of_scene[inside] = _FIGURE[thing.shape], _COLOUR[thing.colour]
        if (sign := scene.sign) is not None:
            panel = (abs(x - sign.x) < sign.width / 2) & (abs(y - sign.y) < sign.height / 2)
            of_scene[panel] = _FIGURE["panel"], _COLOUR[sign.colour]
            for i, glyph in enumerate(sign.text):
                middle = sign.x + (i - (len(sign.text) - 1) / 2) * ADVANCE * sign.glyph_height
                box = (abs(x - middle) < ADVANCE * sign.glyph_height / 2) & (abs(y - sign.y) < sign.glyph_height / 2)
                of_scene[box, 0] = _FIGURE[glyph]
    return torch.from_numpy(classes.reshape(len(scenes), grid * grid, 2))
