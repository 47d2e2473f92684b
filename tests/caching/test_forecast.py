"""Forecasts of stored outputs, against polynomials and worked cases."""

from __future__ import annotations

import pytest
import torch

from dita.caching.forecast import Stored, as_weights, mean_of_halves
from dita.plan import Forecast


def stored_after(values: list[float], steps: list[int], order: int) -> Stored:
    stored = Stored()
    for number, (value, step) in enumerate(zip(values, steps, strict=True)):
        stored.renew(step, order if number > 0 else 0)
        stored.put(torch.tensor([value]))
    return stored


def predicted(stored: Stored, forecast: Forecast, distance: int) -> float:
    stored.weights = as_weights(forecast.weights(distance, len(stored.factors)), torch.device("cpu"))
    return float(stored.output())


def test_a_line_is_continued_exactly_whatever_the_distances() -> None:
    stored = stored_after([2.0, 5.0, 17.0], [0, 1, 5], order=2)
    assert predicted(stored, Forecast(2), 3) == pytest.approx(2 + 3 * 8)


def test_the_factors_are_differences_over_the_last_distance() -> None:
    """F_1 = (20 - 6) / 2 = 7 after F_1 = (6 - 1) / 1 = 5; F_2 = (7 - 5) / 2 = 1."""
    stored = stored_after([1.0, 6.0, 20.0], [0, 1, 3], order=3)
    assert [float(factor) for factor in stored.factors] == [7.0, 1.0]
    assert predicted(stored, Forecast(3), 2) == pytest.approx(20 + 7 * 2 + 1 * 2**2 / 2)


def test_factors_are_formed_up_to_the_order_and_not_before_there_are_two_steps() -> None:
    assert stored_after([1.0], [0], order=2).factors == []
    assert len(stored_after([1.0, 2.0, 4.0, 8.0], [0, 1, 2, 3], order=2).factors) == 2
    assert stored_after([1.0, 2.0], [0, 1], order=0).factors == []


def test_without_factors_the_stored_output_itself_is_used() -> None:
    stored = stored_after([1.0], [0], order=2)
    assert stored.output() is stored.out


def test_streams_are_forecast_each() -> None:
    stored = Stored()
    for step, pair in enumerate([(1.0, 10.0), (2.0, 30.0)]):
        stored.renew(step, 1 if step > 0 else 0)
        stored.put(tuple(torch.tensor([value]) for value in pair))
    stored.weights = as_weights((2.0,), torch.device("cpu"))
    assert [float(one) for one in stored.output()] == [4.0, 70.0]


def test_hermite_weights_are_scaled_polynomials_over_factorials() -> None:
    """c = 1/2, x = 3: H_1(1.5) = 3, H_2 = 4 * 2.25 - 2 = 7, H_3 = 8 * 3.375 - 12 * 1.5 = 9."""
    weights = Forecast(3, "hermite", 0.5).weights(3, 3)
    assert weights == pytest.approx((0.5 * 3, 0.25 * 7 / 2, 0.125 * 9 / 6))
    assert Forecast(3).weights(3, 3) == pytest.approx((3, 9 / 2, 27 / 6))


def test_what_is_held_counts_factors_and_is_freed() -> None:
    stored = stored_after([1.0, 2.0], [0, 1], order=1)
    assert len(list(stored.tensors())) == 2
    stored.forget()
    assert not list(stored.tensors())


def test_joined_halves_are_their_mean() -> None:
    assert mean_of_halves(torch.tensor([[1.0], [2.0], [3.0], [6.0]])).tolist() == [[2.0], [4.0]]
