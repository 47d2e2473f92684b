"""Surrounds the calls of one transformer, outside of whatever torch.compile makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Before = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any] | None]
"""(args, kwargs) of a call -> the keyword arguments that it shall have instead, None to leave it."""
After = Callable[[Any], Any]
"""The output of a call -> what shall stand for it, None for itself; told None where the call raised."""

_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


class Surrounded:
    """`before` and `after` round every call of `model`, until `remove`.

    Hooks would be traced: `Module.compile` compiles what runs them, and the bookkeeping of a step is no part of it. So
    the instance gets a `__call__` of its own, which stands outside. A module that `torch.compile` returned has its
    graph further inside, and takes hooks.
    """

    def __init__(self, model: nn.Module, before: Before, after: After) -> None:
        self.model = model
        self.before = before
        self.after = after
        self._handles: tuple[Any, ...] = ()
        if hasattr(model, "_orig_mod"):
            self._handles = (
                model.register_forward_pre_hook(self._hook_before, with_kwargs=True),
                model.register_forward_hook(lambda _, __, output: self.after(output), always_call=True),
            )
            return
        if "_dita_surrounded" not in model.__dict__:
            model.__class__ = _calling_class(type(model))
            model.__dict__["_dita_surrounded"] = ()
        model.__dict__["_dita_surrounded"] = (*model.__dict__["_dita_surrounded"], self)

    def remove(self) -> None:
        """Puts back what was there. Harmless a second time."""
        for handle in self._handles:
            handle.remove()
        others = tuple(one for one in self.model.__dict__.get("_dita_surrounded", ()) if one is not self)
        if others:
            self.model.__dict__["_dita_surrounded"] = others
        elif "_dita_surrounded" in self.model.__dict__:
            del self.model.__dict__["_dita_surrounded"]
            self.model.__class__ = type(self.model).__bases__[0]

    def _hook_before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = self.before(args, kwargs)
        return None if changed is None else ((), changed)


def _calling_class(base: type[nn.Module]) -> type[nn.Module]:
    """`base` with a `__call__` that asks the instance's `Surrounded`; its name, module and signature stay."""
    if base not in _CLASSES:

        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            surrounding: tuple[Surrounded, ...] = self._dita_surrounded
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "dita was enabled on a transformer that torch.compile takes in: enable it on what torch.compile"
                    " returns, or compile in place, by transformer.compile() or compile_repeated_blocks()"
                )
            return _surrounded_call(surrounding, base.__call__, self, args, kwargs)

        body = {"__call__": __call__, "__module__": base.__module__, "__qualname__": base.__qualname__}
        _CLASSES[base] = type(base.__name__, (base,), body)
    return _CLASSES[base]


def _surrounded_call(
    surrounding: tuple[Surrounded, ...], call: Any, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    for one in surrounding:
        changed = one.before(args, kwargs)
        if changed is not None:
            args, kwargs = (), changed
    output = None
    try:
        output = call(model, *args, **kwargs)
    finally:
        if output is None:
            for one in surrounding:
                one.after(None)
    for one in surrounding:
        changed = one.after(output)
        output = output if changed is None else changed
    return output
