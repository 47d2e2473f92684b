"""From scenes to maps and back: what the network is asked to say is what the reading takes from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dita.miniature import world
from dita.miniature.judge.marks import (
    BACKGROUND_KINDS,
    COLOURS,
    GRID,
    LAYERS,
    OTHER,
    Mark,
    marks,
)
from dita.miniature.judge.network import Answer, LayerAnswer
from dita.miniature.judge.reading import readings
from dita.miniature.judge.verdict import verdict
from training.judge.targets import background_target, layer_target


def ideal(pictures, backgrounds):
    """The answer of a network that says exactly what it should, for the marks of each picture."""
    layers = {}
    for layer, kinds in LAYERS.items():
        target = layer_target(layer, pictures)
        layers[layer] = LayerAnswer(
            torch.logit(target.presence.clamp(1e-4, 1 - 1e-4)),
            20 * torch.nn.functional.one_hot(target.kind, len(kinds)).movedim(-1, 1).float(),
            20 * torch.nn.functional.one_hot(target.colour, len(COLOURS)).movedim(-1, 1).float(),
            target.geometry,
        )
    found = background_target(backgrounds)
    sizes = (len(BACKGROUND_KINDS), 5, 5)
    parts = [torch.nn.functional.one_hot(found[:, i], n).float() for i, n in enumerate(sizes)]
    return Answer(layers, tuple(parts))


def read(scenes):
    backgrounds = [(scene.background.kind, *scene.background.colours) for scene in scenes]
    return readings(ideal([marks(scene) for scene in scenes], backgrounds))


@pytest.mark.parametrize("kind", world.KINDS)
def test_an_ideal_network_reads_every_scene_and_the_verdict_is_all_right(kind):
    scenes = world.evaluation_scenes(60, 1, (kind,), "held-out")
    for scene, seen in zip(scenes, read(scenes), strict=True):
        assert verdict(world.parse(world.caption(scene)), seen).correct, (world.caption(scene), seen)


def test_places_and_radii_come_back_to_a_thousandth():
    for scene in (scenes := world.evaluation_scenes(30, 2, ("two", "between"), "train")):
        (seen,) = read([scene])
        found = sorted((mark.x, mark.y, mark.radius) for mark in seen.objects)
        assert np.allclose(found, sorted((t.x, t.y, t.radius) for t in scene.things), atol=1e-3)
    assert len(scenes) == 30


def test_presence_is_1_at_one_cell_a_mark_and_falls_off():
    marks_ = [Mark("object", "circle", "red", 0.3, 0.4, 0.1), Mark("object", "star", "blue", 0.8, 0.7, 0.1)]
    presence = layer_target("object", [marks_]).presence[0]
    assert presence.shape == (GRID, GRID)
    assert torch.nonzero(presence == 1).tolist() == [[6, 4], [11, 12]]  # rows and columns
    assert 0 < presence[6, 6] < presence[6, 5] < 1


def test_an_empty_layer_has_no_presence_anywhere():
    assert layer_target("glyph", [[]]).presence.max() == 0


def test_an_object_inside_another_has_a_layer_of_its_own():
    scene = world.evaluation_scenes(1, 0, ("inside",))[0]
    assert [mark.layer for mark in marks(scene)] == ["object", "large"]


def test_a_blank_in_a_sign_leaves_no_mark_and_a_glyph_that_no_one_reads_shows_in_the_text():
    scene = world.evaluation_scenes(1, 0, ("sign",))[0]
    blank = replace(scene, sign=replace(scene.sign, text=" " + scene.sign.text[1:]))
    (seen,) = read([blank])
    assert [text for _, text in seen.signs] == [scene.sign.text[1:]]
    odd = [replace(mark, kind=OTHER) if mark.layer == "glyph" else mark for mark in marks(scene)]
    (seen,) = readings(ideal([odd], [("plain", "white")]))
    assert [text for _, text in seen.signs] == ["?" * len(scene.sign.text)]


def test_an_unsure_kind_is_other():
    scene = world.evaluation_scenes(1, 0, ("one",))[0]
    answer = ideal([marks(scene)], [("plain", "white")])
    unsure = {
        name: LayerAnswer(one.presence, one.kind / 100, one.colour, one.geometry) for name, one in answer.layers.items()
    }
    (seen,) = readings(Answer(unsure, answer.background))
    assert [mark.kind for mark in seen.objects] == [OTHER]
    assert seen.objects[0].colour == scene.things[0].colour


def test_too_many_marks_are_refused():
    with pytest.raises(ValueError, match="7 marks of the layer 'object', at most 6"):
        layer_target("object", [[Mark("object", "star", "red", 0.5, 0.5, 0.1)] * 7])
