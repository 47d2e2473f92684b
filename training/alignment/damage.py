"""Pictures made worse as a sampler under too much acceleration makes them: lost objects, blur, noise, blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dita.miniature import world
from dita.miniature.judge.pictures import to_tensor
from dita.miniature.world.sampling import pick, uniform
from dita.miniature.world.tables import Picture
from training.judge.damages import DAMAGES
from training.judge.disturbances import blurred

BLOCK = 8
"""Side of the blocks that are lost or exchanged, in pixels."""


def damaged(rng: np.random.Generator, scenes: Sequence[world.Scene], clean: Picture) -> Picture:
    """Each of the clean drawings (N, H, W, 3) made worse in one way: half of them in what they show, half in how."""
    made = clean.copy()
    for i, scene in enumerate(scenes):
        fitting = [damage for kinds, _, damage in DAMAGES.values() if scene.kind in kinds]
        made[i] = pick(rng, fitting)(rng, scene) if rng.random() < 0.5 else pick(rng, _SIGNALS)(rng, clean[i])
    return made


def blur(rng: np.random.Generator, picture: Picture, least: float = 1.2, most: float = 3.0) -> Picture:
    """Gaussian blur of a deviation between `least` and `most` pixels."""
    sigma = torch.tensor([uniform(rng, least, most)])
    seen = blurred(to_tensor(picture[None]), sigma)[0].movedim(0, -1)
    return np.rint((seen.numpy() + 1) * 127.5).astype(np.uint8)


def noise(rng: np.random.Generator, picture: Picture, least: float = 15, most: float = 60) -> Picture:
    """Gaussian noise of a deviation between `least` and `most`, of 255."""
    noisy = picture + rng.normal(size=picture.shape) * uniform(rng, least, most)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def lost_blocks(rng: np.random.Generator, picture: Picture) -> Picture:
    """Some blocks replaced by others of the picture: tokens that kept the content of an older step."""
    made = picture.copy()
    side = len(picture) // BLOCK
    for _ in range(2 + int(rng.random() * 8)):
        (row, column), (from_row, from_column) = (rng.integers(side, size=(2, 2)) * BLOCK).tolist()
        block = picture[from_row : from_row + BLOCK, from_column : from_column + BLOCK]
        made[row : row + BLOCK, column : column + BLOCK] = block
    return made if (made != picture).any() else blur(rng, picture)


def faded(rng: np.random.Generator, picture: Picture) -> Picture:
    """With less contrast, towards its mean colour."""
    keep = uniform(rng, 0.3, 0.7)
    mean = picture.mean(axis=(0, 1))
    return np.rint(mean + keep * (picture - mean)).astype(np.uint8)


_SIGNALS = (blur, noise, lost_blocks, faded)
