import numpy as np
import pytest

from dita.metrics import Average, average, bootstrap, difference


def test_the_mean_lies_in_its_interval_and_the_same_seed_gives_the_same_one():
    values = np.random.default_rng(1).normal(30, 2, 50)
    first = average(values)
    assert first == average(values)
    assert first != average(values, seed=1)
    assert first.mean == pytest.approx(values.mean())
    assert first.low < first.mean < first.high


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(2)
    samples = [average(rng.normal(0, 1, 40), resamples=400) for _ in range(300)]
    assert 0.90 < np.mean([s.low <= 0 <= s.high for s in samples]) < 0.98


def test_equal_values_have_no_width():
    assert average([2.0, 2.0, 2.0]) == Average(2.0, 2.0, 2.0, 3)


def test_infinite_values_are_counted_apart():
    result = average([20.0, np.inf, 30.0, np.inf])
    assert (result.mean, result.count, result.infinite) == (25.0, 2, 2)


def test_without_a_finite_value_there_is_no_mean():
    assert average([np.inf, np.inf]) == Average(None, None, None, 0, 2)
    assert average([]) == Average(None, None, None, 0, 0)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        average([1.0, float("nan")])


def test_a_paired_difference_has_a_much_narrower_interval_than_two_means():
    rng = np.random.default_rng(0)
    plain = rng.normal(30, 5, 100)
    fast = plain - 0.5 + rng.normal(0, 0.1, 100)
    found = difference(fast, plain)
    assert found.low < -0.5 < found.high
    assert found.high - found.low < 0.05 * (average(plain).high - average(plain).low)


def test_pairs_with_an_infinite_side_are_counted_apart():
    assert difference([1.0, np.inf, 3.0], [0.5, 2.0, np.inf]) == Average(0.5, 0.5, 0.5, 1, 2)


def test_a_difference_needs_pairs():
    with pytest.raises(ValueError, match="got 2 and 1"):
        difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        difference([1.0], [float("nan")])


def test_blocks_of_resamples_do_not_change_an_interval(monkeypatch):
    values = np.random.default_rng(3).normal(size=50)
    whole = average(values)
    monkeypatch.setattr(bootstrap, "_BLOCK", 130)
    assert average(values) == whole
