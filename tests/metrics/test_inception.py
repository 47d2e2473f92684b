import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dita.metrics.checkpoints import load_strictly
from dita.metrics.features import inception_features
from dita.metrics.inception import RESIZES, Inception, load_inception, prepare
from tests.metrics.golden_weights import inception_pictures, inception_tensor

SOURCES = {"tensorflow": "torchfidelity", "pytorch-fid": "pytorchfid", "clean": "cleanfid"}


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "metrics" / "inception_fid"


@pytest.fixture(scope="module")
def tensors(folder):
    keys = json.loads((folder / "keys.json").read_text())
    return {key: inception_tensor(key, shape) for key, shape in keys.items()}


@pytest.fixture(scope="module")
def network(tensors):
    with torch.device("meta"):
        network = Inception()
    load_strictly(network, tensors, "golden")
    return network.eval()


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_the_names_and_shapes_are_the_566_of_both_weight_files(folder):
    with torch.device("meta"):
        mine = {key: list(value.shape) for key, value in Inception().state_dict().items()}
    assert mine == json.loads((folder / "keys.json").read_text())
    assert len(mine) == 566


@pytest.mark.slow
@pytest.mark.parametrize("resize", RESIZES)
def test_features_are_those_of_torch_fidelity_pytorch_fid_and_clean_fids_resize(folder, network, resize):
    expected = np.load(folder / "golden.npz")
    for name, picture in inception_pictures().items():
        with torch.inference_mode():
            found = network(prepare([picture], resize)).numpy()
        assert relative(found, expected[f"feat2048_{SOURCES[resize]}_{name}"]) < 1e-5


def test_the_first_features_and_the_logits_are_torch_fidelitys(folder, network):
    expected = np.load(folder / "golden.npz")
    with torch.inference_mode():
        x = prepare([inception_pictures()["b"]])
        assert relative(network.stem(x).mean((2, 3)).numpy(), expected["feat64_torchfidelity_b"]) < 1e-5
        logits = (network(x) @ network.fc.weight.T)[:, ::16].numpy()
    assert relative(logits, expected["logits_torchfidelity_b"]) < 1e-5


def test_pictures_of_different_sizes_are_one_batch(network):
    pictures = [inception_pictures()[name][:64, :80] for name in "ab"] + [np.zeros((30, 40, 3), np.uint8)]
    together = prepare(pictures)
    assert together.shape == (3, 3, 299, 299)
    assert torch.equal(together[1:2], prepare(pictures[1:2]))


def test_the_modes_agree_on_a_constant_picture_and_differ_on_others():
    grey = [np.full((50, 70, 3), 128, np.uint8)]
    assert prepare(grey).abs().max() == 0
    assert prepare(grey, "clean").abs().max() < 1e-5
    assert prepare(grey, "pytorch-fid").sub(128 / 127.5 - 1).abs().max() < 1e-6  # another scale
    picture = [inception_pictures()["a"]]
    assert (prepare(picture, "clean") - prepare(picture)).abs().max() > 0.05


def test_a_weight_file_loads_and_its_hash_and_resize_are_in_the_identity(tensors, tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file(tensors, path)
    features = inception_features(path, resize="clean")
    assert features.width == 2048
    assert (features.identity.network, features.identity.resize) == ("inception-2015-12-05", "clean")
    assert len(features.identity.weights) == 64


def test_a_missing_a_surplus_and_a_misshapen_tensor_are_named(tensors, tmp_path):
    broken = dict(tensors)
    del broken["Mixed_5b.branch1x1.conv.weight"]
    broken["extra.weight"] = torch.zeros(1)
    broken["fc.bias"] = torch.zeros(1000)
    path = tmp_path / "broken.pth"
    torch.save(broken, path)
    with pytest.raises(ValueError, match="do not fit Inception") as error:
        load_inception(path)
    message = str(error.value)
    assert "1 missing (Mixed_5b.branch1x1.conv.weight)" in message
    assert "1 not known (extra.weight)" in message
    assert "fc.bias (1000,) instead of (1008,)" in message


def test_files_that_hold_no_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weight file"):
        load_inception(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="damaged, or holds more than tensors"):
        load_inception(tmp_path / "text.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="damaged"):
        load_inception(tmp_path / "text.safetensors")


def test_an_unknown_resize_is_refused():
    with pytest.raises(ValueError, match="unknown resize 'tf'; known: tensorflow, pytorch-fid, clean"):
        prepare([np.zeros((8, 8, 3), np.uint8)], "tf")
