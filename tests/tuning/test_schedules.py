"""Schedules to begin with, and their neighbours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.tuning.schedules import even, relocations, spaced


def test_even_and_quadratic_spacing_worked_by_hand() -> None:
    assert even(28, 7) == (0, 4, 8, 12, 16, 20, 24)
    assert even(28, 10) == (0, 3, 6, 8, 11, 14, 17, 20, 22, 25)
    assert spaced(28, 5, 2.0) == (0, 1, 4, 10, 18)
    assert spaced(9, 5, 4.0) == (0, 1, 2, 3, 4)
    assert spaced(9, 5, 0.1) == (0, 5, 6, 7, 8)


@given(st.integers(1, 90), st.data(), st.floats(0.05, 6))
def test_spaced_schedules_have_the_number_asked_for(steps: int, data, power: float) -> None:
    number = data.draw(st.integers(1, steps))
    full = spaced(steps, number, power)
    assert len(full) == number and full[0] == 0 and full[-1] < steps
    assert list(full) == sorted(set(full))


@pytest.mark.parametrize(("number", "power"), [(0, 1.0), (9, 1.0), (3, 0.0), (3, float("nan"))])
def test_schedules_that_cannot_be(number: int, power: float) -> None:
    with pytest.raises(ValueError, match=r"full steps must be from 1 to the 8|power must be above 0"):
        spaced(8, number, power)


def test_relocations_worked_by_hand() -> None:
    assert relocations((0, 3), 6, 1) == [(0, 2), (0, 4)]
    assert set(relocations((0, 1, 4), 6)) == {(0, 2, 4), (0, 3, 4), (0, 1, 2), (0, 1, 3), (0, 1, 5)}
    assert relocations((0,), 6) == [] and relocations((0, 1, 2), 3) == []


@given(st.integers(2, 30), st.data(), st.integers(1, 4))
def test_relocations_move_one_step_a_little(steps: int, data, reach: int) -> None:
    full = (0, *sorted(data.draw(st.frozensets(st.integers(1, steps - 1)))))
    near = relocations(full, steps, reach)
    assert len(set(near)) == len(near) and full not in near
    for other in near:
        (gone,), (come,) = set(full) - set(other), set(other) - set(full)
        assert gone > 0 and 0 < come < steps and abs(gone - come) <= reach
        assert list(other) == sorted(other) and full in relocations(other, steps, reach)
