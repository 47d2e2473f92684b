"""What lies behind the objects: each kind of background with its words and its paint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dita.miniature.world.tables import TEXTURE, Floats


@dataclass(frozen=True)
class BackgroundKind:
    """`count` colours; `words` of their names; `paint` mixes them.

    `paint` takes the picture's size in pixels and returns the share of the second colour in each pixel, as (size, size)
    or what broadcasts to it.
    """

    count: int
    words: Callable[[tuple[str, ...]], str]
    paint: Callable[[int], Floats]


def _centres(size: int) -> Floats:
    return ((np.arange(size) + 0.5) / size).astype(np.float32)


def _wave(size: int) -> Floats:
    """Mean over each of `size` pixels in a row of a wave that is +1 and -1 for TEXTURE each in turn, +1 first."""
    borders = np.arange(size + 1) / size / TEXTURE
    area = 1 - np.abs(borders % 2 - 1)  # the wave's integral, in units of TEXTURE
    return (np.diff(area) * size * TEXTURE).astype(np.float32)


def _share(wave: Floats) -> Floats:
    return (np.float32(1) - wave) / np.float32(2)


def _checker(size: int) -> Floats:
    wave = _wave(size)
    return _share(wave[:, None] * wave[None, :])


BACKGROUNDS: dict[str, BackgroundKind] = {
    "plain": BackgroundKind(1, lambda names: names[0], lambda size: np.zeros((1, 1), np.float32)),
    "gradient": BackgroundKind(
        2, lambda names: f"{names[0]} to {names[1]} gradient", lambda size: _centres(size)[:, None]
    ),
    "stripes": BackgroundKind(
        2, lambda names: f"{names[0]} and {names[1]} striped", lambda size: _share(_wave(size)[None, :])
    ),
    "checker": BackgroundKind(2, lambda names: f"{names[0]} and {names[1]} checkered", _checker),
}
"""A gradient runs from the first colour at the top to the second at the bottom. Stripes are upright, the first colour
at the left; a checker has the first colour in its top left cell."""
