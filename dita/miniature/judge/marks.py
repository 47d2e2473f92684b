"""What there is to see in a picture, as marks (one an object, a panel or a glyph), and as the maps a network learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dita.miniature import world
from dita.miniature.world.glyphs import ADVANCE

OTHER = "other"
"""The class of what is seen but is not of the world: a blob, a colour off the palette, a glyph that no one reads."""

LARGE = 0.245
"""Radius from which an object belongs to the layer of large ones, so that one inside another has a layer of its own."""

GRID = 16
"""Side of the maps: the places where an object can be, each a cell of 4x4 pixels of a 64x64 picture."""

SPREAD = 0.8
"""Deviation of the bump that an object leaves in its layer's map of presence, in cells."""

LAYERS: dict[str, tuple[str, ...]] = {
    "object": (*world.SHAPES, OTHER),
    "large": (*world.SHAPES, "sign", OTHER),
    "glyph": (*world.GLYPHS, OTHER),
}
"""The layers of marks and the kinds of each. Marks of one layer lie apart; those of different ones may overlap."""

COLOURS = (*world.COLOURS, OTHER)
"""Colours of a mark of the layers "object" and "large"."""

BACKGROUND_KINDS = (*world.BACKGROUNDS, OTHER)
BACKGROUND_COLOURS = (*world.BACKGROUND_COLOURS, "-")
"""Classes of a background; a plain one has "-" for a second colour."""

SLOTS = 6
"""Most marks of a layer in one picture."""


@dataclass(frozen=True)
class Mark:
    """One thing seen: its layer, kind and colour (of COLOURS; "-" for a glyph), centre and radius.

    Lengths are fractions of the picture's side. The radius of a sign is half its width, of a glyph half its height.
    """

    layer: str
    kind: str
    colour: str
    x: float
    y: float
    radius: float


def object_mark(shape: str, colour: str, x: float, y: float, radius: float) -> Mark:
    """The mark of an object, in the layer that its radius asks for."""
    return Mark("large" if radius >= LARGE else "object", shape, colour, x, y, radius)


def glyph_places(sign: world.Sign) -> list[tuple[float, float]]:
    """The middle of each glyph of a sign."""
    first = sign.x - (len(sign.text) - 1) / 2 * ADVANCE * sign.glyph_height
    return [(first + i * ADVANCE * sign.glyph_height, sign.y) for i in range(len(sign.text))]


def marks(scene: world.Scene) -> list[Mark]:
    """Everything that the drawing of a scene shows; a character that is no glyph is not drawn and has no mark."""
    found = [object_mark(t.shape, t.colour, t.x, t.y, t.radius) for t in scene.things]
    if scene.sign is not None:
        sign = scene.sign
        found.append(Mark("large", "sign", sign.colour, sign.x, sign.y, sign.width / 2))
        found += [
            Mark("glyph", glyph, "-", x, y, sign.glyph_height / 2)
            for glyph, (x, y) in zip(sign.text, glyph_places(sign), strict=True)
            if glyph in world.GLYPHS
        ]
    return found


@dataclass(frozen=True)
class LayerTarget:
    """What a network should say of one layer, for N pictures and each cell of the grid.

    presence: (N, GRID, GRID), 1 in the cell that is nearest to a mark's centre, less around it.
    kind, colour: (N, GRID, GRID), class numbers of the nearest mark.
    geometry: (N, 3, GRID, GRID), from the cell's middle to the mark's centre in cells (x, y), and the logarithm of the
        radius.
    """

    presence: Tensor
    kind: Tensor
    colour: Tensor
    geometry: Tensor


def layer_target(layer: str, seen: Sequence[Sequence[Mark]]) -> LayerTarget:
    """The target of `layer` for the marks of each picture.

    Raises:
        ValueError: a picture has more than SLOTS marks of the layer.
    """
    mine = [[mark for mark in picture if mark.layer == layer] for picture in seen]
    most = max(map(len, mine), default=0)
    if most > SLOTS:
        raise ValueError(f"a picture has {most} marks of the layer {layer!r}, at most {SLOTS} are allowed")
    kinds = LAYERS[layer]
    empty = (-1e3, -1e3, 0.0, 0.0, 0.0)
    rows = [
        [(m.x * GRID - 0.5, m.y * GRID - 0.5, math.log(m.radius), kinds.index(m.kind), _colour(m)) for m in picture]
        + [empty] * (SLOTS - len(picture))
        for picture in mine
    ]
    table = torch.tensor(rows, dtype=torch.float32).view(len(mine), SLOTS, 5)
    cells = torch.arange(GRID, dtype=torch.float32)
    dx = table[:, :, 0, None, None] - cells  # (N, SLOTS, 1, GRID)
    dy = table[:, :, 1, None, None] - cells[:, None]  # (N, SLOTS, GRID, 1)
    nearest = (dx.square() + dy.square()).min(dim=1)
    slot = nearest.indices[:, None]  # (N, 1, GRID, GRID)
    pick = [torch.gather(part.expand(-1, -1, GRID, GRID), 1, slot)[:, 0] for part in (dx, dy)]
    flat = slot.flatten(1)
    log_radius, kind, colour = (torch.gather(table[:, :, i], 1, flat).view(-1, GRID, GRID) for i in (2, 3, 4))
    centre_dx, centre_dy = (table[:, :, i] - table[:, :, i].round() for i in (0, 1))
    # The cell nearest to the centre counts as the centre itself: its presence is exactly 1.
    own = torch.gather(centre_dx.square() + centre_dy.square(), 1, flat).view(-1, GRID, GRID)
    presence = torch.exp((own - nearest.values) / (2 * SPREAD**2)).clamp(max=1)
    return LayerTarget(presence, kind.long(), colour.long(), torch.stack([*pick, log_radius], dim=1))


def _colour(mark: Mark) -> int:
    return COLOURS.index(mark.colour) if mark.layer != "glyph" else 0


def background_target(backgrounds: Sequence[tuple[str, ...]]) -> Tensor:
    """Class numbers (N, 3) of the kind and the two colours of backgrounds, given as (kind, colour, ...)."""
    rows = []
    for kind, *colours in backgrounds:
        first, second = (*colours, "-", "-")[:2]
        rows.append([BACKGROUND_KINDS.index(kind), BACKGROUND_COLOURS.index(first), BACKGROUND_COLOURS.index(second)])
    return torch.tensor(rows, dtype=torch.int64).view(-1, 3)
