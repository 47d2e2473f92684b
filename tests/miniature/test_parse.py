"""Captions come back as the attributes that they say."""

import numpy as np
import pytest

from dita.miniature import world


def said(scene):
    """The scene's attributes without what its caption leaves out."""
    known = world.attributes(scene)
    known.pop("ink", None)
    for i, thing in enumerate(scene.things[:3], start=1):
        if not thing.says_size:
            known.pop(f"size_{i}", None)
    return known


@pytest.mark.parametrize("kind", world.KINDS)
@pytest.mark.parametrize("split", ["train", "held-out"])
def test_a_caption_gives_the_attributes_of_its_scene(kind, split):
    for scene in world.evaluation_scenes(40, 3, (kind,), split):
        assert world.parse(world.caption(scene)) == said(scene)


def test_a_clips_caption_gives_its_motion_as_well():
    rng = np.random.default_rng(0)
    for _ in range(40):
        clip = world.sample_clip(rng)
        known = world.parse(world.clip_caption(clip))
        assert known.pop("motion") == clip.motion
        assert known == said(clip.scene)


def test_white_space_does_not_count():
    assert world.parse(" a red  circle on a white background\n") == world.parse("a red circle on a white background")


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red circle",
        "a red dog on a white background",
        "a red circle on a red background",
        "two red circle on a white background",
        'a red sign saying "Q7" on a white background',
        "a red circle between a blue square on a white background",
        "a red circle above a blue square and a pink star on a white background",
        "a red circle on a white to white gradient background",
    ],
)
def test_what_is_no_caption_is_refused_by_its_words(caption):
    with pytest.raises(ValueError, match="is no caption of the world"):
        world.parse(caption)
