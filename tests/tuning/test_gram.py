"""Errors and weights from inner products alone are those of the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.plan import Forecast
from dita.tuning.gram import (
    checked_gram,
    forecast_error,
    gram_matrix,
    integrated_error,
    lagrange_weights,
    least_squares_weights,
    taylor_weights,
)


def outputs(steps: int, size: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, size)).cumsum(axis=0)


def test_a_gram_matrix_is_the_mean_of_products_and_that_of_runs_is_their_mean() -> None:
    runs = [outputs(6, seed=seed).reshape(6, 4, 10) for seed in (0, 1)]
    together = gram_matrix(np.concatenate(runs, axis=2))
    assert np.allclose(together, (gram_matrix(runs[0]) + gram_matrix(runs[1])) / 2)
    assert together[1, 4] == pytest.approx(np.mean([run[1] * run[4] for run in runs]))


@given(st.integers(0, 99), st.lists(st.floats(-3, 3), min_size=1, max_size=4))
def test_the_error_of_any_weights_is_that_of_the_vectors(seed: int, weights: list[float]) -> None:
    z = outputs(8, seed=seed)
    history = list(range(1, 1 + len(weights)))
    expected = np.mean((z[6] - np.array(weights) @ z[history]) ** 2)
    assert forecast_error(gram_matrix(z), weights, history, 6) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_integrated_errors_may_cancel() -> None:
    z, c = outputs(8), np.linspace(1, 2, 8)
    weights = np.array([[0.5, 0.5], [-0.2, 1.1]])
    expected = np.mean(sum(c[t] * (z[t] - w @ z[[1, 4]]) for t, w in zip((5, 6), weights, strict=True)) ** 2)
    assert integrated_error(gram_matrix(z), c, weights, [1, 4], [5, 6]) == pytest.approx(expected)
    opposite = np.stack([np.ones(5), 2 * np.ones(5), np.zeros(5)])
    reuse = [[1.0], [1.0]]
    assert integrated_error(gram_matrix(opposite), np.ones(3), reuse, [0], [1, 2]) == pytest.approx(0, abs=1e-12)
    assert forecast_error(gram_matrix(opposite), [1.0], [0], 1) == pytest.approx(1)


@given(st.integers(0, 99), st.integers(1, 4))
def test_least_squares_weights_are_those_of_the_vectors_and_no_others_are_better(seed: int, count: int) -> None:
    z = outputs(9, seed=seed)
    history, targets = list(range(count)), [5, 7]
    weights = least_squares_weights(gram_matrix(z), history, targets, ridge=0)
    expected = np.linalg.lstsq(z[history].T, z[targets].T, rcond=None)[0].T
    assert np.allclose(weights, expected, atol=1e-6)
    best = forecast_error(gram_matrix(z), weights[0], history, 5)
    for nudge in 0.1 * np.eye(count):
        assert forecast_error(gram_matrix(z), weights[0] + nudge, history, 5) >= best


def test_a_ridge_bounds_the_weights_of_equal_steps() -> None:
    z = np.stack([np.ones(5), np.ones(5), 2 * np.ones(5)])
    assert np.allclose(least_squares_weights(gram_matrix(z), [0, 1], [2], 1e-6), [[1, 1]], atol=1e-3)
    assert not least_squares_weights(np.zeros((3, 3)), [0, 1], [2]).any()
    with pytest.raises(ValueError, match="ridge must be a finite number, at least 0, got -1"):
        least_squares_weights(gram_matrix(z), [0], [2], -1)


def test_lagrange_weights_worked_by_hand() -> None:
    assert lagrange_weights([4.0], [5, 9]).tolist() == [[1], [1]]
    assert lagrange_weights([2.0, 4.0], [6]).tolist() == [[-1, 2]]
    assert lagrange_weights([0.0, 1.0, 2.0], [3]).tolist() == [[1, -3, 3]]
    for nodes in ([], [1.0, 1.0], [[1.0]]):
        with pytest.raises(ValueError, match="nodes must be numbers that differ, at least one"):
            lagrange_weights(nodes, [3])


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    st.floats(-60, 60),
)
def test_lagrange_weights_continue_every_polynomial_of_their_order(nodes, coefficients, at: float) -> None:
    polynomial = np.polynomial.Polynomial(coefficients[: len(nodes)])
    weights = lagrange_weights(nodes, at)
    size = np.abs(weights).sum() * np.abs(polynomial(np.array(nodes, float))).max()
    assert weights @ polynomial(np.array(nodes, float)) == pytest.approx([polynomial(at)], abs=1e-9 * (size + 1))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 9), st.integers(0, 99))
def test_taylor_weights_are_the_forecast_that_runs_make(distances, order: int, ahead: int, seed: int) -> None:
    nodes = np.cumsum(distances)
    z = outputs(len(nodes), seed=seed)
    factors: list[np.ndarray] = []
    for j, now in enumerate(z):  # as a run does it, step by step
        fresh = [now]
        for i in range(min(order, len(factors))):
            fresh.append((fresh[i] - factors[i]) / (nodes[j] - nodes[j - 1]))
        factors = fresh
    weights = Forecast(order).weights(ahead, len(factors) - 1)
    expected = factors[0] + sum(w * f for w, f in zip(weights, factors[1:], strict=True))
    assert np.allclose(taylor_weights(nodes, nodes[-1] + ahead, order)[0] @ z, expected, rtol=1e-9, atol=1e-6)


def test_a_taylor_forecast_of_order_1_is_the_line_through_the_last_two_in_any_coordinate() -> None:
    nodes, at = [1000.0, 700.0, 400.0], [300.0, 100.0]
    assert np.allclose(taylor_weights(nodes, at, 1)[:, 1:], lagrange_weights(nodes[1:], at))
    assert not taylor_weights(nodes, at, 1)[:, 0].any()
    with pytest.raises(ValueError, match="nodes must be numbers that differ"):
        taylor_weights([1.0, 1.0], at, 1)


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (np.ones(3), r"a row and a column for each step, got the shape \(3,\)"),
        (np.ones((2, 3)), r"got the shape \(2, 3\)"),
        (np.ones((0, 0)), r"got the shape \(0, 0\)"),
        ([[1.0, np.nan], [np.nan, 1.0]], "must be finite"),
        ([[1.0, 2.0], [0.0, 1.0]], "must be symmetric"),
    ],
)
def test_what_is_no_gram_matrix(gram, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_gram(gram)
