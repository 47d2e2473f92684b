"""Stored outputs, and how they are continued to later steps (TaylorSeer; `plan.Forecast` has the formula)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor

from dita.caching.keeping import Keeper, Kept, parts, tensor_of, with_each
from dita.caching.rows import is_recorded

Feature = Tensor | tuple[Tensor, ...]
KeptFeature = Kept | tuple[Kept, ...]
AS_COMPUTED = Keeper()


class Stored:
    """One stored output and, where it is forecast, its factors.

    Attributes:
        out: the output of the last step that computed it, F_0, in the form that `keeper` gives it.
        factors: F_1, F_2, ... as far as they are formed, likewise.
        weights: what the factors are multiplied with in this step; empty where `out` is used as it is.
        step: the step that `out` is of.
        puts: how often an output was stored in the present call, compiled graphs left out.
    """

    def __init__(self, keeper: Keeper = AS_COMPUTED) -> None:
        self.keeper = keeper
        self.out: KeptFeature | None = None
        self.factors: list[KeptFeature] = []
        self.weights: tuple[Tensor, ...] = ()
        self.step = 0
        self.puts = 0
        self._before: KeptFeature | None = None
        self._order = 0
        self._distance = 0

    def put(self, out: Feature) -> None:
        """Stores the output of the present step, and forms the factors of its forecast.

        Inside a compiled graph these wait for `settle`: graphs shall not depend on how many there are.
        """
        packed = _mapped(self.keeper.pack, out)
        self.out = _mapped(self.keeper.stow, packed)
        if not torch.compiler.is_compiling():
            self.puts += 1
            if self._before is not None:
                self._form(_mapped(tensor_of, packed))

    def stored(self) -> Feature:
        """The stored output as it was, without a forecast."""
        assert self.out is not None
        return _mapped(tensor_of, self.out)

    def output(self) -> Feature:
        """What stands for the output in this step: the stored one itself, or a new tensor, its forecast."""
        return self.forecast(self.stored())

    @overload
    def forecast(self, stored: Tensor) -> Tensor: ...
    @overload
    def forecast(self, stored: Feature) -> Feature: ...
    def forecast(self, stored: Feature) -> Feature:
        """The stored output, continued to this step."""
        for weight, factor in zip(self.weights, self.factors, strict=False):
            stored = _each(partial(_plus_weighted, weight), stored, _mapped(tensor_of, factor))
        return stored

    def renew(self, step: int, order: int) -> None:
        """Before a step that stores anew: what is there stays for that step's factors, up to `order`, or makes place
        for the new output when this is there."""
        self.weights = ()
        self._before = self.out if order else None
        self._order, self._distance, self.step = order, step - self.step, step
        if not order:
            self.factors.clear()

    def settle(self) -> None:
        """After a step that stored anew: forms what factors are not formed yet."""
        if self.out is not None and self._before is not None:
            self._form(self.stored())

    def _form(self, newest: Feature) -> None:
        former, self._before = [self._before, *self.factors], None
        self.factors = []
        for factor in former[: self._order]:
            newest = _each(partial(_difference, self._distance), _mapped(tensor_of, factor), newest)
            self.factors.append(_mapped(self.keeper.keep, newest))

    def forget(self) -> None:
        """Frees everything."""
        self.out = self._before = None
        self.factors.clear()
        self.weights = ()

    def join_halves(self) -> None:
        """Makes one of the two halves of a guided call: their mean."""
        if self.out is not None:
            self.out = _mapped(self.keeper.keep, mean_of_halves(self.stored()))
        self.factors = [
            _mapped(self.keeper.keep, mean_of_halves(_mapped(tensor_of, factor))) for factor in self.factors
        ]

    def used(self) -> Iterator[Tensor]:
        """What this step reads of the store, in order: for what stands for the output, or for new factors."""
        read: Sequence[KeptFeature | None] = (self.out, *self.factors[: len(self.weights)])
        if self._before is not None:
            read = (self._before, *self.factors)[: self._order]
        for feature in read:
            yield from _tensors(feature)

    def tensors(self) -> Iterator[Tensor]:
        """All that is held in memory."""
        for feature in (self.out, self._before, *self.factors):
            yield from _tensors(feature)

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Puts `change` of each tensor that is held in its place."""

        def changed(feature: KeptFeature) -> KeptFeature:
            return _mapped(lambda kept: with_each(kept, change), feature)

        self.out = None if self.out is None else changed(self.out)
        self._before = None if self._before is None else changed(self._before)
        self.factors = [changed(factor) for factor in self.factors]


@overload
def mean_of_halves(feature: Tensor) -> Tensor: ...
@overload
def mean_of_halves(feature: tuple[Tensor, ...]) -> tuple[Tensor, ...]: ...
@overload
def mean_of_halves(feature: Feature) -> Feature: ...
def mean_of_halves(feature: Feature) -> Feature:
    """(2 B, ...) -> (B, ...)."""
    if isinstance(feature, tuple):
        return tuple(mean_of_halves(tensor) for tensor in feature)
    return (feature[: len(feature) // 2] + feature[len(feature) // 2 :]) / 2


def _mapped(change: Callable[[Any], Any], feature: Any) -> Any:
    """`change` of a tensor, or of each of a tuple of them."""
    return tuple(change(one) for one in feature) if isinstance(feature, tuple) else change(feature)


def _tensors(feature: KeptFeature | None) -> Iterator[Tensor]:
    if isinstance(feature, tuple):
        for one in feature:
            yield from parts(one)
    elif feature is not None:
        yield from parts(feature)


def _plus_weighted(weight: Tensor, total: Tensor, term: Tensor) -> Tensor:
    return total + weight * term


def _difference(distance: int, old: Tensor, new: Tensor) -> Tensor:
    """(new - old) / distance, in the place of `old` unless gradients are recorded."""
    if is_recorded(old, new):
        return (old - new) / -distance
    return old.sub_(new).div_(-distance)


def _each(operation: Callable[[Tensor, Tensor], Tensor], one: Feature, other: Feature) -> Feature:
    if isinstance(one, tuple):
        return tuple(operation(a, b) for a, b in zip(one, other, strict=True))
    assert isinstance(other, Tensor)
    return operation(one, other)


def as_weights(values: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Numbers as tensors without dimensions: a compiled block is not compiled again for each step."""
    return tuple(torch.tensor(value, device=device) for value in values)
