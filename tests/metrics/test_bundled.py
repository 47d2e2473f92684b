"""What the bundled small evaluators must know; skipped while the package does not hold them."""

import numpy as np
import pytest
import torch

from dita import miniature
from dita.metrics.distribution import collect, fid, kernel_distance
from dita.metrics.lpips import lpips
from dita.miniature import world
from dita.networks import PLACES as _PLACES
from dita.networks import Networks, Place


@pytest.fixture(scope="module")
def drawings():
    return world.pictures(200, seed=4, split="held-out")


@pytest.fixture
def bundled(monkeypatch):
    """The bundled networks, whatever the machine has in its caches."""

    def use(need):
        name = _PLACES[need].bundled
        try:
            miniature.folder(name)
        except (ValueError, FileNotFoundError) as error:
            pytest.skip(f"no bundled {name}: {error}")
        monkeypatch.setitem(_PLACES, need, Place((), "DITA_NO_SUCH_VARIABLE", bundled=name))
        return Networks()

    return use


def ranked_right(own, others):
    return float(np.mean(np.asarray(own) > np.asarray(others)))


def test_a_caption_fits_its_own_picture_better_than_anothers(bundled, drawings):
    pictures, captions = drawings
    scorer = bundled("clip").clip()
    own, _ = scorer.cosines(list(pictures), captions)
    others, _ = scorer.cosines(list(pictures), captions[1:] + captions[:1])
    assert ranked_right(own, others) > 0.9


def test_a_drawing_is_rewarded_above_its_noisy_copy_and_above_another_caption(bundled, drawings):
    pictures, captions = drawings
    scorer = bundled("image-reward").reward()
    noise = np.random.default_rng(0).normal(0, 40, pictures.shape)
    damaged = np.clip(pictures + noise, 0, 255).astype(np.uint8)
    own, _ = scorer.rewards(list(pictures), captions)
    assert ranked_right(own, scorer.rewards(list(damaged), captions)[0]) > 0.8
    assert ranked_right(own, scorer.rewards(list(pictures), captions[1:] + captions[:1])[0]) > 0.8


def test_damaged_drawings_are_further_from_real_ones_than_others_are(bundled, drawings):
    pictures, _ = drawings
    network = bundled("inception").features("inception")
    real, _ = world.pictures(200, seed=5, split="held-out")
    damaged = np.clip(pictures + np.random.default_rng(0).normal(0, 40, pictures.shape), 0, 255).astype(np.uint8)
    reference = collect(network, [list(real)], keep=True)
    good, bad = (collect(network, [list(p)], keep=True) for p in (pictures, damaged))
    assert fid(bad, reference).value > 1.5 * fid(good, reference).value
    assert kernel_distance(bad, reference).value > kernel_distance(good, reference).value


def test_stand_ins_of_lpips_and_dino_tell_small_changes_from_large_ones(bundled, drawings):
    pictures = torch.from_numpy(drawings[0][:16]).permute(0, 3, 1, 2).float() / 255
    grain = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    a_little, much = ((pictures + strength * grain).clamp(0, 1) for strength in (0.02, 0.1))
    network, identity = bundled("lpips").lpips("lpips")
    assert identity.network == "lpips-by-shapes-features"
    near, far = (lpips(pictures, other, network) for other in (a_little, much))
    assert lpips(pictures, pictures, network).max() == 0
    assert (near > 0).all() and (near < far).all()
    assert (far < lpips(pictures, pictures.roll(1, 0), network)).float().mean() > 0.8
    with pytest.raises(ValueError, match="needs at least 16x16 pixels, got 8x8"):
        lpips(pictures[..., :8, :8], pictures[..., :8, :8], network)
    dino = bundled("dino").features("dino")
    assert dino(list(drawings[0][:2])).shape == (2, dino.width)
