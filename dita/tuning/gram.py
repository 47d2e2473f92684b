"""What forecasts miss, from the inner products of a plain run alone.

z_t is what would be forecast at step t of T, the output, say, as a vector. One plain run gives the Gram matrix
G[s, t] = mean over prompts and elements of z_s z_t, and this the squared error of any weighted sum of earlier z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]


def gram_matrix(outputs: ArrayLike) -> Floats:
    """G (T, T) of the outputs (T, ...) of one run; the mean of several runs' is that of them together."""
    flat = np.asarray(outputs, np.float64)
    flat = flat.reshape(len(flat), -1)
    return flat @ flat.T / flat.shape[1]


def checked_gram(gram: ArrayLike) -> Floats:
    """`gram` as float64. Raises `ValueError` where it is not square, symmetric, finite and of at least one step."""
    matrix = np.asarray(gram, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"a Gram matrix has a row and a column for each step, got the shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("a Gram matrix must be finite: some output of the run was not")
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-9 * float(np.abs(matrix).max())):
        raise ValueError("a Gram matrix must be symmetric")
    return (matrix + matrix.T) / 2


def forecast_error(gram: ArrayLike, weights: ArrayLike, history: Sequence[int], target: int) -> float:
    """Mean square of z_target - sum over k of weights[k] z_history[k], which is a' G a with a = (-weights, 1)."""
    matrix, chosen = np.asarray(gram, np.float64), [*history, target]
    signed = np.append(-np.asarray(weights, np.float64), 1.0)
    return max(0.0, float(signed @ matrix[np.ix_(chosen, chosen)] @ signed))


def integrated_error(
    gram: ArrayLike, sensitivities: ArrayLike, weights: ArrayLike, history: Sequence[int], targets: Sequence[int]
) -> float:
    """Mean square of sum over t of c_t (z_t - forecast_t): what the errors of a gap do to the final latents together.

    Args:
        sensitivities: c (T,), how much the final latents move for each unit of output at a step.
        weights: (targets, history).
    """
    matrix, c = np.asarray(gram, np.float64), np.asarray(sensitivities, np.float64)[list(targets)]
    chosen = [*history, *targets]
    signed = np.concatenate([-c @ np.asarray(weights, np.float64).reshape(len(targets), len(history)), c])
    return max(0.0, float(signed @ matrix[np.ix_(chosen, chosen)] @ signed))


def least_squares_weights(
    gram: ArrayLike, history: Sequence[int], targets: Sequence[int], ridge: float = 1e-9
) -> Floats:
    """The weights (targets, history) with the least error: G[h, h]^-1 G[h, t] for each target.

    They are the closed form of learned linear predictors (L2P, arXiv 2604.26365). `ridge`, relative to the mean of the
    diagonal, keeps them bounded where steps of the history are nearly equal.
    """
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise ValueError(f"ridge must be a finite number, at least 0, got {ridge}")
    matrix, known = np.asarray(gram, np.float64), list(history)
    inner = matrix[np.ix_(known, known)]
    inner = inner + ridge * max(float(np.trace(inner)) / len(known), np.finfo(float).tiny) * np.eye(len(known))
    solved = np.linalg.lstsq(inner, matrix[np.ix_(known, list(targets))], rcond=None)[0]
    return np.asarray(solved.T, np.float64)


def lagrange_weights(nodes: ArrayLike, at: ArrayLike) -> Floats:
    """Weights (at, nodes) of the polynomial through all nodes, at the places `at` of the same coordinate.

    Through one node it is reuse, through two a straight line. Raises `ValueError` for nodes that coincide.
    """
    known, places = np.asarray(nodes, np.float64), np.atleast_1d(np.asarray(at, np.float64))
    if known.ndim != 1 or len(np.unique(known)) < max(len(known), 1):
        raise ValueError(f"nodes must be numbers that differ, at least one, got {known.tolist()}")
    weights = np.ones((len(places), len(known)))
    for k, node in enumerate(known):
        for other in np.delete(known, k):
            weights[:, k] *= (places - other) / (node - other)
    return weights


def taylor_weights(nodes: ArrayLike, at: ArrayLike, order: int) -> Floats:
    """Weights (at, nodes) of TaylorSeer's forecast from the nodes, in ascending order of time.

    F_0 is a node's output, F_i+1 = (F_i - F_i of the node before) / (distance of the two), and the forecast at a
    distance x from the last node is the sum of F_i x^i / i! for i up to `order` and as far as there are nodes
    (arXiv 2503.06923, as `dita.plan.Forecast`). Up to order 1 it is `lagrange_weights` of the last nodes.
    """
    known, places = np.asarray(nodes, np.float64), np.atleast_1d(np.asarray(at, np.float64))
    if known.ndim != 1 or len(np.unique(known)) < max(len(known), 1):
        raise ValueError(f"nodes must be numbers that differ, at least one, got {known.tolist()}")
    factors = np.eye(len(known))  # row j: F_i of the j-th node, by the outputs that it is made of
    weights = np.tile(factors[-1], (len(places), 1))
    for i in range(1, min(order, len(known) - 1) + 1):
        steps = (known[i:] - known[i - 1 : -1])[:, None]
        factors = (factors[1:] - factors[:-1]) / steps
        weights += ((places - known[-1]) ** i / math.factorial(i))[:, None] * factors[-1]
    return weights
