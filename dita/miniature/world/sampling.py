"""Random scenes: each kind of scene with its own layout, looks and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from dita.miniature.world.backgrounds import BACKGROUNDS
from dita.miniature.world.glyphs import text_width
from dita.miniature.world.scene import Background, Scene, Sign, Thing
from dita.miniature.world.shapes import REACH, SHAPES
from dita.miniature.world.split import check_split, looks, texts
from dita.miniature.world.tables import (
    BACKGROUND_COLOURS,
    BACKGROUND_RATES,
    COLOURS,
    CONTAINER_RADIUS,
    CONTAINERS,
    COUNTS,
    GROUP_RADII,
    KINDS,
    MARGIN,
    RELATIONS,
    ROW_RADIUS,
    SIZES,
)

T = TypeVar("T")


def sample_scene(rng: np.random.Generator, things: int | None = None, split: str = "train") -> Scene:
    """A random scene: of any kind, as often as KINDS says, or with `things` objects (one, or two with a relation).

    Colours and shapes are uniform over the split; no two objects of a relation look the same. A size is said in half of
    the captions.

    Raises:
        ValueError: `things` is neither None, 1 nor 2, or `split` none of SPLITS.
    """
    if things not in (None, 1, 2):
        raise ValueError(f"things={things!r}: ask for 1 or 2 objects, or None for any kind of scene")
    return sample_kind(rng, pick_by_rate(rng, KINDS) if things is None else ("one", "two")[things - 1], split)


def sample_kind(rng: np.random.Generator, kind: str, split: str = "train") -> Scene:
    """A random scene of one kind.

    Raises:
        ValueError: `kind` is none of KINDS, or `split` none of SPLITS.
    """
    check_kind(kind)
    check_split(split)
    return _SAMPLERS[kind](rng, split)


def check_kind(kind: str) -> None:
    """Raises ValueError where `kind` is none of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: a kind of scene is one of {', '.join(KINDS)}")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, each as likely."""
    return options[int(rng.random() * len(options))]


