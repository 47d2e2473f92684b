import pytest

from dita.metrics import share


def test_wilson_of_eight_in_ten_as_worked_by_hand():
    # (8 + z^2/2) / (10 + z^2) = 0.7167; half width z sqrt(10) / (10 + z^2) sqrt(0.16 + z^2/40) = 0.2266
    found = share(8, 10)
    assert found.share == 0.8
    assert found.low == pytest.approx(0.4902, abs=5e-4) and found.high == pytest.approx(0.9433, abs=5e-4)


def test_the_interval_stays_within_0_and_1_and_has_a_width_at_the_ends():
    none, all_ = share(0, 20), share(20, 20)
    assert none.low == 0 and none.high > 0.1
    assert all_.high == 1 and all_.low < 0.9


def test_more_cases_make_the_interval_narrower():
    few, many = share(8, 10), share(800, 1000)
    assert many.high - many.low < (few.high - few.low) / 5


def test_of_nothing_there_is_no_share():
    assert share(0, 0).share is None and share(0, 0).low is None


@pytest.mark.parametrize(("right", "count"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(right, count):
    with pytest.raises(ValueError, match=f"between 0 and count={count}, got {right}"):
        share(right, count)
