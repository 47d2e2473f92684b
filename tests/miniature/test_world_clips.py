"""Clips: the object moves as the caption says and stays in the picture."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.miniature import world

CLIPS = st.integers(0, 2**32 - 1).map(lambda seed: world.sample_clip(np.random.default_rng(seed)))


def clip_of(motion: str, seed: int = 0) -> world.Clip:
    rng = np.random.default_rng(seed)
    while (clip := world.sample_clip(rng)).motion != motion:
        pass
    return clip


def seen(clip: world.Clip, frames: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Per frame the centre (frames, 2) as x, y and the area (frames,) of the object, as fractions, from the drawing."""
    plain = world.Clip(
        world.Scene(clip.scene.things, world.Background("plain", ("white",))), clip.motion, clip.amount, clip.turn
    )
    masks = (world.draw_clip(plain, frames) != 250).any(-1)
    centres = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        centres.append(((columns.mean() + 0.5) / 64, (rows.mean() + 0.5) / 64))
    return np.array(centres), masks.mean(axis=(1, 2))


def test_a_clip_is_frames_of_a_picture() -> None:
    drawn, captions = world.clips(3, seed=0, frames=5, size=32)
    again, _ = world.clips(3, seed=0, frames=5, size=32)
    assert drawn.shape == (3, 5, 32, 32, 3)
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, again)
    assert len(captions) == 3
    assert world.draw_clip(clip_of("growing")).shape == (16, 64, 64, 3)


def test_a_clip_alone_draws_as_in_a_set() -> None:
    rng = np.random.default_rng(6)
    drawn, captions = world.clips(4, seed=6, frames=4)
    for frames, caption in zip(drawn, captions, strict=True):
        clip = world.sample_clip(rng)
        assert world.clip_caption(clip) == caption
        assert np.array_equal(world.draw_clip(clip, 4), frames)


def test_a_caption_says_object_motion_and_background() -> None:
    thing = world.Thing("circle", "red", "small", 0.7, 0.5, 0.12)
    clip = world.Clip(world.Scene((thing,), world.Background("plain", ("white",))), "moving left", 0.35)
    assert world.clip_caption(clip) == "a red circle moving left on a white background"


@given(CLIPS)
def test_every_caption_is_made_of_the_vocabulary(clip: world.Clip) -> None:
    caption = world.clip_caption(clip)
    assert set(caption.split()) <= set(world.vocabulary())
    assert len(caption.split()) <= 30
    assert re.search(rf" {clip.motion} on an? .* background$", caption)


@given(CLIPS)
def test_the_object_stays_in_the_picture(clip: world.Clip) -> None:
    for scene in world.clip_scenes(clip, 16):
        (thing,) = scene.things
        assert all(thing.radius + 0.02 <= at <= 1 - thing.radius - 0.02 for at in (thing.x, thing.y))


@pytest.mark.parametrize(
    ("motion", "direction"),
    [("moving left", (-1, 0)), ("moving right", (1, 0)), ("moving up", (0, -1)), ("moving down", (0, 1))],
)
def test_a_straight_motion_goes_its_way_and_no_other(motion: str, direction: tuple[int, int]) -> None:
    for seed in range(5):
        centres, areas = seen(clip_of(motion, seed))
        moved = centres[-1] - centres[0]
        along = float(moved @ direction)
        assert along >= 0.3
        assert np.abs(moved - along * np.array(direction)).max() < 0.02
        assert (np.diff(centres @ np.array(direction)) > 0).all()
        assert areas.max() / areas.min() < 1.2


def test_circling_goes_once_around_clockwise() -> None:
    for seed in range(5):
        centres, areas = seen(clip_of("circling", seed))
        assert (np.ptp(centres, axis=0) >= 0.28).all()
        x, y = (centres - centres.mean(axis=0)).T
        turned = np.unwrap(np.arctan2(y, x))
        assert (np.diff(turned) > 0).all()
        assert turned[-1] - turned[0] == pytest.approx(2 * np.pi * 15 / 16, abs=0.15)
        assert areas.max() / areas.min() < 1.2


def test_growing_grows_in_its_place() -> None:
    for seed in range(5):
        clip = clip_of("growing", seed)
        centres, areas = seen(clip)
        assert (np.diff(areas) > 0).all()
        assert areas[-1] / areas[0] > 1.6**2
        assert np.ptp(centres, axis=0).max() < 0.06
        first, *_, last = (scene.things[0].radius for scene in world.clip_scenes(clip))
        assert last / first >= 1.8 - 1e-9


def test_all_motions_are_as_frequent() -> None:
    rng = np.random.default_rng(0)
    motions = [world.sample_clip(rng).motion for _ in range(1200)]
    assert all(abs(motions.count(motion) / 1200 - 1 / 6) < 0.05 for motion in world.MOTIONS)


@given(st.integers(0, 2**32 - 1))
def test_training_and_held_out_clips_share_no_combination(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert not world.is_held_out_clip(world.sample_clip(rng))
    assert world.is_held_out_clip(world.sample_clip(rng, split="held-out"))


def test_one_frame_is_the_first() -> None:
    clip = clip_of("moving up")
    assert world.clip_scenes(clip, 1) == [clip.scene]
    assert world.clip_scenes(clip, 8)[0] == clip.scene


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="frames=0"):
        world.draw_clip(clip_of("growing"), frames=0)
    with pytest.raises(ValueError, match="frames=0"):
        world.clips(2, seed=0, frames=0)
    with pytest.raises(ValueError, match="split='test'"):
        world.sample_clip(np.random.default_rng(0), split="test")
