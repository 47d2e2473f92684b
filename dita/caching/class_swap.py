"""Gives one module another forward by swapping the class of that instance, and puts the class back."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from torch import nn

from dita.caching.stand_in import stand_in

Forward = Callable[..., Any]
MakeForward = Callable[[Forward], Forward]
"""Takes the stock forward of a class (a plain function of `self, ...`) and returns the one to use instead."""


class ForeignHookError(RuntimeError):
    """A module carries a hook or another cache that would run instead of, or around, the accelerated forward."""


_SUBCLASSES: dict[tuple[type[nn.Module], MakeForward], type[nn.Module]] = {}


def _subclass(base: type[nn.Module], make_forward: MakeForward) -> type[nn.Module]:
    """One subclass for all modules of a class: dynamo shares compiled blocks between instances of one type."""
    if (base, make_forward) not in _SUBCLASSES:
        # The plain function is taken here, not looked up through the class at call time: dynamo cannot trace that.
        # The name stays: compile_repeated_blocks and _no_split_modules find blocks by the name of their class.
        forward = make_forward(base.forward)
        assert isinstance(forward, types.FunctionType)
        # Dynamo limits the graphs of one code object: double- and single-stream blocks, say, shall not share them.
        forward.__code__ = forward.__code__.replace()
        _SUBCLASSES[base, make_forward] = stand_in(base, {"forward": functools.wraps(base.forward)(forward)})
    return _SUBCLASSES[base, make_forward]


def swap(module: nn.Module, make_forward: MakeForward) -> None:
    """Makes `module` run `make_forward(stock forward)`. `state_dict` keys, name and isinstance checks stay.

    Works beneath hooks that were installed earlier: diffusers' group offloading and layerwise casting, and
    accelerate's. Raises `ForeignHookError`, and changes nothing, if another kind of hook stands there.
    """
    if hasattr(type(module), "_dita_base"):
        raise ForeignHookError(f"{type(module).__name__} is already attached")
    holder = stock_forward_holder(module)
    module.__class__ = _subclass(type(module), make_forward)
    if holder is not None:
        owner, name = holder
        setattr(owner, name, types.MethodType(type(module).forward, module))


def restore(module: nn.Module) -> bool:
    """Puts the class of `module` back, beneath whatever hooks it has by now. Harmless if it was not swapped.

    Returns whether nothing holds the swapped forward any more: what replaced the forward since, in a way of its own,
    may call it still.
    """
    base = getattr(type(module), "_dita_base", None)
    if base is None:
        return True
    try:
        holder = stock_forward_holder(module)
    except ForeignHookError:
        module.__class__ = base
        return False
    module.__class__ = base
    if holder is not None:
        owner, name = holder
        setattr(owner, name, types.MethodType(base.forward, module))
    return True


def put_stock_forward(module: object, stand_in_class: type[nn.Module]) -> None:
    """Puts the stock forward beneath the hooks that a copy of a swapped module has, where they kept the swapped one."""
    if not isinstance(module, nn.Module) or "forward" not in module.__dict__:
        return
    try:
        holder = stock_forward_holder(module)
    except ForeignHookError:
        return
    if holder is not None and getattr(*holder).__func__ is stand_in_class.__dict__.get("forward"):
        setattr(*holder, types.MethodType(type(module).forward, module))


def stock_forward_holder(module: nn.Module) -> tuple[Any, str] | None:
    """Where a hook that wrapped `module.forward` keeps the module's own forward; None if nothing wrapped it.

    Raises `ForeignHookError` where dita does not know what did.
    """
    if "forward" not in module.__dict__:
        return None
    candidates: list[tuple[Any, str]] = []
    registry = getattr(module, "_diffusers_hook", None)
    if registry is not None and registry._fn_refs:
        innermost = registry._fn_refs[0]
        candidates.append((innermost, "original_forward" if innermost.original_forward is not None else "forward"))
    if hasattr(module, "_old_forward"):
        candidates.append((module, "_old_forward"))
    candidates.append((module, "forward"))  # what a removed hook leaves behind
    for owner, name in candidates:
        forward = getattr(owner, name)
        if isinstance(forward, types.MethodType) and forward.__self__ is module:
            return owner, name
    raise ForeignHookError(
        f"the forward of a {type(module).__name__} was replaced by {module.__dict__['forward']!r}, which dita does not"
        " know: it may be another cache's. Take it off first, or go without dita (dita.disable)"
    )
