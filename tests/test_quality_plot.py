import dataclasses
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.metrics import Average
from dita.plot_frame import axis_range
from dita.quality_plot import METRICS, NAME_WIDTH, pareto_front, plot_names, quality_plot
from tests.sample_comparison import result, sample_comparison


@pytest.fixture
def comparison():
    return sample_comparison()


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def beats(one, other):
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@given(POINTS)
def test_the_front_is_what_nothing_beats_and_beats_all_else(points):
    front = pareto_front(points)
    for i, point in enumerate(points):
        assert (i in front) == (not any(beats(other, point) for other in points))
        assert i in front or any(beats(points[j], point) for j in front)


@given(POINTS)
def test_the_front_rises_with_the_seconds(points):
    front = [points[i] for i in pareto_front(points)]
    assert front == sorted(front)
    assert [quality for _, quality in front] == sorted(quality for _, quality in front)


def test_of_equal_points_all_are_in_it():
    assert pareto_front([(1, 1), (2, 1), (1, 1)]) == [0, 2]


LONG = "call:3:1:steps_factor=2:full=0/6/10/14/18/22/26/30/34/40/46/50/54"


def with_methods(comparison, *results):
    return dataclasses.replace(comparison, results=(comparison.results[0], *results))


def plotted(comparison, metric):
    """The plot, which must be drawn without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return quality_plot(comparison, metric)


def texts(plot):
    return re.findall(r">([^<>]+)</text>", plot)


def test_a_short_label_is_its_own_name_and_a_long_one_its_number_and_beginning():
    assert plot_names(["plain", "toca:4:0.9", LONG]) == ["plain", "toca:4:0.9", "2 call:3:1:steps_factor=2:…"]


def test_methods_whose_labels_begin_alike_or_are_the_same_have_different_names():
    labels = ["plain", LONG, LONG + "/56", "fora:3", "fora:3"]
    names = plot_names(labels)
    assert len(set(names)) == len(labels)
    assert max(map(len, names)) <= NAME_WIDTH + 4


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
@pytest.mark.parametrize("label", [LONG, "x" * 300, "+".join([LONG] * 4)], ids=["call", "no joint", "composed"])
def test_long_labels_leave_room_for_the_plot(comparison, metric, label):
    plot = plotted(with_methods(comparison, result(label, 0.5, psnr=20.0)), metric)
    assert label not in plot
    assert any(text.startswith("1 ") and text.endswith("…") for text in texts(plot))


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_where_names_would_lie_on_each_other_there_are_numbers(comparison, metric):
    close = [result(f"taylorseer:{n}:1:random", 0.4 + n / 1e5, psnr=27 + n / 1e4) for n in range(30)]
    plot = plotted(with_methods(comparison, *close), metric)
    assert {str(n) for n in range(1, 31)} <= set(texts(plot)) and "taylorseer" not in plot


def test_outliers_stand_at_the_border_with_their_values(comparison):
    close = [result(f"fora:{n}", 0.4 + n / 100, psnr=25.0 + n / 10) for n in range(8)]
    far = [result("slow", 30.0, psnr=25.0), result("noise", 0.4, psnr=2.0)]
    found = texts(plotted(with_methods(comparison, *close, *far), "psnr"))
    assert "slow (30 s)" in found and "noise (2)" in found
    ticks = [float(text) for text in found if re.fullmatch(r"[\d.]+", text)]
    assert not {5.0, 10.0, 15.0, 20.0} & set(ticks)


def test_plain_that_is_an_outlier_is_named_at_the_border(comparison):
    close = [result(f"fora:{n}", 0.1 + n / 1000, psnr=25.0 + n / 10) for n in range(8)]
    assert "plain: 1 s →" in texts(plotted(with_methods(comparison, *close), "psnr"))


def test_every_metric_has_a_least_spread():
    from dita.quality_plot import LEAST_SPREAD

    assert set(LEAST_SPREAD) == {*METRICS, "seconds"}


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(0.1, 5))
def test_an_axis_is_as_wide_as_it_must_be_and_holds_the_middle_half(values, least):
    low, high = axis_range(values, least)
    inside = [value for value in values if low <= value <= high]
    assert high - low >= least * 0.999
    assert 2 * len(inside) >= len(values)


def test_an_axis_of_nothing_finite_is_still_one():
    assert axis_range([float("nan"), float("inf")], 1.0) == (0.0, 1.0)


def test_intervals_of_one_picture_are_not_drawn_backwards(comparison):
    odd = dataclasses.replace(result("fora:3", 0.5, psnr=20.0), psnr=Average(20.0, 20.5, 21.0, 1))
    assert "fora:3" in plotted(with_methods(comparison, odd), "psnr")
