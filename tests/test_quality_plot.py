from hypothesis import given
from hypothesis import strategies as st

from dita.quality_plot import pareto_front

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
