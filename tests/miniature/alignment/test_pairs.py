"""What CLIP and the reward model are trained on: captions that are nearly right, pictures that are nearly right."""

import numpy as np
import pytest

from dita.miniature import world
from training.alignment import damage
from training.alignment.perturbation import perturbed


def differences(scene, other):
    one, two = (world.parse(world.caption(s)) for s in (scene, other))
    return {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}


@pytest.mark.parametrize("kind", world.KINDS)
def test_a_perturbed_caption_is_a_caption_that_says_one_thing_differently(kind):
    rng = np.random.default_rng(0)
    for scene in world.evaluation_scenes(60, 0, (kind,)):
        other = perturbed(rng, scene)
        changed = differences(scene, other)
        assert changed
        assert other.kind == kind
        roles = {f"{what}_{i}" for what in ("shape", "colour", "size") for i in (1, 2)}
        background = {"background", "background_colour_1", "background_colour_2"}
        assert len(changed) == 1 or changed <= roles or changed <= background


def test_every_attribute_is_perturbed_at_times():
    rng = np.random.default_rng(1)
    scenes = world.scenes(600, 1)
    changed = set().union(*(differences(scene, perturbed(rng, scene)) for scene in scenes))
    said = {"shape_1", "colour_2", "size_1", "relation", "count", "text", "sign_colour", "background"}
    assert said <= changed


def test_damaged_pictures_differ_from_the_clean_ones():
    rng = np.random.default_rng(2)
    scenes = world.scenes(60, 2)
    clean = world.draw_all(scenes)
    before = clean.copy()
    worse = damage.damaged(rng, scenes, clean)
    assert (clean == before).all() and worse.shape == clean.shape and worse.dtype == np.uint8
    assert (worse != clean).any(axis=(1, 2, 3)).all()


def test_blur_and_noise_have_the_strength_that_is_asked_for():
    rng = np.random.default_rng(3)
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert float(damage.noise(rng, grey, 20, 20).astype(float).std()) == pytest.approx(20, rel=0.05)
    assert (damage.blur(rng, grey) == grey).all()
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 200
    steep = [np.abs(np.diff(damage.blur(rng, edge, s, s)[32, :, 0].astype(int))).max() for s in (0.3, 1.2, 2.4)]
    assert steep[0] > steep[1] > steep[2]
