"""What lies where in a drawing, coarsely: for each image token the figure it belongs to, its colour, and where in it.

The flow training reads it from the middle of the transformer (`flow.FlowLoss`): a model that must know early what it
draws where learns to draw it sooner, as with features of a pretrained network (REPA, arXiv 2410.06940).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dita.miniature import world
from dita.miniature.world.glyphs import ADVANCE

FIGURES = ("background", *world.SHAPES, "panel", *world.GLYPHS)
COLOURS = ("background", *world.COLOURS)
_FIGURE = {name: i for i, name in enumerate(FIGURES)}
_COLOUR = {name: i for i, name in enumerate(COLOURS)}


@dataclass(frozen=True)
class Layout:
    """Of N drawings and T tokens in rows.

    figure, colour: class numbers (N, T), uint8, of FIGURES and of COLOURS, at the centre of each token.
    place: (N, T, 2), float16: x and y from the middle of the token's figure, over its radius or half its sides. 0 on
        the background.

    An object owns the disc about it, holes and corners included; a glyph owns its box.
    """

    figure: Tensor
    colour: Tensor
    place: Tensor

    def __getitem__(self, rows: Tensor) -> Layout:
        return Layout(self.figure[rows], self.colour[rows], self.place[rows])

    def to(self, device: torch.device) -> Layout:
        """The same on `device`."""
        return Layout(self.figure.to(device), self.colour.to(device), self.place.to(device))


def layout(scenes: Sequence[world.Scene], grid: int) -> Layout:
    """The layouts of scenes on grid * grid tokens."""
    classes = np.zeros((len(scenes), grid, grid, 2), np.uint8)
    places = np.zeros((len(scenes), grid, grid, 2), np.float32)
    at = (np.arange(grid) + 0.5) / grid
    grid_points = np.stack(np.broadcast_arrays(at[None, :], at[:, None]), axis=-1)  # (y, x, 2): x, then y
    for i, scene in enumerate(scenes):
        for thing in reversed(scene.things):  # the first lies on top
            place = (grid_points - (thing.x, thing.y)) / thing.radius
            inside = (place**2).sum(-1) < 1.1**2
            classes[i, inside] = _FIGURE[thing.shape], _COLOUR[thing.colour]
            places[i, inside] = place[inside]
        if (sign := scene.sign) is not None:
            place = (grid_points - (sign.x, sign.y)) / (sign.width / 2, sign.height / 2)
            inside = (abs(place) < 1).all(-1)
            classes[i, inside] = _FIGURE["panel"], _COLOUR[sign.colour]
            places[i, inside] = place[inside]
            for j, glyph in enumerate(sign.text):
                middle = sign.x + (j - (len(sign.text) - 1) / 2) * ADVANCE * sign.glyph_height
                half = sign.glyph_height / 2
                place = (grid_points - (middle, sign.y)) / (ADVANCE * half, half)
                inside = (abs(place) < 1).all(-1)
                classes[i, inside, 0] = _FIGURE[glyph]
                places[i, inside] = place[inside]
    tokens = (len(scenes), grid * grid)
    figure, colour = torch.from_numpy(classes).view(*tokens, 2).unbind(-1)
    return Layout(figure.contiguous(), colour.contiguous(), torch.from_numpy(places).view(*tokens, 2).half())


class Reader(nn.Linear):
    """The head that reads a layout from the transformer's hidden states (B, T, C); it only trains."""

    SIZES = (len(FIGURES), len(COLOURS), 2)

    def __init__(self, width: int) -> None:
        super().__init__(width, sum(self.SIZES))

    def loss(self, hidden: Tensor, truth: Layout) -> Tensor:
        """Cross entropies of figure and colour and, of tokens with a figure, the absolute error of the place."""
        figure, colour, place = self(hidden).float().split(self.SIZES, dim=-1)
        told = nn.functional.cross_entropy(figure.mT, truth.figure.long())
        told = told + nn.functional.cross_entropy(colour.mT, truth.colour.long())
        somewhere = (truth.figure > 0)[..., None]
        missed = ((place - truth.place.float()).abs() * somewhere).sum() / (2 * somewhere.sum()).clamp(min=1)
        return told + missed
