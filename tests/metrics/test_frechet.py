import math

import numpy as np
import pytest
import torch

from dita.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_of_features

of = FeatureStatistics.of


@pytest.fixture(scope="module")
def formulas(golden):
    return np.load(golden / "metrics" / "formulas" / "golden.npz")


def features(formulas, name, count=None):
    return torch.from_numpy(formulas[name][:count])


def normal(count, width, seed, scale=1.0, shift=0.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


def test_the_value_is_that_of_torchmetrics_and_of_scipys_square_root(formulas):
    found = frechet_distance(of(features(formulas, "x")), of(features(formulas, "y")))
    assert found == pytest.approx(float(formulas["fid"]), rel=1e-9)


def test_fewer_pictures_than_features_give_the_golden_value_by_the_nuclear_norm(formulas):
    x, y = features(formulas, "x", 9), features(formulas, "y", 7)
    assert frechet_distance_of_features(x, y) == pytest.approx(float(formulas["fid_small"]), rel=1e-5)
    assert frechet_distance(of(x), of(y)) == pytest.approx(frechet_distance_of_features(x, y), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 40), (40, 5), (12, 13), (13, 12)])
def test_statistics_and_features_give_one_value_for_any_counts(n, m):
    x, y = normal(n, 12, 0), normal(m, 12, 1, scale=1.5, shift=0.3)
    assert frechet_distance(of(x), of(y)) == pytest.approx(frechet_distance_of_features(x, y), rel=1e-8)


def test_two_gaussians_with_diagonal_covariances_have_a_closed_form():
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    x = FeatureStatistics(None, torch.zeros(3).double(), torch.diag(a))
    y = FeatureStatistics(None, torch.tensor([1.0, -2.0, 0.5]).double(), torch.diag(b))
    expected = 1 + 4 + 0.25 + ((a.sqrt() - b.sqrt()) ** 2).sum().item()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_a_rotation_of_both_changes_nothing():
    x, y = normal(50, 6, 0), normal(50, 6, 1, scale=2)
    turn = torch.linalg.qr(normal(6, 6, 2))[0]
    assert frechet_distance(of(x @ turn), of(y @ turn)) == pytest.approx(frechet_distance(of(x), of(y)), rel=1e-10)


@pytest.mark.parametrize("count", [4, 100])
def test_a_set_is_at_no_distance_from_itself_and_never_below_zero(count):
    statistics = of(normal(count, 16, 3, shift=7))
    assert 0 <= frechet_distance(statistics, statistics) < 1e-9


def test_a_singular_covariance_of_unknown_origin_is_no_failure():
    flat = FeatureStatistics(None, torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 0.0]).double()))
    round_ = FeatureStatistics(None, torch.zeros(2).double(), torch.eye(2).double())
    assert frechet_distance(flat, round_) == pytest.approx(1.0)
    assert frechet_distance(round_, flat) == pytest.approx(1.0)


def test_batches_of_any_split_give_the_mean_and_covariance_of_the_whole(formulas):
    x = features(formulas, "x")
    parts = FeatureStatistics.empty(16) + of(x[:1]) + of(x[1:7]) + of(x[7:])
    np.testing.assert_allclose(parts.mean, formulas["mu"], rtol=1e-12)
    np.testing.assert_allclose(parts.covariance, formulas["sigma"], rtol=1e-10)


def test_a_mean_large_beside_the_spread_costs_no_digits():
    x, y = normal(300, 8, 0), normal(300, 8, 1, scale=1.2)
    far = sum((of(x[i : i + 50] + 1e6) for i in range(0, 300, 50)), FeatureStatistics.empty(8))
    assert frechet_distance(far, of(y + 1e6)) == pytest.approx(frechet_distance(of(x), of(y)), rel=1e-7)


def test_the_paired_difference_recovers_the_true_distance_where_each_value_is_far_off():
    """Spec 3.6: few samples, common noise, a shift of the mean: FIDs are biased, their difference is not."""
    width, count, shift = 64, 300, 1.5
    reference = FeatureStatistics(None, torch.zeros(width).double(), torch.eye(width).double())
    plain = normal(count, width, 5)
    fast = 0.98 * plain + math.sqrt(1 - 0.98**2) * normal(count, width, 6)
    fast[:, 0] += shift
    difference = frechet_distance(of(fast), reference) - frechet_distance(of(plain), reference)
    assert frechet_distance(of(plain), reference) > 3  # the truth is 0
    assert difference == pytest.approx(shift**2, abs=0.4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(of(normal(5, 3, 0)), of(normal(5, 4, 0))), "got 3 and 4"),
        (lambda: frechet_distance(of(normal(1, 3, 0)), of(normal(5, 3, 0))), "at least 2 pictures, got 1"),
        (lambda: frechet_distance_of_features(normal(1, 3, 0), normal(5, 3, 0)), "at least 2 pictures, got 1"),
        (lambda: frechet_distance_of_features(normal(5, 3, 0), normal(5, 4, 0)), r"\(5, 3\) and \(5, 4\)"),
        (lambda: of(torch.zeros(3)), r"got \(3,\)"),
        (lambda: of(torch.tensor([[1.0, float("nan")]])), "NaN or infinity"),
        (lambda: of(normal(3, 2, 0)) + of(normal(3, 4, 0)), "got 2 and 4"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
