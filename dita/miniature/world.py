"""A world of captioned drawings, made by the program itself: the training and evaluation data of the miniature models.

A `Scene` is plain data. `sample_scene` draws one at random, `caption` says it in words, `draw` paints it at any size
with signed distances (anti-aliased edges). Shapes, colours, relations and backgrounds are tables: a new kind is a new
entry. Lengths are fractions of the picture's side; x grows to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (245, 220, 30),
    "green": (35, 160, 60),
    "cyan": (40, 205, 220),
    "blue": (35, 70, 215),
    "purple": (125, 45, 165),
    "pink": (245, 120, 190),
}
"""Colours of objects, as 8-bit RGB."""

BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "grey": (140, 140, 140),
    "black": (15, 15, 15),
    "beige": (225, 205, 170),
}
"""Colours of backgrounds, as 8-bit RGB."""

SIZES: dict[str, tuple[float, float]] = {"small": (0.11, 0.13), "large": (0.19, 0.22)}
"""Range of an object's radius for each size word."""

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Direction from the second object to the first, as (x, y)."""

MARGIN = 0.03
"""Least distance of an object from the picture's border, and half the least gap between two objects."""


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
        words = " ".join(([self.size] if self.says_size else []) + [self.colour, self.shape])
        return ("an " if words[0] in "aeiou" else "a ") + words


@dataclass(frozen=True)
class Background:
    """What lies behind the objects: `kind` of BACKGROUNDS with the names of the colours that it uses."""

    kind: str
    colours: tuple[str, ...]

    def words(self) -> str:
        """The noun phrase of this background, with its article."""
        return f"a {BACKGROUNDS[self.kind].words(self.colours)} background"


@dataclass(frozen=True)
class Scene:
    """A drawing as data: one or two objects; `relation` of RELATIONS says where the first is, seen from the second."""

    things: tuple[Thing, ...]
    background: Background
    relation: str | None = None


def _circle(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - np.float32(0.92)


def _square(x: Floats, y: Floats) -> Floats:
    return _box(x, y, 0.8, 0.8)


def _box(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    dx, dy = np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height)
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.22)


def _cross(x: Floats, y: Floats) -> Floats:
    return np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95))


def _polygon(corners: Sequence[tuple[float, float]]) -> Callable[[Floats, Floats], Floats]:
    """Signed distance to a closed polygon (negative inside, even-odd rule)."""

    def distance(x: Floats, y: Floats) -> Floats:
        nearest = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
            ex, ey = np.float32(bx - ax), np.float32(by - ay)
            px, py = x - np.float32(ax), y - np.float32(ay)
            along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.square(px - along * ex) + np.square(py - along * ey))
            if by != ay:
                inside ^= ((ay <= y) != (by <= y)) & (px < ex * py / ey)
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)

    return distance


def _on_circle(turns: Sequence[float], radii: Sequence[float], drop: float = 0.0) -> list[tuple[float, float]]:
    """Corners at `turns` (fractions of a full turn, clockwise from the top) and `radii`, moved down by `drop`."""
    angles = [2 * np.pi * turn for turn in turns]
    return [(float(r * np.sin(a)), float(drop - r * np.cos(a))) for a, r in zip(angles, radii, strict=True)]


def _heart_outline() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(float(a / 17), float(-(b + 2.5) / 17)) for a, b in zip(x, y, strict=True)]


SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon(_on_circle([0, 1 / 3, 2 / 3], [1.1] * 3, drop=0.2)),
    "star": _polygon(_on_circle([i / 10 for i in range(10)], [1.05, 0.45] * 5, drop=0.05)),
    "ring": _ring,
    "cross": _cross,
    "heart": _polygon(_heart_outline()),
}
"""Signed distance of each shape at points (x, y), in units of the object's radius: negative inside."""


@dataclass(frozen=True)
class _BackgroundKind:
    count: int
    words: Callable[[tuple[str, ...]], str]
    paint: Callable[[Floats, Floats, Floats], Floats]


BACKGROUNDS: dict[str, _BackgroundKind] = {
    "plain": _BackgroundKind(
        count=1,
        words=lambda names: names[0],
        paint=lambda x, y, rgb: np.broadcast_to(rgb[:, 0, None, None, :], (*x.shape, 3)),
    ),
    "gradient": _BackgroundKind(
        count=2,
        words=lambda names: f"{names[0]} to {names[1]} gradient",
        paint=lambda x, y, rgb: rgb[:, 0, None, None, :] * (1 - y[..., None]) + rgb[:, 1, None, None, :] * y[..., None],
    ),
}
"""Each kind: how many colours it takes, its words, and its paint: (x, y, rgb of (N, count, 3)) -> (N, H, W, 3).
A gradient runs from the first colour at the top to the second at the bottom."""


def sample_scene(rng: np.random.Generator, things: int | None = None) -> Scene:
    """A random scene with `things` objects (1 or 2; by default 40 % have one object).

    Colours and shapes are uniform; two objects differ in shape or in colour. A size is said in half of the captions.

    Raises:
        ValueError: `things` is neither None, 1 nor 2.
    """
    if things not in (None, 1, 2):
        raise ValueError(f"things={things!r}: a scene has 1 or 2 objects")
    count = things or (1 if rng.random() < 0.4 else 2)
    kind = "plain" if rng.random() < 0.7 else "gradient"
    names = rng.permutation(list(BACKGROUND_COLOURS))[: BACKGROUNDS[kind].count]
    background = Background(kind, tuple(str(name) for name in names))
    looks = [_sample_look(rng) for _ in range(count)]
    while count == 2 and looks[0][:2] == looks[1][:2]:
        looks[1] = _sample_look(rng)
    radii = [float(rng.uniform(*SIZES[size])) for _, _, size, _ in looks]
    if count == 1:
        places = [_sample_place(rng, radii[0])]
        relation = None
    else:
        relation = str(rng.choice(list(RELATIONS)))
        places = _sample_pair(rng, RELATIONS[relation], radii[0], radii[1])
    return Scene(
        tuple(
            Thing(shape, colour, size, x, y, radius, says_size)
            for (shape, colour, size, says_size), (x, y), radius in zip(looks, places, radii, strict=True)
        ),
        background,
        relation,
    )


