import itertools
import math

import numpy as np
import pytest
import torch

from dita.metrics import kernels
from dita.metrics.kernels import cmmd, kid


@pytest.fixture(scope="module")
def samples(golden):
    data = np.load(golden / "metrics" / "formulas" / "golden.npz")
    return torch.from_numpy(data["x"]), torch.from_numpy(data["y"]), data


def test_kid_over_full_sets_is_clean_fids(samples):
    x, y, data = samples
    assert kid(x, y) == pytest.approx(float(data["kid"]), rel=1e-12)
    assert kid(x[:50], y) == pytest.approx(float(data["kid_50v50_cleanfid"]), rel=1e-12)


def test_cmmd_is_the_official_one_on_embeddings_of_length_1(samples):
    x, y, data = samples
    x, y = (torch.nn.functional.normalize(z, dim=1) for z in (x, y))
    assert cmmd(x, y) == pytest.approx(float(data["cmmd_official"]), rel=1e-9)
    assert cmmd(x.float(), y.float()) == pytest.approx(float(data["cmmd_official"]), rel=1e-5)


def test_kid_of_three_and_two_vectors_by_hand():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.0], [0.0, -1.0]])

    def k(a, b):
        return (float(a @ b) / 2 + 1) ** 3

    within = sum(k(a, b) for a, b in itertools.permutations(x, 2)) / 6
    within += sum(k(a, b) for a, b in itertools.permutations(y, 2)) / 2
    assert kid(x, y) == pytest.approx(within - 2 * sum(k(a, b) for a in x for b in y) / 6)


def test_cmmd_of_opposite_points_by_hand():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    apart = 2 - 2 * math.exp(-4 / 200)
    assert cmmd(x, -x) == pytest.approx(1000 * apart)
    assert cmmd(x, -x, biased=False) == pytest.approx(1000 * apart)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_blocks_change_nothing(samples, monkeypatch):
    x, y, _ = samples
    whole = kid(x, y)
    monkeypatch.setattr(kernels, "BLOCK", 7)
    assert kid(x, y) == pytest.approx(whole, rel=1e-12)


def test_the_unbiased_estimates_of_equal_distributions_scatter_about_zero():
    rng = torch.Generator().manual_seed(0)
    sets = torch.randn(60, 30, 8, generator=rng, dtype=torch.float64)
    found = [kid(a, b) for a, b in zip(sets[:30], sets[30:], strict=True)]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(30)
    assert min(found) < 0


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_unfit_features_are_refused(distance):
    with pytest.raises(ValueError, match="at least 2 pictures a side, got 1"):
        distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        distance(torch.zeros(4, 3), torch.zeros(4, 2))