def pick_by_rate(rng: np.random.Generator, rates: Mapping[str, float]) -> str:
    """A name of `rates`, which sum to 1, as often as its rate says."""
    left = rng.random()
    for name, rate in rates.items():
        left -= rate
        if left < 0:
            return name
    return name


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between the two, uniform."""
    return low + (high - low) * rng.random()


def sample_background(rng: np.random.Generator) -> Background:
    """A background of different colours, its kind as often as BACKGROUND_RATES says."""
    kind = pick_by_rate(rng, BACKGROUND_RATES)
    names = list(BACKGROUND_COLOURS)
    return Background(kind, tuple(names.pop(int(rng.random() * len(names))) for _ in range(BACKGROUNDS[kind].count)))


def sample_alone(rng: np.random.Generator, look: tuple[str, str]) -> Thing:
    """An object of this (shape, colour), of any size, the middle of the picture more often than the border."""
    thing = _sample_sized(rng, look, SIZES)
    room = 0.5 - thing.radius - MARGIN
    x, y = (0.5 + room * (rng.random() - rng.random()) for _ in range(2))
    return replace(thing, x=x, y=y)


def _sample_sized(rng: np.random.Generator, look: tuple[str, str], sizes: Mapping[str, tuple[float, float]]) -> Thing:
    """An object with a size of `sizes`, said or not, in the middle of the picture."""
    size = pick(rng, list(sizes))
    return Thing(*look, size, 0.5, 0.5, uniform(rng, *sizes[size]), says_size=rng.random() < 0.5)


def _sample_other(rng: np.random.Generator, *taken: tuple[str, str]) -> tuple[str, str]:
    """A (shape, colour) that is none of `taken`."""
    while (look := (pick(rng, list(SHAPES)), pick(rng, list(COLOURS)))) in taken:
        pass
    return look


def _sample_one(rng: np.random.Generator, split: str) -> Scene:
    return Scene((sample_alone(rng, pick(rng, looks("alone", split))),), sample_background(rng))


def _sample_two(rng: np.random.Generator, split: str) -> Scene:
    relation = pick(rng, list(RELATIONS))
    look = pick(rng, looks(relation, split))
    first, second = _sample_sized(rng, look, SIZES), _sample_sized(rng, _sample_other(rng, look), SIZES)
    places = _sample_pair(rng, RELATIONS[relation], first.radius, second.radius)
    things = tuple(replace(thing, x=x, y=y) for thing, (x, y) in zip((first, second), places, strict=True))
    return Scene(things, sample_background(rng), relation)


def _sample_pair(
    rng: np.random.Generator, direction: tuple[int, int], first: float, second: float
) -> list[tuple[float, float]]:
    """Centres of two objects of radii `first` and `second` that do not touch, the first in `direction` of the second.

    Across the direction they are nearly in line, so that no other relation fits better.
    """
    apart = first + second + 2 * MARGIN
    room = 1 - first - second - 2 * MARGIN
    gap = uniform(rng, apart, max(apart, min(room, 0.62)))
    start = MARGIN + (first if sum(direction) < 0 else second)
    low = uniform(rng, start, start + max(room - gap, 0.0))
    along = (low, low + gap) if sum(direction) < 0 else (low + gap, low)
    across = 0.5 + uniform(rng, -0.12, 0.12)
    sway = uniform(rng, -0.06, 0.06)
    pairs = zip(along, (across + sway, across - sway), strict=True)
    return [(a, b) if direction[0] else (b, a) for a, b in pairs]


def _sample_group(rng: np.random.Generator, split: str) -> Scene:
    count = COUNTS[pick(rng, list(COUNTS))]
    model = _sample_sized(rng, pick(rng, looks("group", split)), GROUP_RADII[count])
    places = _sample_scatter(rng, count, model.radius)
    return Scene(tuple(replace(model, x=x, y=y) for x, y in places), sample_background(rng))


def _sample_scatter(rng: np.random.Generator, count: int, radius: float) -> list[tuple[float, float]]:
    """Centres of `count` objects anywhere in the picture that do not touch: the first layout that fits, of many."""
    low = radius + MARGIN
    apart = 2 * REACH * radius + MARGIN
    first, second = np.triu_indices(count, k=1)
    while True:
        layouts = low + (1 - 2 * low) * rng.random((32, count, 2))
        gaps = layouts[:, first] - layouts[:, second]  # (layouts, pairs, 2)
        fits = (np.square(gaps).sum(-1) >= apart * apart).all(-1)
        if fits.any():
            return [(x, y) for x, y in layouts[int(fits.argmax())].tolist()]


def _sample_inside(rng: np.random.Generator, split: str) -> Scene:
    look = pick(rng, looks("inside", split))
    inner = _sample_sized(rng, look, {"small": SIZES["small"]})
    colour = pick(rng, [name for name in COLOURS if name != look[1]])
    radius = uniform(rng, *CONTAINER_RADIUS)
    x, y = (uniform(rng, radius + MARGIN, 1 - radius - MARGIN) for _ in range(2))
    outer = Thing(pick(rng, CONTAINERS), colour, "large", x, y, radius, says_size=True)
    sway = (0.8 * radius - REACH * inner.radius) / 2  # a container is filled up to 0.8 radii at least
    inner = replace(inner, x=x + uniform(rng, -sway, sway), y=y + uniform(rng, -sway, sway))
    return Scene((inner, outer), sample_background(rng), "inside")


def _sample_between(rng: np.random.Generator, split: str) -> Scene:
    look = pick(rng, looks("between", split))
    second = _sample_other(rng, look)
    third = _sample_other(rng, look, second)
    radii = [uniform(rng, *ROW_RADIUS) for _ in range(3)]
    ends = (1, 2) if rng.random() < 0.5 else (2, 1)
    room = 1 - 2 * MARGIN - 2 * sum(radii) - 4 * MARGIN
    spare = np.diff(np.sort(rng.random(3)), prepend=0.0) * room  # before the row and in its two gaps
    along = [0.0] * 3
    edge = MARGIN
    for i, extra in zip((ends[0], 0, ends[1]), spare.tolist(), strict=True):
        along[i] = edge + extra + radii[i]
        edge = along[i] + radii[i] + 2 * MARGIN
    line = 0.5 + uniform(rng, -0.25, 0.25)
    across = [line + uniform(rng, -0.03, 0.03) for _ in range(3)]
    places = zip(along, across, strict=True) if rng.random() < 0.5 else zip(across, along, strict=True)
    things = zip((look, second, third), places, radii, strict=True)
    return Scene(
        tuple(Thing(*look, "small", x, y, radius) for look, (x, y), radius in things),
        sample_background(rng),
        "between",
    )


def _sample_sign(rng: np.random.Generator, split: str) -> Scene:
    text = pick(rng, texts(pick(rng, (2, 3)), split))
    width = uniform(rng, 0.6 if len(text) == 2 else 0.74, 0.85)
    glyph_height = uniform(rng, 0.27, min(0.4, (width - 0.11) / text_width(text)))
    height = glyph_height + uniform(rng, 0.12, 0.2)
    x, y = (uniform(rng, MARGIN + extent / 2, 1 - MARGIN - extent / 2) for extent in (width, height))
    sign = Sign(text, pick(rng, list(COLOURS)), x, y, width, height, glyph_height)
    return Scene((), sample_background(rng), sign=sign)


_SAMPLERS: dict[str, Callable[[np.random.Generator, str], Scene]] = {
    "one": _sample_one,
    "two": _sample_two,
    "group": _sample_group,
    "inside": _sample_inside,
    "between": _sample_between,
    "sign": _sample_sign,
}
