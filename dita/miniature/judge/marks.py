"""What there is to see in a picture, as marks (one an object, a panel or a glyph), and as the maps a network learns."""

from __future__ import annotations

from dataclasses import dataclass

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