def _sample_look(rng: np.random.Generator) -> tuple[str, str, str, bool]:
    shape, colour, size = (str(rng.choice(list(table))) for table in (SHAPES, COLOURS, SIZES))
    return shape, colour, size, bool(rng.random() < 0.5)


def _sample_place(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """A centre inside the picture, the middle more often than the border."""
    room = 0.5 - radius - MARGIN
    x, y = 0.5 + room * rng.triangular(-1, 0, 1, size=2)
    return float(x), float(y)


def _sample_pair(
    rng: np.random.Generator, direction: tuple[int, int], first: float, second: float
) -> list[tuple[float, float]]:
    """Centres of two objects of radii `first` and `second` that do not touch, the first in `direction` of the second.

    Across the direction they are nearly in line, so that no other relation fits better.
    """
    apart = first + second + 2 * MARGIN
    room = 1 - first - second - 2 * MARGIN
    gap = float(rng.uniform(apart, max(apart, min(room, 0.62))))
    start = MARGIN + (first if sum(direction) < 0 else second)
    low = float(rng.uniform(start, start + max(room - gap, 0.0)))
    along = (low, low + gap) if sum(direction) < 0 else (low + gap, low)
    across = 0.5 + float(rng.uniform(-0.12, 0.12))
    sway = float(rng.uniform(-0.06, 0.06))
    pairs = zip(along, (across + sway, across - sway), strict=True)
    return [(a, b) if direction[0] else (b, a) for a, b in pairs]


def caption(scene: Scene) -> str:
    """The scene in words: "a red circle left of a large blue star on a white background"."""
    subject = f" {scene.relation} ".join(thing.words() for thing in scene.things)
    return f"{subject} on {scene.background.words()}"


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    tables = (SHAPES, COLOURS, BACKGROUND_COLOURS, SIZES, RELATIONS)
    words = {word for table in tables for entry in table for word in entry.split()}
    return sorted(words | {"a", "an", "on", "to", "gradient", "background"})


def draw(scene: Scene, size: int = 64) -> Picture:
    """The scene as an anti-aliased RGB picture: uint8 (size, size, 3)."""
    return draw_all([scene], size)[0]


def draw_all(scenes: Sequence[Scene], size: int = 64) -> Picture:
    """Many scenes at once: uint8 (N, size, size, 3). Thousands of 64x64 pictures a second on one core."""
    if size < 1:
        raise ValueError(f"size={size}: a picture has at least 1 pixel a side")
    centres: Floats = ((np.arange(size) + 0.5) / size).astype(np.float32)
    canvas = np.empty((len(scenes), size, size, 3), dtype=np.float32)
    for kind, painter in BACKGROUNDS.items():
        rows = [i for i, scene in enumerate(scenes) if scene.background.kind == kind]
        if rows:
            rgb = np.array([[BACKGROUND_COLOURS[n] for n in scenes[i].background.colours] for i in rows], np.float32)
            x = np.broadcast_to(centres[None, None, :], (len(rows), size, size))
            y = np.broadcast_to(centres[None, :, None], (len(rows), size, size))
            canvas[rows] = painter.paint(x, y, rgb)
    for layer in range(max((len(scene.things) for scene in scenes), default=0)):
        for shape, distance in SHAPES.items():
            rows = [i for i, s in enumerate(scenes) if len(s.things) > layer and s.things[layer].shape == shape]
            if rows:
                _paint(canvas, rows, [scenes[i].things[layer] for i in rows], distance, centres)
    return np.rint(canvas).astype(np.uint8)


def _paint(
    canvas: Floats,
    rows: list[int],
    things: list[Thing],
    distance: Callable[[Floats, Floats], Floats],
    centres: Floats,
) -> None:
    """Lays one object over each of the canvas rows; the edge's coverage is half a pixel wide to either side."""
    place = np.array([(thing.x, thing.y, thing.radius) for thing in things], np.float32)
    rgb = np.array([COLOURS[thing.colour] for thing in things], np.float32)
    x0, y0, radius = (place[:, i, None, None] for i in range(3))
    x, y = np.broadcast_arrays((centres[None, None, :] - x0) / radius, (centres[None, :, None] - y0) / radius)
    coverage = np.clip(0.5 - distance(x, y) * radius * len(centres), 0, 1)[..., None]
    canvas[rows] += coverage * (rgb[:, None, None, :] - canvas[rows])


def scenes(count: int, seed: int) -> list[Scene]:
    """`count` random scenes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def pictures(count: int, seed: int, size: int = 64) -> tuple[Picture, list[str]]:
    """`count` random drawings and their captions: uint8 (count, size, size, 3) and as many strings."""
    drawn = scenes(count, seed)
    return draw_all(drawn, size), [caption(scene) for scene in drawn]


def prompts(count: int, seed: int = 0) -> list[str]:
    """`count` different captions for evaluation, one- and two-object scenes in turn; the same for the same seed."""
    rng = np.random.default_rng([seed, 0x9E3779B9])
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen.setdefault(caption(sample_scene(rng, things=1 + len(chosen) % 2)))
    return list(chosen)
