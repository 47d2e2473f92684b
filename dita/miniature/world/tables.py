"""The words of the world and what they stand for: colours, sizes, relations, counts, and how often each is drawn."""

from __future__ import annotations

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
"""Colours of objects and signs, as 8-bit RGB."""

BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "grey": (140, 140, 140),
    "black": (15, 15, 15),
    "beige": (225, 205, 170),
}
"""Colours of backgrounds, as 8-bit RGB. White and black are also the inks of signs."""

SIZES: dict[str, tuple[float, float]] = {"small": (0.11, 0.13), "large": (0.19, 0.22)}
"""Range of an object's radius for each size word."""

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Direction from the second object to the first, as (x, y)."""

COUNTS: dict[str, int] = {"two": 2, "three": 3, "four": 4}
"""The count words of a group of alike objects."""

GROUP_RADII: dict[int, dict[str, tuple[float, float]]] = {
    2: {"small": (0.11, 0.13), "large": (0.17, 0.19)},
    3: {"small": (0.10, 0.13)},
    4: {"small": (0.09, 0.12)},
}
"""Range of the radius for each size word, by the number of objects in a group."""

CONTAINERS = ("circle", "square")
"""Shapes that another object can lie inside."""

CONTAINER_RADIUS = (0.27, 0.34)
"""Range of a container's radius; its size word is "large"."""

ROW_RADIUS = (0.10, 0.125)
"""Range of the radius of three objects in a row or a column; their size word is "small"."""

KINDS: dict[str, float] = {
    "one": 0.30,
    "two": 0.27,
    "group": 0.14,
    "inside": 0.07,
    "between": 0.07,
    "sign": 0.15,
}
"""Kinds of scene and how often each is drawn: one object; two with a relation of RELATIONS; 2 to 4 alike objects; one
inside another; one between two others; a sign with two or three glyphs."""

BACKGROUND_RATES: dict[str, float] = {"plain": 0.55, "gradient": 0.15, "stripes": 0.15, "checker": 0.15}
"""How often each kind of background is drawn."""

TEXTURE = 0.125
"""Width of a stripe and side of a checker's cell."""

MARGIN = 0.03
"""Least distance of an object from the picture's border, and half the least gap between two objects of a relation."""
