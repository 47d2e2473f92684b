"""Stored outputs, and how they are continued to later steps (TaylorSeer; `plan.Forecast` has the formula)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar, overload

import torch
from torch import Tensor

Feature = Tensor | tuple[Tensor, ...]
F = TypeVar("F", Tensor, tuple[Tensor, ...])


class Stored:
    """One stored output and, where it is forecast, its factors.

    Attributes:
        out: the output of the last step that computed it, F_0.
        factors: F_1, F_2, ... as far as they are formed.
        weights: what the factors are multiplied with in this step; empty where `out` is used as it is.
        step: the step that `out` is of.
    """

    def __init__(self) -> None:
        self.out: Feature | None = None
        self.factors: list[Feature] = []
        self.weights: tuple[Tensor, ...] = ()
        self.step = 0
        self._before: Feature | None = None

    def output(self) -> Feature:
        """What stands for the output in this step: `out` itself, or a new tensor, its forecast."""
        assert self.out is not None
        result = self.out
        for weight, factor in zip(self.weights, self.factors, strict=False):
            result = _each(partial(_plus_weighted, weight), result, factor)
        return result

    def renew(self, factors: bool) -> None:
        """Before a step that stores anew: what is there stays for that step's factors, or is forgotten afterwards."""
        self.weights = ()
        self._before = self.out if factors else None
        if not factors:
            self.factors.clear()

    def note(self, step: int, order: int) -> None:
        """After a step that stored anew: forms the factors up to `order`, in the place of the former ones."""
        distance, self.step = step - self.step, step
        if self._before is None or self.out is None:
            return
        former, self._before = [self._before, *self.factors], None
        newest, self.factors = self.out, []
        for factor in former[:order]:
            newest = _each(partial(_difference, distance), factor, newest)
            self.factors.append(newest)

    def forget(self) -> None:
        """Frees everything."""
        self.out = self._before = None
        self.factors.clear()
        self.weights = ()

    def join_halves(self) -> None:
        """Makes one of the two halves of a guided call: their mean."""
        self.out = mean_of_halves(self.out)
        self.factors = [mean_of_halves(factor) for factor in self.factors]

    def tensors(self) -> Iterator[Tensor]:
        """All that is held in memory."""
        for feature in (self.out, self._before, *self.factors):
            if feature is not None:
                yield from feature if isinstance(feature, tuple) else (feature,)


@overload
def mean_of_halves(feature: F) -> F: ...
@overload
def mean_of_halves(feature: None) -> None: ...
@overload
def mean_of_halves(feature: Feature | None) -> Feature | None: ...
def mean_of_halves(feature: Feature | None) -> Feature | None:
    """(2 B, ...) -> (B, ...)."""
    if isinstance(feature, tuple):
        return tuple(mean_of_halves(tensor) for tensor in feature)
    return None if feature is None else (feature[: len(feature) // 2] + feature[len(feature) // 2 :]) / 2


def _plus_weighted(weight: Tensor, total: Tensor, term: Tensor) -> Tensor:
    return total + weight * term


def _difference(distance: int, old: Tensor, new: Tensor) -> Tensor:
    """(new - old) / distance, in the place of `old`."""
    return old.sub_(new).div_(-distance)


def _each(operation: Callable[[Tensor, Tensor], Tensor], one: Feature, other: Feature) -> Feature:
    if isinstance(one, tuple):
        return tuple(operation(a, b) for a, b in zip(one, other, strict=True))
    assert isinstance(other, Tensor)
    return operation(one, other)


def as_weights(values: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Numbers as tensors without dimensions: a compiled block is not compiled again for each step."""
    return tuple(torch.tensor(value, device=device) for value in values)
