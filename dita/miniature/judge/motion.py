"""How the object of a clip moves, from where it is seen in each frame. Nothing here is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dita.miniature.judge.marks import Mark
from dita.miniature.judge.reading import Reading

STILL = "still"
"""The motion of an object that stays where it is and as large as it is."""

FAR = 0.15
"""Least distance of a straight motion, as a fraction of the side: about half of the world's shortest."""

STRAIGHT = 0.8
"""Least share of its path that a straight motion gets ahead."""

GROWTH = 1.35
"""Least last radius over the first of an object that grows: the world's begin at 1.8."""

SEEN = 0.75
"""Least share of the frames that must show an object for its motion to be known."""

TURNED = 0.6
"""Least part of a whole turn of a circling object; it is once around in the world."""


def motion_of(frames: Sequence[Reading]) -> str | None:
    """The motion as a key of world.MOTIONS or STILL; None where it is none of them, or the object is often lost.

    Followed is the surest object of each frame.
    """
    path = [reading.objects[0] for reading in frames if reading.objects]
    if len(path) < max(2.0, SEEN * len(frames)):
        return None
    places = np.array([(mark.x, mark.y) for mark in path])
    gained = places[-1] - places[0]
    walked = float(np.hypot(*np.diff(places, axis=0).T).sum())
    far = float(np.hypot(*gained))
    if _turns(places) >= TURNED:
        return "circling"
    if far >= FAR and far >= STRAIGHT * walked:
        return _direction(float(gained[0]), float(gained[1]))
    if far < FAR:
        return "growing" if _grows(path) else STILL if walked < FAR else None
    return None


def _direction(dx: float, dy: float) -> str | None:
    """The straight motion along an axis; None for a slanting one."""
    if min(abs(dx), abs(dy)) > 0.5 * max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "moving right" if dx > 0 else "moving left"
    return "moving down" if dy > 0 else "moving up"


def _grows(path: Sequence[Mark]) -> bool:
    """Whether the radius of the last quarter of frames is larger than that of the first, and grows on the way."""
    radii = np.array([mark.radius for mark in path])
    quarter = max(1, len(radii) // 4)
    first, middle, last = radii[:quarter].mean(), float(np.median(radii)), radii[-quarter:].mean()
    return bool(last / first >= GROWTH and first < middle < last)


def _turns(places: np.ndarray) -> float:
    """How often the path goes around its own middle, clockwise; 0 where it does not keep away from it."""
    around = places - (places.max(axis=0) + places.min(axis=0)) / 2
    distance = np.hypot(*around.T)
    if distance.max() < FAR / 2 or distance.min() < 0.5 * distance.max():
        return 0.0
    steps = np.diff(np.unwrap(np.arctan2(around[:, 1], around[:, 0])))
    return float(steps.sum() / (2 * math.pi))
