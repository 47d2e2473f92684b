"""The judge's shares for a comparison: of the pictures whose prompts the shapes world knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from dita import miniature
from dita.miniature import world
from dita.miniature.judge.tally import Tally, tally


def tallies(pictures: Mapping[str, Sequence[np.ndarray]], prompts: Sequence[str]) -> dict[str, Tally]:
    """How many pictures (uint8, square) of each method, by its label, show what their prompts say.

    Prompts that are no captions of the world are left out; empty where none is one, or the judge is not installed.
    """
    known = [i for i, prompt in enumerate(prompts) if _is_caption(prompt)]
    if not known:
        return {}
    try:
        judge = miniature.load_judge()
    except FileNotFoundError:
        return {}
    chosen = [prompts[i] for i in known]
    return {
        label: tally(judge([Image.fromarray(group[i]) for i in known], chosen)) for label, group in pictures.items()
    }


def _is_caption(prompt: str) -> bool:
    try:
        world.parse(prompt)
    except ValueError:
        return False
    return True
