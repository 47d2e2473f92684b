"""The small CLIP: its training loss, its folder, and the trained weights."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from dita import miniature
from dita.miniature import world
from training.alignment import clip as small
from training.loop import generator


def test_the_loss_of_an_untrained_clip_is_that_of_guessing_and_repeats():
    learner = small.Learner(small.build(0))
    first = learner.loss(generator(0, 0), 1.0, count=8)
    again = learner.loss(generator(0, 0), 1.0, count=8)
    assert torch.isfinite(first) and torch.equal(first, again)
    first.backward()
    idle = [name for name, weight in learner.named_parameters() if weight.grad is None]
    assert idle == []


def test_every_weight_is_in_one_group():
    learner = small.Learner(small.build(0))
    grouped = [id(weight) for group in learner.groups() for weight in group.weights]
    assert sorted(grouped) == sorted(id(weight) for weight in learner.parameters())
    muon = next(group for group in learner.groups() if group.muon)
    assert all(weight.ndim == 2 for weight in muon.weights)


def test_normalisation_is_clips():
    white = small.normalised(torch.ones(1, 3, 2, 2))[0, :, 0, 0]
    assert white.tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)


def test_a_folder_comes_back_as_a_stock_clip(tmp_path):
    clip = small.build(0).eval()
    pictures, captions = world.pictures(2, 0)
    before = small.embeddings(clip, pictures, captions)
    small.write_folder(clip, tmp_path / "clip", {"seed": 0})
    again = CLIPModel.from_pretrained(tmp_path / "clip", dtype=torch.float32)
    for mine, theirs in zip(before, small.embeddings(again.eval(), pictures, captions), strict=True):
        assert torch.allclose(mine, theirs, atol=5e-3)
    assert (tmp_path / "clip" / "preprocessor_config.json").is_file()


@pytest.fixture(scope="module")
def trained():
    return miniature.load_clip()


def test_the_trained_clip_finds_the_caption_among_64(trained):
    by_text, by_picture = small.retrieval(trained, groups=2, seed=41)
    assert by_text >= 0.8 and by_picture >= 0.8


def test_the_trained_clip_prefers_the_right_caption_and_the_undamaged_picture(trained):
    assert small.preference(trained, count=200, seed=42) >= 0.8
    pictures, captions = world.pictures(60, 43, split="held-out")
    noise = np.random.default_rng(0).normal(size=pictures.shape) * 60
    noisy = np.clip(pictures + noise, 0, 255).astype(np.uint8)
    (image, text), (worse, _) = (small.embeddings(trained, p, captions) for p in (pictures, noisy))
    assert float((image * text).sum(dim=1).mean()) > float((worse * text).sum(dim=1).mean())
