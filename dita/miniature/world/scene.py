"""A drawing as plain data: objects, a background, a relation or a sign, and what is true of them."""

from __future__ import annotations

from dataclasses import dataclass

from dita.miniature.world.backgrounds import BACKGROUNDS
from dita.miniature.world.tables import BACKGROUND_COLOURS, COLOURS, RELATIONS


def with_article(words: str) -> str:
    """A noun phrase with "a" or "an" before it."""
    return ("an " if words[0] in "aeiou" else "a ") + words


@dataclass(frozen=True)
class Thing:
    """One object: `shape` of SHAPES, `colour` of COLOURS, `size` of SIZES; centre, radius as fractions of the side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    says_size: bool = False

    def words(self) -> str:
        """The noun phrase of this object, with its article."""
        return with_article(self.noun(self.shape))

    def noun(self, shape: str) -> str:
        """The size where it is said, the colour, and `shape` as the noun."""
        return " ".join(([self.size] if self.says_size else []) + [self.colour, shape])


@dataclass(frozen=True)
class Sign:
    """A panel of `colour` of COLOURS that shows `text`, two or three of GLYPHS.

    Its centre, width and height and the height of its glyphs are fractions of the picture's side.
    """

    text: str
    colour: str
    x: float
    y: float
    width: float
    height: float
    glyph_height: float

    def words(self) -> str:
        """The noun phrase of this sign, with its article."""
        return f'{with_article(self.colour)} sign saying "{self.text}"'

    def ink(self) -> str:
        """The colour of the glyphs: white or black, whichever stands out more from the panel (WCAG contrast)."""
        white, panel, black = (
            _luminance(rgb) + 0.05
            for rgb in (BACKGROUND_COLOURS["white"], COLOURS[self.colour], BACKGROUND_COLOURS["black"])
        )
        return "white" if white / panel > panel / black else "black"


def _luminance(rgb: tuple[int, int, int]) -> float:
    """Relative luminance of an sRGB colour: 0 for black, 1 for white."""
    red, green, blue = ((v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@dataclass(frozen=True)
class Background:
    """What lies behind the objects: `kind` of BACKGROUNDS with the names of the colours that it uses."""

    kind: str
    colours: tuple[str, ...]

    def words(self) -> str:
        """The noun phrase of this background, with its article."""
        return f"{with_article(BACKGROUNDS[self.kind].words(self.colours))} background"


@dataclass(frozen=True)
class Scene:
    """A drawing as data: one to four objects, or a sign.

    `relation` says where the first object is: a word of RELATIONS, seen from the second; "inside" the second; "between"
    the second and the third. Several objects without a relation are a group of alike ones. The first object lies on
    top of the others.
    """

    things: tuple[Thing, ...]
    background: Background
    relation: str | None = None
    sign: Sign | None = None

    @property
    def kind(self) -> str:
        """The kind of scene, of KINDS."""
        if self.sign is not None:
            return "sign"
        if self.relation is None:
            return "one" if len(self.things) < 2 else "group"
        return "two" if self.relation in RELATIONS else self.relation


def attributes(scene: Scene) -> dict[str, str | int]:
    """What is true of the scene, for a judge. A key is there only where it applies:

    - `kind`: of KINDS; `count`: the number of objects, 1 to 4 (a sign counts as one).
    - `relation`: of RELATIONS, "inside" or "between"; of scenes of two or three objects that are no group.
    - `shape_1`, `colour_1`, `size_1`: of the first object, and with `_2` and `_3` of the others, as the caption names
      them; of a group, one entry for all. The size is true whether or not the caption says it (`Thing.says_size`).
    - `text`, `sign_colour`, `ink`: of a sign.
    - `background`: of BACKGROUNDS; `background_colour_1` and, but for a plain one, `background_colour_2`.
    """
    known: dict[str, str | int] = {"kind": scene.kind, "count": max(len(scene.things), int(scene.sign is not None))}
    if scene.relation is not None:
        known["relation"] = scene.relation
    for i, thing in enumerate(scene.things[: 1 if scene.kind == "group" else None], start=1):
        known |= {f"shape_{i}": thing.shape, f"colour_{i}": thing.colour, f"size_{i}": thing.size}
    if scene.sign is not None:
        known |= {"text": scene.sign.text, "sign_colour": scene.sign.colour, "ink": scene.sign.ink()}
    known["background"] = scene.background.kind
    return known | {f"background_colour_{i}": name for i, name in enumerate(scene.background.colours, start=1)}
