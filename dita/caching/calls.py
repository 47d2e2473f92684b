"""Surrounds the calls of one transformer, outside of whatever torch.compile makes of it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from dita.caching.stand_in import is_stand_in, stand_in, stock_class


class Answer:
    """What stands for the output of a call that is not made."""

    def __init__(self, output: Any) -> None:
        self.output = output


Before = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any] | Answer | None]
"""(args, kwargs) of a call -> the keyword arguments that it shall have instead, or an answer in place of the call; None
to leave it."""
After = Callable[[Any], Any]
"""The output of a call -> what shall stand for it, None for itself; told None where the call raised."""
Again = Callable[[], Any]
"""Repeats a call as it was given, with nothing around it."""

_AGAIN: ContextVar[Again | None] = ContextVar("again", default=None)

_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}
_SURROUNDING: weakref.WeakKeyDictionary[nn.Module, tuple[Surrounded, ...]] = weakref.WeakKeyDictionary()


class Surrounded:
    """`before` and `after` round every call of `model`, until `remove`.

    Hooks would be traced: `Module.compile` compiles what runs them, and the bookkeeping of a step is no part of it. So
    the instance gets a `__call__` of its own, which stands outside. A module that `torch.compile` returned has its
    graph further inside, and takes hooks, and a forward that can leave the compiled one out. What surrounds a module is
    no part of it: copies are plain.

    `traced`: the module may become a part of what is compiled elsewhere, where nothing surrounds it; otherwise that
    raises.
    """

    def __init__(self, model: nn.Module, before: Before, after: After, traced: bool = False) -> None:
        self._model = weakref.ref(model)
        self.before = before
        self.after = after
        self._handles: tuple[Any, ...] = ()
        if hasattr(model, "_orig_mod"):
            self._handles = (
                model.register_forward_pre_hook(_HookBefore(self), with_kwargs=True),
                model.register_forward_hook(_HookAfter(self), always_call=True),
            )
            model.forward = _Answering(model.forward)
            return
        if model not in _SURROUNDING:
            model.__class__ = _calling_class(type(model))
        model.__dict__["_dita_traced"] = model.__dict__.get("_dita_traced", True) and traced
        _SURROUNDING[model] = (*_SURROUNDING.get(model, ()), self)

    def remove(self) -> None:
        """Puts back what was there. Harmless a second time."""
        for handle in self._handles:
            handle.remove()
        model = self._model()
        if self._handles and model is not None and isinstance(model.forward, _Answering):
            model.forward = model.forward.stock
        if model is None or model not in _SURROUNDING:
            return
        others = tuple(one for one in _SURROUNDING[model] if one is not self)
        if others:
            _SURROUNDING[model] = others
            return
        del _SURROUNDING[model]
        model.__dict__.pop("_dita_traced", None)
        if is_stand_in(type(model)):
            model.__class__ = stock_class(type(model))


class _Hook:
    """A hook that holds what surrounds a module weakly, and does nothing in a copy."""

    def __init__(self, surrounded: Surrounded | None = None) -> None:
        self._surrounded = None if surrounded is None else weakref.ref(surrounded)

    def __reduce__(self) -> Any:
        return type(self), ()

    def surrounded(self, model: nn.Module) -> Surrounded | None:
        found = None if self._surrounded is None else self._surrounded()
        return found if found is not None and found._model() is model else None


class _HookBefore(_Hook):
    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        surrounded = self.surrounded(model)
        _AGAIN.set(functools.partial(model.forward, *args, **kwargs))
        changed = None if surrounded is None else surrounded.before(args, kwargs)
        if isinstance(changed, Answer):
            assert isinstance(model.forward, _Answering)
            model.forward.answer = changed
            return None
        return None if changed is None else ((), changed)


class _HookAfter(_Hook):
    def __call__(self, model: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        surrounded = self.surrounded(model)
        try:
            return None if surrounded is None else surrounded.after(output)
        finally:
            _AGAIN.set(None)


class _Answering:
    """The forward of a module, or for one call the answer in its place."""

    def __init__(self, stock: Callable[..., Any]) -> None:
        self.stock = stock
        self.answer: Answer | None = None
        self._torchdynamo_orig_callable = getattr(stock, "_torchdynamo_orig_callable", None)  # what the stock one says

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer, self.answer = self.answer, None
        return self.stock(*args, **kwargs) if answer is None else answer.output

    def __reduce__(self) -> Any:
        return _itself, (self.stock,)


def _itself(one: Any) -> Any:
    return one


def _calling_class(base: type[nn.Module]) -> type[nn.Module]:
    """`base` with a `__call__` that asks what surrounds the instance."""
    if base not in _CLASSES:

        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                if self._dita_traced:
                    return base.__call__(self, *args, **kwargs)
                raise RuntimeError(
                    "dita was enabled on a transformer that torch.compile takes in: enable it on what torch.compile"
                    " returns, or compile in place, by transformer.compile() or compile_repeated_blocks()"
                )
            return _surrounded_call(_SURROUNDING.get(self, ()), base.__call__, self, args, kwargs)

        _CLASSES[base] = stand_in(base, {"__call__": __call__}, transparent=True)
    return _CLASSES[base]


def _surrounded_call(
    surrounding: tuple[Surrounded, ...], call: Any, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    given = functools.partial(call, model, *args, **kwargs)
    entered: list[Surrounded] = []
    output = None
    try:
        answer: Answer | None = None
        for one in surrounding:
            changed = one.before(args, kwargs)
            entered.append(one)
            if isinstance(changed, Answer):
                answer = changed
            elif changed is not None:
                args, kwargs = (), changed
        output = call(model, *args, **kwargs) if answer is None else answer.output
    finally:
        if output is None:
            for one in entered:
                one.after(None)
    token = _AGAIN.set(given)
    try:
        for one in surrounding:
            changed = one.after(output)
            output = output if changed is None else changed
    finally:
        _AGAIN.reset(token)
    return output


def repeats() -> Again | None:
    """Within `after`, what repeats the call that it is of."""
    return _AGAIN.get()
