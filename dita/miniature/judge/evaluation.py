"""How good the judge is: its verdicts on real drawings, all of them right, and on damaged ones, all of them wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from dita.miniature import world
from dita.miniature.judge.damages import DAMAGES
from dita.miniature.judge.judge import Judge
from dita.miniature.judge.verdict import ATTRIBUTES, Verdict
from dita.miniature.world.tables import Picture


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Share of right verdicts for each attribute that any of them speaks of, and for all attributes together."""
    rows = [one.as_dict() for one in verdicts]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in ATTRIBUTES}
    found = {name: sum(map(bool, values)) / len(values) for name, values in known.items() if values}
    return found | {"correct": sum(one.correct for one in verdicts) / max(1, len(verdicts))}


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
    return shares(judge(change(pictures) if change else pictures, prompts))


def confusion(judge: Judge, count: int = 512, seed: int = 8, split: str = "held-out") -> Counter[str]:
    """What the judge got wrong on real drawings: "kind/attribute" and how often."""
    scenes = world.scenes(count, seed, split)
    verdicts = judge(world.draw_all(scenes), [world.caption(scene) for scene in scenes])
    wrong: Counter[str] = Counter()
    for scene, one in zip(scenes, verdicts, strict=True):
        wrong.update(f"{scene.kind}/{name}" for name, value in one.as_dict().items() if value is False)
    return wrong


def strictness(judge: Judge, count: int = 256, seed: int = 9, split: str = "held-out") -> dict[str, float]:
    """Share of damaged drawings that the judge calls wrong, by kind of DAMAGES, each against the undamaged caption."""
    caught = {}
    for name, (kinds, attribute, damage) in DAMAGES.items():
        rng = np.random.default_rng(seed)
        scenes = world.evaluation_scenes(count, seed, kinds, split)
        verdicts = judge(np.stack([damage(rng, scene) for scene in scenes]), [world.caption(one) for one in scenes])
        caught[name] = sum(one.as_dict()[attribute] is False for one in verdicts) / count
    return caught
