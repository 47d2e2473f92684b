import json

import numpy as np
import pytest
import torch

from dita.metrics.lpips import LPIPSNetwork, load_lpips, lpips
from tests.metrics.golden_weights import lpips_tensor


@pytest.fixture(scope="module")
def expected(golden):
    folder = golden / "metrics" / "lpips"
    return json.loads((folder / "golden.json").read_text()), np.load(folder / "inputs.npz")


@pytest.fixture(scope="module", params=["alex", "vgg"])
def case(request, expected, tmp_path_factory):
    about, inputs = expected
    path = tmp_path_factory.mktemp("lpips") / f"{request.param}.pth"
    tensors = {key: lpips_tensor(key, shape) for key, shape in about[request.param]["keys"].items()}
    torch.save({**tensors, "classifier.1.weight": torch.zeros(2)}, path)
    return load_lpips(request.param, path), inputs, about[request.param]["values"]


def test_the_values_are_those_of_the_lpips_package(case):
    network, inputs, values = case
    found = lpips(torch.from_numpy(inputs["a"]), torch.from_numpy(inputs["b"]), network)
    np.testing.assert_allclose(found, values, atol=1e-6)


def test_equal_pictures_are_at_no_distance_and_the_order_does_not_matter(case):
    network, inputs, _ = case
    a, b = (torch.from_numpy(inputs[name][:1]) for name in "ab")
    assert lpips(a, a, network).item() == 0
    assert lpips(a, b, network).item() == pytest.approx(lpips(b, a, network).item(), rel=1e-5)


def test_more_noise_is_further_away(case):
    network, inputs, _ = case
    a = torch.from_numpy(inputs["a"][:1])
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    near, far = (lpips(a, (a + s * noise).clamp(0, 1), network).item() for s in (0.02, 0.2))
    assert 0 < near < far


def test_the_channel_weights_are_in_the_package_for_both_backbones():
    for backbone, widths in (("alex", [64, 192, 384, 256, 256]), ("vgg", [64, 128, 256, 512, 512])):
        network = LPIPSNetwork(backbone)
        heads = [getattr(network, f"head{i}") for i in range(5)]
        assert [len(head) for head in heads] == widths
        assert all(head.min() >= 0 and head.max() > 0 for head in heads)


def test_pictures_that_cannot_be_compared_are_refused(case):
    network, _, _ = case
    good = torch.zeros(1, 3, 64, 64)
    for a, b, message in (
        (good, good[..., :32], "of one shape"),
        (good + 2, good, "in 0..1, got torch.float32 from 2.0"),
        (good.to(torch.uint8), good.to(torch.uint8), "torch.uint8"),
        (good[..., :10, :10], good[..., :10, :10], "pixels, got 10x10"),
    ):
        with pytest.raises(ValueError, match=message):
            lpips(a, b, network)


def test_an_unknown_backbone_and_a_missing_tensor_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown LPIPS backbone 'squeeze'; known: alex, vgg"):
        load_lpips("squeeze", tmp_path / "x.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alex.pth")
    with pytest.raises(ValueError, match="9 missing"):
        load_lpips("alex", tmp_path / "alex.pth")
