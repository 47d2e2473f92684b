"""Sets of scenes, pictures, clips and prompts: the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dita.miniature.world.drawing import draw_all
from dita.miniature.world.motion import clip_scenes, sample_clip
from dita.miniature.world.sampling import check_kind, sample_kind, sample_scene
from dita.miniature.world.scene import Scene
from dita.miniature.world.split import check_split
from dita.miniature.world.tables import Picture
from dita.miniature.world.words import caption, clip_caption

TRIES = 1000
"""Scenes that may repeat earlier captions, one after the other, before a set is found to be too large."""


def scenes(count: int, seed: int, split: str = "train") -> list[Scene]:
    """`count` random scenes of a split of SPLITS, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, split=split) for _ in range(count)]


def pictures(count: int, seed: int, size: int = 64, split: str = "train") -> tuple[Picture, list[str]]:
    """`count` random drawings and their captions: uint8 (count, size, size, 3) and as many strings."""
    drawn = scenes(count, seed, split)
    return draw_all(drawn, size), [caption(scene) for scene in drawn]


def clips(count: int, seed: int, frames: int = 16, size: int = 64, split: str = "train") -> tuple[Picture, list[str]]:
    """`count` random clips and their captions: uint8 (count, frames, size, size, 3) and as many strings."""
    if frames < 1:
        raise ValueError(f"frames={frames}: a clip has at least 1 frame")
    rng = np.random.default_rng(seed)
    sampled = [sample_clip(rng, split) for _ in range(count)]
    drawn = draw_all([scene for clip in sampled for scene in clip_scenes(clip, frames)], size)
    return drawn.reshape(count, frames, size, size, 3), [clip_caption(clip) for clip in sampled]


def prompts(count: int, seed: int = 0, *, split: str = "train", kinds: Sequence[str] | None = None) -> list[str]:
    """`count` different captions for evaluation; the same for the same seed.

    The scenes are of `kinds` of KINDS in turn: by default of one and of two objects.

    Raises:
        ValueError: an unknown kind or split, or a `count` for which there are not enough different captions.
    """
    kinds = ("one", "two") if kinds is None else kinds
    return [caption(scene) for scene in evaluation_scenes(count, seed, kinds, split)]


def evaluation_scenes(count: int, seed: int, kinds: Sequence[str], split: str = "held-out") -> list[Scene]:
    """`count` scenes with different captions for judging, of `kinds` of KINDS in turn; the same for the same seed.

    Raises:
        ValueError: no kind, an unknown kind or split, or more scenes than there are different captions.
    """
    check_split(split)
    if not kinds:
        raise ValueError("kinds is empty: name at least one kind of scene")
    for kind in kinds:
        check_kind(kind)
    rng = np.random.default_rng([seed, 0x9E3779B9])
    chosen: dict[str, Scene] = {}
    repeated = 0
    while len(chosen) < count:
        scene = sample_kind(rng, kinds[len(chosen) % len(kinds)], split)
        repeated = repeated + 1 if caption(scene) in chosen else 0
        if repeated == TRIES:
            raise ValueError(f"count={count}: after {len(chosen)}, no further {scene.kind!r} caption was found")
        chosen.setdefault(caption(scene), scene)
    return list(chosen.values())


def clip_prompts(count: int, seed: int = 0, *, split: str = "train") -> list[str]:
    """`count` different captions of clips, the same for the same seed.

    Raises:
        ValueError: an unknown split, or a `count` for which there are not enough different captions.
    """
    rng = np.random.default_rng([seed, 0x9E3779B9])
    chosen: dict[str, None] = {}
    repeated = 0
    while len(chosen) < count:
        said = clip_caption(sample_clip(rng, split))
        repeated = repeated + 1 if said in chosen else 0
        if repeated == TRIES:
            raise ValueError(f"count={count}: after {len(chosen)}, no further caption of a clip was found")
        chosen.setdefault(said)
    return list(chosen)
