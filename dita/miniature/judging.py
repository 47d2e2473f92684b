"""The judge's shares for a comparison: of the pictures whose prompts the shapes world knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from dita import miniature
from dita.miniature import world
from dita.miniature.judge import Verdict
from dita.miniature.judge.tally import Tally, tally

AT_ONCE = 256
"""Pictures that are judged at a time."""


def tallies(pictures: Mapping[str, Sequence[np.ndarray]], prompts: Sequence[str]) -> dict[str, Tally]:
    """How many pictures (uint8, square), or clips (T, H, W, 3), of each method, by its label, show what is said.

    Prompts that are no captions of the world are left out; empty where none is one, or the judge is not installed.
    """
    said = {i: known for i, prompt in enumerate(prompts) if (known := _attributes(prompt))}
    if not said:
        return {}
    try:
        judge = miniature.load_judge()
    except FileNotFoundError:
        return {}
    chosen = [prompts[i] for i in said]
    if any(group[0].ndim == 4 for group in pictures.values()):
        clips = {label: [list(map(Image.fromarray, group[i])) for i in said] for label, group in pictures.items()}
        return {label: tally(judge.clips(group, chosen)) for label, group in clips.items()}
    return {label: tally(judge([Image.fromarray(group[i]) for i in said], chosen)) for label, group in pictures.items()}


def tally_of(pictures: Iterable[tuple[str, np.ndarray]]) -> Tally | None:
    """As `tallies`, of any number of (prompt, picture): `AT_ONCE` are in memory. None where nothing can be judged."""
    known = ((prompt, picture) for prompt, picture in pictures if _attributes(prompt))
    judge, verdicts = None, list[Verdict]()
    while chunk := list(islice(known, AT_ONCE)):
        try:
            judge = judge or miniature.load_judge()
        except FileNotFoundError:
            return None
        verdicts += judge([Image.fromarray(picture) for _, picture in chunk], [prompt for prompt, _ in chunk])
    return tally(verdicts) if verdicts else None


def _attributes(prompt: str) -> dict[str, str | int]:
    """What a caption says; nothing for other prompts."""
    try:
        return world.parse(prompt)
    except ValueError:
        return {}
