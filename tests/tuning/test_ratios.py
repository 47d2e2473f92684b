"""The programme over token ratios finds what trying all choices finds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.tuning.ratios import best_choices


def test_worked_by_hand() -> None:
    costs = [[0.0, 1.0, 5.0], [0.0, 2.0, 2.5], [0.0, 4.0, 9.0]]
    found = best_choices(costs, [0, 1, 2], 3)
    assert (found.options, found.cost, found.taken) == ((1, 2, 0), 3.5, 3)
    assert best_choices(costs, [0, 1, 2], 0).options == (0, 0, 0)
    assert best_choices(costs, [0, 1, 2], 6).options == (2, 2, 2)
    more = best_choices([[0.0, math.inf, 1.0]], [0, 1, 2], 1)
    assert (more.options, more.taken) == ((2,), 2), "more than was asked for, where that is all there is"


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 12), st.integers(0, 999), st.booleans())
def test_no_choice_is_cheaper(places: int, options: int, least: int, seed: int, own: bool) -> None:
    draw = np.random.default_rng(seed)
    costs = draw.uniform(-1, 3, (places, options))
    units = draw.integers(0, 6, (places, options) if own else options)
    per_place = np.broadcast_to(units, costs.shape)
    fitting = [
        (sum(costs[row, one] for row, one in enumerate(chosen)), chosen)
        for chosen in itertools.product(range(options), repeat=places)
        if sum(per_place[row, one] for row, one in enumerate(chosen)) >= least
    ]
    if not fitting:
        with pytest.raises(ValueError, match=f"units at most, less than {least}"):
            best_choices(costs, units, least)
        return
    found = best_choices(costs, units, least)
    assert found.cost == pytest.approx(min(fitting)[0])
    assert found.cost == pytest.approx(sum(costs[row, one] for row, one in enumerate(found.options)))
    assert found.taken == sum(per_place[row, one] for row, one in enumerate(found.options)) >= least


@pytest.mark.parametrize(
    ("costs", "units", "least", "message"),
    [
        ([1.0], [1], 1, "costs must be numbers"),
        ([[math.nan]], [1], 1, "costs must be numbers"),
        ([[1.0, 2.0]], [1], 1, "units must be whole numbers, at least 0"),
        ([[1.0]], [0.5], 1, "units must be whole numbers"),
        ([[1.0]], [-1], 1, "units must be whole numbers"),
        ([[1.0]], [1], -1, "least must be at least 0, got -1"),
        ([[1.0]], [1], 2, "the options take away 1 units at most, less than 2"),
    ],
)
def test_bad_input_is_refused(costs, units, least: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_choices(costs, units, least)
