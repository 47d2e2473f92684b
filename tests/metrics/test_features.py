import json

import numpy as np
import pytest
import torch
from torch import nn

from dita.metrics.clip import load_clip
from dita.metrics.features import Identity, clip_features, module_features, transformers_features
from dita.metrics.images import Preparation
from tests.metrics.test_streaming import pictures
from tests.metrics.tiny_networks import save_tiny_dino


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return save_tiny_dino(tmp_path_factory.mktemp("dino"))


def test_dinov2s_features_are_its_class_token_on_stretched_pictures(dino):
    from transformers import Dinov2Model

    network = transformers_features(dino)
    images = pictures(3, size=(40, 30))
    assert network.width == 24 and network.identity.resize == "squash 224 bicubic, PIL"
    pixels = Preparation(224, "squash", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(images)
    with torch.inference_mode():
        expected = Dinov2Model.from_pretrained(dino).eval()(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(network(images), expected)


def test_features_do_not_keep_the_activations_alive_that_they_are_a_slice_of(dino):
    features = transformers_features(dino)(pictures(3))
    assert features.untyped_storage().nbytes() == 3 * 24 * 4


def test_the_size_and_normalisation_of_a_folder_are_used(dino):
    path = dino / "preprocessor_config.json"
    path.write_text(json.dumps({"size": {"height": 28, "width": 28}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))
    try:
        assert transformers_features(dino).identity.resize == "squash 28 bicubic, PIL"
    finally:
        path.unlink()


def test_clip_features_have_length_1_and_say_how_pictures_are_resized(golden):
    scorer = load_clip(golden / "metrics" / "clip_tiny")
    plain, smooth = clip_features(scorer), clip_features(scorer, antialias=True)
    images = pictures(2, size=(90, 70))
    assert plain(images).norm(dim=1).tolist() == pytest.approx([1, 1])
    assert "no antialiasing" in plain.identity.resize and smooth.identity.resize == "crop 32 bicubic, PIL"
    assert (plain(images) - smooth(images)).abs().max() > 1e-3
    torch.testing.assert_close(smooth(images), scorer.image_embeddings(images))


class Named(nn.Module):
    def forward(self, pixels):
        return {"features": pixels.mean(dim=(2, 3))}


def test_any_module_with_a_features_output_serves():
    network = module_features(Named(), 3, Preparation(4, mean=(0, 0, 0), std=(1, 1, 1)), Identity("mine", "", ""))
    assert network([np.full((4, 4, 3), 255, np.uint8)]).tolist() == [[1, 1, 1]]


def test_a_module_with_another_output_is_refused():
    network = module_features(nn.Identity(), 3, Preparation(4), Identity("mine", "", ""))
    with pytest.raises(ValueError, match="expected"):
        network(pictures(1))

    class Strange(nn.Module):
        def forward(self, pixels):
            return "nothing"

    with pytest.raises(TypeError, match="an output with `features`; got str"):
        module_features(Strange(), 3, Preparation(4), Identity("mine", "", ""))(pictures(1))


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no vision network"):
        transformers_features(tmp_path)
