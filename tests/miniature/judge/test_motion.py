"""The tracker on ideal readings of real clips, and on paths that are no motion of the world."""

import math

import numpy as np
import pytest

from dita.miniature import world
from dita.miniature.judge.marks import Mark
from dita.miniature.judge.motion import STILL, motion_of
from dita.miniature.judge.reading import Reading


def frames(path):
    return [
        Reading((Mark("object", "star", "red", x, y, radius),) if x is not None else (), (), 0, ("plain", "white"))
        for x, y, radius in path
    ]


@pytest.mark.parametrize("motion", world.MOTIONS)
@pytest.mark.parametrize("noise", [0.0, 0.006])
def test_every_motion_of_the_world_is_known(motion, noise):
    rng = np.random.default_rng(0)
    clips = [clip for clip in (world.sample_clip(rng, "all") for _ in range(120)) if clip.motion == motion]
    for clip in clips:
        places = [(s.things[0].x, s.things[0].y, s.things[0].radius) for s in world.clip_scenes(clip)]
        shaken = np.array(places) + noise * rng.normal(size=(len(places), 3))
        assert motion_of(frames(shaken.tolist())) == motion


def test_an_object_that_stays_is_still():
    assert motion_of(frames([(0.5, 0.5, 0.1)] * 16)) == STILL


def test_slanting_jumping_and_lost_objects_have_no_motion_of_the_world():
    slanting = [(0.2 + 0.03 * i, 0.2 + 0.03 * i, 0.1) for i in range(16)]
    jumping = [(0.2 + 0.5 * (i % 2), 0.5, 0.1) for i in range(15)]
    lost = [(0.2 + 0.03 * i, 0.5, 0.1) if i % 2 else (None, None, None) for i in range(16)]
    assert [motion_of(frames(path)) for path in (slanting, jumping, lost)] == [None, None, None]


def test_circling_the_other_way_or_by_half_is_not_circling():
    def circle(turns):
        angles = [2 * math.pi * turns * i / 16 for i in range(16)]
        return frames([(0.5 + 0.2 * math.cos(a), 0.5 + 0.2 * math.sin(a), 0.1) for a in angles])

    assert motion_of(circle(1)) == "circling"
    assert motion_of(circle(-1)) != "circling" and motion_of(circle(0.4)) != "circling"
