"""Predictors: the weights with which stored values are added up to forecast a later one. Pure Python.

Each takes the nodes of the stored values, oldest first, and the place to forecast, both in any coordinate (step number,
noise level, log-SNR), and returns one weight for each node. Weights of every predictor add up to 1, or nearly so where
it is regularised: a value that does not change is forecast as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

RIDGE = 0.1  # of `chebyshev`: lambda of Spectrum


def lagrange(nodes: Sequence[float], at: float, order: int) -> tuple[float, ...]:
    """The polynomial through the last `order` + 1 values, or through all where there are fewer; 0 is reuse."""
    used = list(nodes[-(order + 1) :])
    _check_distinct(used)
    weights = [math.prod((at - v) / (u - v) for v in used if v != u) for u in used]
    return (*(0.0,) * (len(nodes) - len(used)), *weights)


def hermite(nodes: Sequence[float], at: float, order: int, scale: float) -> tuple[float, ...]:
    """Scaled Hermite polynomials of finite differences (HiCache, arXiv 2508.16984).

    F_0 + sum over i of c^i H_i(c x) / i! F_i, with x = `at` - the newest node, c the `scale`, and F_i the differences
    as TaylorSeer forms them, over the distance of the last two nodes. The coordinate is the step number.
    """
    used = list(nodes[-(order + 1) :])
    _check_distinct(used)
    x = scale * (at - used[-1])
    polynomials = [1.0, 2 * x]
    for i in range(1, len(used)):
        polynomials.append(2 * x * polynomials[i] - 2 * i * polynomials[i - 1])
    rows = _differences(used)
    factors = [scale**i * polynomials[i] / math.factorial(i) for i in range(len(used))]
    weights = [sum(factor * row[n] for factor, row in zip(factors, rows, strict=True)) for n in range(len(used))]
    return (*(0.0,) * (len(nodes) - len(used)), *weights)


def chebyshev(
    nodes: Sequence[float], at: float, degree: int, span: tuple[float, float], ridge: float = RIDGE
) -> tuple[float, ...]:
    """A Chebyshev polynomial of `degree`, fitted to all values with a penalty on its coefficients (Spectrum, arXiv
    2603.01623): c = (Phi' Phi + ridge I)^-1 Phi' H with Phi the polynomials T_0 ... T_degree at the nodes.

    span: the coordinate of the run's first and last step, which become -1 and 1.
    """
    _check_distinct(nodes)
    low, high = span
    rows = [_chebyshev_row(_between(node, low, high), degree) for node in nodes]
    size = degree + 1
    gram = [[sum(row[i] * row[j] for row in rows) + ridge * (i == j) for j in range(size)] for i in range(size)]
    solved = _solve(gram, _chebyshev_row(_between(at, low, high), degree))
    return tuple(sum(a * b for a, b in zip(row, solved, strict=True)) for row in rows)


def _between(value: float, low: float, high: float) -> float:
    return 2 * (value - low) / (high - low) - 1 if high != low else 0.0


def _chebyshev_row(tau: float, degree: int) -> list[float]:
    row = [1.0, tau]
    for _ in range(degree - 1):
        row.append(2 * tau * row[-1] - row[-2])
    return row[: degree + 1]


def _differences(nodes: Sequence[float]) -> list[list[float]]:
    """Row i: F_i of the newest node as weights of the values."""
    count = len(nodes)
    current = [[float(n == m) for m in range(count)] for n in range(count)]
    rows = [current[-1]]
    for i in range(1, count):
        current = [
            [0.0] * count
            if n < i
            else [(a - b) / (nodes[n] - nodes[n - 1]) for a, b in zip(current[n], current[n - 1], strict=True)]
            for n in range(count)
        ]
        rows.append(current[-1])
    return rows


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """x of matrix x = right, by elimination; the matrix is positive definite."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, size):
            factor = rows[r][i] / rows[i][i]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (rows[i][size] - sum(rows[i][j] * found[j] for j in range(i + 1, size))) / rows[i][i]
    return found


def _check_distinct(nodes: Sequence[float]) -> None:
    if not nodes or len(set(nodes)) < len(nodes):
        raise ValueError(f"a forecast needs nodes that differ from each other, got {list(nodes)}")
