"""Predictors: weights over stored values, held against polynomials, and against the formulas of their papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita import predictors
from dita.plan import Forecast

nodes_of = st.lists(st.integers(0, 60), min_size=1, max_size=5, unique=True).map(sorted)


@given(nodes_of, st.integers(0, 100), st.integers(0, 3))
def test_lagrange_continues_polynomials_of_its_order_exactly(nodes: list[int], at: int, order: int) -> None:
    weights = predictors.lagrange(nodes, at, order)
    assert len(weights) == len(nodes) and math.isclose(sum(weights), 1, abs_tol=1e-6 * max(map(abs, weights)))
    degree = min(order, len(nodes) - 1)
    values = [(node / 60) ** degree for node in nodes]
    forecast = sum(w * v for w, v in zip(weights, values, strict=True))
    assert math.isclose(forecast, (at / 60) ** degree, rel_tol=1e-6, abs_tol=1e-7 * max(map(abs, weights)))
    assert not any(weights[: -(order + 1)]), "older values than the order needs have no part in it"


@given(nodes_of, st.integers(1, 9), st.integers(0, 3))
def test_hermite_is_the_forecast_of_modules_with_the_same_basis(nodes: list[int], ahead: int, order: int) -> None:
    """`plan.Forecast` forms differences step by step; a cubic shows all of them."""
    values = [0.3 * (n / 10) ** 3 - (n / 10) + 2 for n in nodes]
    factors: list[float] = []
    last = None
    for node, value in zip(nodes, values, strict=True):
        former, newest = factors, value
        factors = [value]
        for old in former[:order]:
            newest = (newest - old) / (node - last)
            factors.append(newest)
        last = node
    weights = Forecast(order, "hermite", 0.5).weights(ahead, len(factors) - 1)
    expected = factors[0] + sum(w * f for w, f in zip(weights, factors[1:], strict=True))
    given_weights = predictors.hermite(nodes, nodes[-1] + ahead, order, 0.5)
    forecast = sum(w * v for w, v in zip(given_weights, values, strict=True))
    assert math.isclose(forecast, expected, rel_tol=1e-6, abs_tol=1e-6)


@given(nodes_of, st.integers(0, 60), st.integers(1, 4))
def test_chebyshev_is_the_ridge_regression_of_its_paper(nodes: list[int], at: int, degree: int) -> None:
    def row(place: float) -> np.ndarray:
        tau = 2 * place / 60 - 1
        return np.array([math.cos(m * math.acos(max(-1.0, min(1.0, tau)))) for m in range(degree + 1)])

    phi = np.stack([row(n) for n in nodes])
    expected = row(at) @ np.linalg.solve(phi.T @ phi + 0.1 * np.eye(degree + 1), phi.T)
    np.testing.assert_allclose(predictors.chebyshev(nodes, at, degree, (0, 60)), expected, atol=1e-9)


def test_order_0_takes_the_newest() -> None:
    assert predictors.lagrange([1, 4, 9], 12, 0) == (0, 0, 1)


def test_a_value_that_does_not_change_is_forecast_as_it_is() -> None:
    for weights in (
        predictors.lagrange([0, 3, 7], 9, 2),
        predictors.hermite([0, 3, 7], 9, 2, 0.5),
    ):
        assert sum(weights) == pytest.approx(1)


def test_nodes_that_coincide_are_refused() -> None:
    with pytest.raises(ValueError, match="differ from each other"):
        predictors.lagrange([1.0, 1.0], 2, 1)
