"""The labels of a scene, and the training of the text encoders on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dita.miniature import world
from training import flow, recipe, text
from training.labels import ABSENT, CLASSES, SIZES, labels, names
from training.loop import Group, Schedule


def test_every_scene_has_a_class_for_every_attribute() -> None:
    scenes = world.scenes(300, seed=0, split="all")
    numbers = labels(scenes)
    assert numbers.shape == (300, len(CLASSES))
    assert (numbers >= 0).all() and (numbers < torch.tensor(SIZES)).all()
    for scene, row in zip(scenes, numbers.tolist(), strict=True):
        words = {name: classes[i] for (name, classes), i in zip(CLASSES.items(), row, strict=True)}
        assert words == names(scene)
        assert "".join(words[f"glyph_{i}"] for i in (1, 2, 3)).rstrip(ABSENT) == (scene.sign.text if scene.sign else "")
        assert words["count"] == str(max(1, len(scene.things)))


def test_a_size_that_is_not_said_is_absent_from_what_is_said() -> None:
    silent = [s for s in world.scenes(300, seed=1) if s.kind == "one" and not s.things[0].says_size]
    assert silent
    assert all(names(scene)["size_1"] == scene.things[0].size for scene in silent)
    assert all(names(scene, said=True)["size_1"] == ABSENT for scene in silent)


def test_no_scenes_give_no_rows() -> None:
    assert labels([]).shape == (0, len(CLASSES))


def test_the_word_before_is_nearer_to_one_head_and_the_word_after_to_another() -> None:
    t5 = flow.build().t5
    bias = t5.encoder.block[0].layer[0].SelfAttention.compute_bias(9, 9)[0]  # (heads, queries, keys)
    assert (bias[0].tril(-1).sum() > bias[0].triu(1).sum()) and (bias[1].tril(-1).sum() < bias[1].triu(1).sum())
    assert (bias[2, 4].argmax() <= 4) and (bias[3, 4].argmax() > 4)


@pytest.mark.slow
def test_the_encoders_learn_the_language_in_a_few_steps() -> None:
    torch.manual_seed(0)
    model = flow.build()
    reader = text.Reader(model.t5, model.clip)
    before = text.accuracy(reader, 128, seed=5)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        text.loss(reader, 32, random).backward()
        optimiser.step()
        optimiser.zero_grad()
    after = text.accuracy(reader, 128, seed=5)
    assert min(after) > 0.75 > max(before)


def test_each_weight_of_the_flow_learns_in_one_group() -> None:
    model = flow.build()
    groups = flow.groups(model)
    grouped = [id(weight) for group in groups for weight in group.weights]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))
    muon = [group for group in groups if group.muon]
    assert len(muon) == 1 and all(weight.ndim == 2 for weight in muon[0].weights)
    assert sum(w.numel() for w in muon[0].weights) > 0.5 * sum(w.numel() for w in model.transformer.parameters())


def test_a_group_by_muon_makes_updates_of_even_strength() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 16))
    optimiser = Group((weight,), muon=True).optimiser(Schedule(10, rate=1e-2, weight_decay=0.0))
    weight.grad = torch.outer(torch.randn(8), torch.randn(16)) + 1e-2 * torch.randn(8, 16)
    optimiser.step()
    strengths = torch.linalg.svdvals(weight.detach())
    assert strengths[-1] > 0.4 * strengths[0]  # the gradient's own are three orders apart
    assert recipe.MUON_SCALE > 0
