"""How good the judge is: its verdicts on real drawings, all of them right, and on damaged ones, all of them wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dita.miniature import world
from dita.miniature.judge.judge import Judge
from dita.miniature.judge.tally import tally
from dita.miniature.world.tables import Picture
from training.judge.damages import DAMAGES


def accuracy(
    judge: Judge,
    count: int = 2048,
    seed: int = 7,
    split: str = "held-out",
    change: Callable[[Picture], Picture] | None = None,
) -> dict[str, float]:
    """Share of right verdicts on `count` drawings of a split, which are all right, each attribute apart.

    `change` may disturb the pictures (N, H, W, 3) before they are judged.
    """
    pictures, prompts = world.pictures(count, seed, split=split)
    found = tally(judge(change(pictures) if change else pictures, prompts))
    shares = {name: one.share for name, one in {**found.attributes, "correct": found.correct}.items()}
    return {name: share for name, share in shares.items() if share is not None}


def strictness(judge: Judge, count: int = 256, seed: int = 9, split: str = "held-out") -> dict[str, float]:
    """Share of damaged drawings that the judge calls wrong, by kind of DAMAGES, each against the undamaged caption."""
    caught = {}
    for name, (kinds, attribute, damage) in DAMAGES.items():
        rng = np.random.default_rng(seed)
        scenes = world.evaluation_scenes(count, seed, kinds, split)
        verdicts = judge(np.stack([damage(rng, scene) for scene in scenes]), [world.caption(one) for one in scenes])
        caught[name] = sum(one.as_dict()[attribute] is False for one in verdicts) / count
    return caught
