"""Clips: one object that moves, circles or grows, as data and as frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dita.miniature.world.drawing import draw_all
from dita.miniature.world.sampling import pick, sample_alone, sample_background, uniform
from dita.miniature.world.scene import Scene, Thing
from dita.miniature.world.split import check_split, holds_out, looks
from dita.miniature.world.tables import MARGIN, SIZES, Picture


@dataclass(frozen=True)
class Clip:
    """A scene of one object as it is in the first frame, and what the object then does.

    `motion` is one of MOTIONS. `amount` is how far it goes: the distance of a straight motion and the radius of the
    circle as fractions of the side; for growing, the last radius over the first. `turn` is where on its circle a
    circling object starts, in turns clockwise from the top.
    """

    scene: Scene
    motion: str
    amount: float
    turn: float = 0.0


def _moving(dx: int, dy: int) -> Callable[[Clip, float], Thing]:
    def at(clip: Clip, time: float) -> Thing:
        thing = clip.scene.things[0]
        return replace(thing, x=thing.x + dx * clip.amount * time, y=thing.y + dy * clip.amount * time)

    return at


def _circling(clip: Clip, time: float) -> Thing:
    """Once around, clockwise."""
    thing = clip.scene.things[0]
    start, now = 2 * math.pi * clip.turn, 2 * math.pi * (clip.turn + time)
    dx, dy = math.sin(now) - math.sin(start), math.cos(start) - math.cos(now)
    return replace(thing, x=thing.x + clip.amount * dx, y=thing.y + clip.amount * dy)


def _growing(clip: Clip, time: float) -> Thing:
    thing = clip.scene.things[0]
    return replace(thing, radius=thing.radius * (1 + (clip.amount - 1) * time))


MOTIONS: dict[str, Callable[[Clip, float], Thing]] = {
    "moving left": _moving(-1, 0),
    "moving right": _moving(1, 0),
    "moving up": _moving(0, -1),
    "moving down": _moving(0, 1),
    "circling": _circling,
    "growing": _growing,
}
"""Each motion: the clip's object at a time from 0, the first frame, to 1, the last."""

DISTANCE = (0.32, 0.45)
"""Range of the distance of a straight motion."""

CIRCLE = (0.16, 0.22)
"""Range of the radius of the circle that an object goes around."""

GROWTH = (1.8, 2.4)
"""Range of the last radius over the first of an object that grows. It starts small, and its size is not said."""


def sample_clip(rng: np.random.Generator, split: str = "train") -> Clip:
    """A random clip, motions uniform; the object stays inside the picture.

    Raises:
        ValueError: `split` is none of SPLITS.
    """
    check_split(split)
    motion = pick(rng, list(MOTIONS))
    thing = sample_alone(rng, pick(rng, looks(motion, split)))
    if motion == "growing":
        thing = replace(thing, size="small", radius=uniform(rng, *SIZES["small"]), says_size=False)
    amount = uniform(rng, *{"circling": CIRCLE, "growing": GROWTH}.get(motion, DISTANCE))
    clip = Clip(Scene((thing,), sample_background(rng)), motion, amount, rng.random() if motion == "circling" else 0.0)
    return _moved_inside(rng, clip)


def _moved_inside(rng: np.random.Generator, clip: Clip) -> Clip:
    """The clip with its first place drawn anew, anywhere from where the object stays inside the picture."""
    thing = clip.scene.things[0]
    path = [MOTIONS[clip.motion](clip, i / 64) for i in range(65)]
    radius = max(at.radius for at in path) + MARGIN
    across = [at.x - thing.x for at in path]
    down = [at.y - thing.y for at in path]
    x, y = (uniform(rng, radius - min(steps), 1 - radius - max(steps)) for steps in (across, down))
    return replace(clip, scene=replace(clip.scene, things=(replace(thing, x=x, y=y),)))


def is_held_out_clip(clip: Clip) -> bool:
    """Whether training never sees such a clip: decided by shape, colour and motion."""
    thing = clip.scene.things[0]
    return holds_out(f"{thing.colour} {thing.shape} {clip.motion}")


def clip_scenes(clip: Clip, frames: int = 16) -> list[Scene]:
    """The scene of each frame, at equal steps of time from the first to the last place.

    A circling object would be back in its last frame: it stops one step before.
    """
    if frames < 1:
        raise ValueError(f"frames={frames}: a clip has at least 1 frame")
    steps = frames if clip.motion == "circling" else max(frames - 1, 1)
    things = (MOTIONS[clip.motion](clip, i / steps) for i in range(frames))
    return [replace(clip.scene, things=(thing,)) for thing in things]


def draw_clip(clip: Clip, frames: int = 16, size: int = 64) -> Picture:
    """The frames of a clip: uint8 (frames, size, size, 3)."""
    return draw_all(clip_scenes(clip, frames), size)
