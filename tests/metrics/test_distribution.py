import numpy as np
import pytest
import torch

from dita.metrics import distribution
from dita.metrics.distribution import Sample, check_same_measure, clip_distance, collect, fid, kernel_distance
from dita.metrics.features import Identity
from dita.metrics.frechet import FeatureStatistics, frechet_distance_of_features
from tests.metrics.test_streaming import noisy, pictures
from tests.metrics.tiny_networks import tiny_features

HERE = Identity("tiny", "0" * 64, "squash 16")


def sample(count, seed=0, width=4, keep=True, identity=HERE, shift=0.0):
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift
    return Sample(identity, FeatureStatistics.of(features), features if keep else None)


def test_batches_of_pictures_become_one_sample():
    network = tiny_features()
    images = pictures(11)
    found = collect(network, [images[:4], images[4:]], keep=True)
    assert found.count == 11 and found.features.shape == (11, 6)
    assert fid(found, collect(network, [noisy(images)], keep=True)).value > 0


def test_kept_features_are_all_there_in_order_however_many(monkeypatch):
    monkeypatch.setattr(distribution, "BLOCK", 4)
    network, images = tiny_features(), pictures(23)
    found = collect(network, [images[i : i + 5] for i in range(0, 23, 5)], keep=True)
    torch.testing.assert_close(found.features, network(images))
    assert collect(network, [images]).features is None


def test_a_result_carries_counts_and_identity():
    found = fid(sample(50), sample(60, 1))
    assert (found.metric, found.count, found.reference_count, found.identity) == ("fid", 50, 60, HERE)


def test_below_ten_pictures_a_feature_the_bias_is_said_and_kid_recommended():
    (words,) = fid(sample(39), sample(400, 1)).warnings
    assert "39 pictures for 4 features" in words and "Look at KID first" in words
    assert fid(sample(40), sample(400, 1)).warnings == ()


def test_few_pictures_with_kept_features_are_compared_without_a_large_matrix(monkeypatch):
    x, y = sample(5, width=40), sample(6, 1, width=40)
    monkeypatch.setattr(distribution, "frechet_distance", lambda *_: pytest.fail("by statistics"))
    assert fid(x, y).value == pytest.approx(frechet_distance_of_features(x.features, y.features))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Identity("tiny", "0" * 64, "clean"), "different resize modes, 'squash 16' and 'clean'"),
        (Identity("tiny", "1" * 64, "squash 16"), "different weights, '000000000000' and '111111111111'"),
        (Identity("large", "0" * 64, "squash 16"), "different networks, 'tiny' and 'large'"),
        (None, "does not say its network and resize mode"),
    ],
)
def test_samples_of_another_network_weights_or_resize_are_never_compared_without_a_warning(other, words):
    assert any(words in warning for warning in fid(sample(100), sample(100, 1, identity=other)).warnings)
    assert any(words in warning for warning in kernel_distance(sample(9), sample(9, 1, identity=other)).warnings)


def test_finished_values_of_different_counts_do_not_compare():
    a, b = fid(sample(100), sample(80, 1)), fid(sample(90), sample(70, 1))
    assert check_same_measure(a, a) == ()
    assert check_same_measure(a, b) == (
        "different numbers of pictures, 100 and 90",
        "different numbers of reference pictures, 80 and 70",
    )


def test_kernel_distances_need_features_and_widths_must_agree():
    with pytest.raises(ValueError, match="KID needs the features of all pictures"):
        kernel_distance(sample(9), sample(9, keep=False))
    with pytest.raises(ValueError, match="the reference has 5 features a picture, but the network tiny gives 4"):
        fid(sample(9), sample(9, width=5))


def test_cmmd_gives_both_estimates():
    found = clip_distance(sample(20), sample(20, 1))
    assert found.value > found.unbiased


def test_the_paired_difference_is_that_of_the_values_and_its_interval_is_narrow():
    reference = sample(400, 9)
    plain = sample(200, 1)
    near = Sample(HERE, FeatureStatistics.of(plain.features + 0.01), plain.features + 0.01)
    far = Sample(HERE, FeatureStatistics.of(plain.features + 0.5), plain.features + 0.5)
    for metric, distance in (("fid", fid), ("kid", kernel_distance)):
        small, large = (distribution.paired_difference(s, plain, reference, metric=metric) for s in (near, far))
        assert large.mean == pytest.approx(distance(far, reference).value - distance(plain, reference).value)
        assert large.low < large.mean < large.high and large.low > 0
        assert small.high - small.low < 0.2 * (large.high - large.low)
        assert distribution.paired_difference(far, plain, reference, metric=metric) == large


def test_the_kid_interval_is_centred_on_the_difference():
    """The bootstrap leaves out a picture's product with its own copy, which would shift every resampled value."""
    reference, plain, fast = sample(300, 9), sample(60, 1), sample(60, 2, shift=0.3)
    found = distribution.paired_difference(fast, plain, reference, metric="kid")
    assert (found.low + found.high) / 2 == pytest.approx(found.mean, abs=0.25 * (found.high - found.low))


def test_two_pairs_are_enough_for_an_interval():
    found = distribution.paired_difference(sample(2), sample(2, 1), sample(5, 2), metric="kid")
    assert np.isfinite([found.mean, found.low, found.high]).all()


def test_differences_without_features_or_of_wide_networks_have_no_interval():
    wide = [sample(20, seed, width=distribution.BOOTSTRAP_WIDTH + 1) for seed in range(3)]
    assert distribution.paired_difference(*wide).low is None
    bare = [sample(20, seed, keep=False) for seed in range(3)]
    found = distribution.paired_difference(*bare)
    assert found.mean is not None and found.low is None


def test_unpaired_counts_are_refused():
    with pytest.raises(ValueError, match="got 20 and 19"):
        distribution.paired_difference(sample(20), sample(19), sample(30))


def test_a_network_that_gives_something_else_is_named():
    network = tiny_features()
    broken = type(network)(network.identity, 6, lambda images: torch.full((len(images), 6), np.nan))
    with pytest.raises(ValueError, match="tiny gave features that hold NaN"):
        broken(pictures(2))
    other = type(network)(network.identity, 7, network.extract)
    with pytest.raises(ValueError, match=r"features of \(2, 6\), expected \(2, 7\)"):
        other(pictures(2))
