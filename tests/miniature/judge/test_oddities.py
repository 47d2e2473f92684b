"""What a judge must not accept is made reliably, and never looks like what it must accept."""

import numpy as np
import pytest
import torch

from dita.miniature import world
from dita.miniature.judge.marks import BACKGROUND_KINDS, LAYERS, OTHER
from dita.miniature.world.glyphs import ALPHABET
from dita.miniature.world.tables import COLOURS
from training.judge import oddities
from training.judge.damages import DAMAGES
from training.judge.disturbances import blurred, disturbed
from training.judge.samples import _KINDS, _SAMPLERS, draw, sample


def overlap(glyph):
    """The largest intersection over union with a real glyph."""
    mask = glyph(*oddities._raster()) < 0
    return max((mask & real).sum() / (mask | real).sum() for real in oddities._alphabet_masks())


def test_real_glyphs_are_readable_and_odd_ones_are_not():
    assert all(overlap(glyph) == 1 for glyph in ALPHABET.values())
    rng = np.random.default_rng(0)
    assert max(overlap(oddities.odd_glyph(rng)) for _ in range(100)) <= oddities.READABLE


def test_odd_colours_are_far_from_the_palette():
    rng = np.random.default_rng(0)
    palette = np.array([*COLOURS.values()])
    for _ in range(100):
        assert np.linalg.norm(palette - np.array(oddities.odd_colour(rng)), axis=1).min() > oddities.FAR


def test_a_painted_figure_covers_what_its_distance_says():
    picture = np.zeros((64, 64, 3), np.uint8)
    oddities.paint(picture, lambda x, y: np.hypot(x, y) - 1, 0.5, 0.5, 0.25, (200, 0, 0))
    assert picture[32, 32].tolist() == [200, 0, 0] and picture[32, 10].tolist() == [0, 0, 0]
    assert (picture[..., 0] > 100).sum() == pytest.approx(np.pi * 16**2, rel=0.02)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_kind_of_sample_is_drawn_and_its_marks_lie_in_the_picture(kind):
    rng = np.random.default_rng(1)
    samples = [_SAMPLERS[kind](rng) for _ in range(30)]
    assert draw(samples).shape == (30, 64, 64, 3)
    for one in samples:
        for mark in one.seen:
            assert mark.kind in LAYERS[mark.layer] and 0 < mark.x < 1 and 0 < mark.y < 1 and 0 < mark.radius < 0.5


def test_odd_samples_hold_odd_marks_and_no_sample_shows_a_sign_of_the_held_out_split():
    rng = np.random.default_rng(2)
    samples = [sample(rng) for _ in range(400)]
    odd = [one for one in samples if any(OTHER in (mark.kind, mark.colour) for mark in one.seen)]
    assert 40 < len(odd) < 200
    assert 5 < sum(one.background() == (OTHER,) for one in samples) < 60
    assert OTHER in BACKGROUND_KINDS
    texts = [one.scene.sign.text for one in samples if one.scene.sign and " " not in one.scene.sign.text]
    assert texts
    for one in samples:
        if one.scene.sign and " " not in one.scene.sign.text:
            assert not world.is_held_out(one.scene)


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_changes_the_picture(name):
    kinds, _, damage = DAMAGES[name]
    rng = np.random.default_rng(3)
    for scene in world.evaluation_scenes(10, 0, kinds):
        changed = damage(rng, scene)
        assert changed.shape == (64, 64, 3) and (changed != world.draw(scene)).any()


def test_disturbances_are_mild_and_leave_some_pictures_alone():
    pictures = torch.from_numpy(world.pictures(64, 0)[0]).permute(0, 3, 1, 2).float() / 127.5 - 1
    seen = disturbed(pictures, torch.Generator().manual_seed(0))
    error = (seen - pictures).abs().flatten(1).mean(dim=1)
    assert 3 < int((error == 0).sum()) < 40
    assert float(error.max()) < 0.25 and seen.min() >= -1 and seen.max() <= 1
    assert torch.equal(seen, disturbed(pictures, torch.Generator().manual_seed(0)))


def test_blur_keeps_the_mean_and_widens_a_point_by_its_deviation():
    point = torch.zeros(1, 3, 33, 33)
    point[:, :, 16, 16] = 1
    seen = blurred(point, torch.tensor([1.0]))[0, 0]
    assert float(seen.sum()) == pytest.approx(1, abs=1e-5)
    offsets = torch.arange(33.0) - 16
    assert float((seen.sum(dim=0) * offsets**2).sum()) == pytest.approx(1.0, abs=0.02)
