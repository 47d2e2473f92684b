"""Other caches, and what may be one, on a transformer or its pipeline: each of two would spoil what the other keeps.

Asked when a method is enabled, at the first call of each run, and where something changed during it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from dita.caching.adapters import Adapter
from dita.caching.class_swap import ForeignHookError, MakeForward, stock_forward_holder
from dita.caching.stand_in import stock_class

_SUPPORTED_HOOKS = {
    "group_offloading",
    "lazy_prefetch_group_offloading",
    "layer_execution_tracker",
    "layerwise_casting",
    "peft_autocast_disable",
}
_PARALLEL_HOOKS = ("cp_input---", "cp_output---")  # of context parallelism: which modules they split and join follows
_TRUSTED = ("diffusers", "torch", "accelerate", "peft", "transformers", "dita")
"""Packages whose decorators stand round forwards."""


def check_all(model: nn.Module, adapter: Adapter, target: object) -> None:
    """`check` for what dita is to be enabled on, a pipeline or a transformer."""
    if isinstance(target, nn.Module):
        check(model, adapter, target)
    else:
        check(model, adapter, target.components["transformer"], target)  # type: ignore[attr-defined]


def check(model: nn.Module, adapter: Adapter, outer: nn.Module, pipe: Any = None) -> None:
    """Raises `ForeignHookError`, which names it and how to take it off, if another cache, or what may be one, is on
    `model`, on `outer` which wraps it, or on `pipe`."""
    _check_diffusers(model)
    for holder in (model, outer, pipe):
        _check_marks(holder, pipe is not None)
    for name, module in model.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None and registry.hooks:
            _check_hooks(name or "transformer", registry)
    for module in {id(one): one for one in (outer, model, *sites(model, adapter))}.values():
        _check_forward(module)


def fingerprint(model: nn.Module, sites: list[nn.Module]) -> tuple[Any, ...]:
    """What changes when a cache is put on `model` whose sites are `sites`: cheap enough to be asked at every call."""
    own = vars(model)
    marks = (own.get("_cache_config"), own.get("_is_cached"), own.get("forward"), stock_class(type(model)).forward)
    return *map(id, marks), *(id(site.__dict__.get("forward")) for site in sites)


def sites(model: nn.Module, adapter: Adapter) -> list[nn.Module]:
    """The blocks of `model` and the modules in them that dita works in.

    Raises `ForeignHookError` where something else stands in the place of a block.
    """
    return [module for _, _, forwards in swappable(model, adapter) for module, _ in forwards]


def swappable(
    model: nn.Module, adapter: Adapter
) -> Iterator[tuple[str, nn.Module, list[tuple[nn.Module, MakeForward]]]]:
    """(stack, block, the modules that dita swaps and by what) of each block.

    Raises `ForeignHookError` where something else stands in the place of a block.
    """
    for stack, layer, block in adapter.blocks(model):
        try:
            forwards = adapter.forwards(stack, block)
        except AttributeError:
            raise ForeignHookError(
                f"in the place of {stack} block {layer} of the {type(model).__name__} stands a {type(block).__name__},"
                " which dita does not know: it may be another cache's; put the blocks back first"
            ) from None
        yield stack, block, forwards


def _check_diffusers(model: nn.Module) -> None:
    config = getattr(model, "_cache_config", None)
    if config is not None:
        raise ForeignHookError(
            f"{type(model).__name__} already has a diffusers cache enabled ({type(config).__name__});"
            " call transformer.disable_cache() first, or go without dita (dita.disable)"
        )


def _check_marks(holder: Any, of_pipeline: bool) -> None:
    """What cache-dit, and caches made like it, leave on a transformer and on a pipeline: on the instance, as its class
    is shared with pipelines that have no cache."""
    own: dict[str, Any] = getattr(holder, "__dict__", {})
    manager = type(own.get("_context_manager")).__module__.partition(".")[0]
    if manager == "cache_dit" or "_is_cached" in own:
        name, remedy = "another cache (`_is_cached`)", "disable it"
        if manager == "cache_dit":
            name, remedy = "cache-dit", f"call cache_dit.disable_cache({'pipe' if of_pipeline else 'transformer'})"
        raise ForeignHookError(
            f"{type(holder).__name__} already has {name} enabled; {remedy} first, or go without dita (dita.disable)"
        )


def _check_hooks(name: str, registry: Any) -> None:
    names = set(registry.hooks) - _SUPPORTED_HOOKS
    foreign = sorted(hook for hook in names if not hook.startswith(_PARALLEL_HOOKS))
    if foreign:
        raise ForeignHookError(
            f"module {name!r} carries the hook(s) {', '.join(foreign)}; dita runs beside group offloading, layerwise"
            " casting, context parallelism and accelerate's offloading only: remove the hook first"
            f" (module._diffusers_hook.remove_hook({foreign[0]!r}))"
        )


def _check_forward(module: nn.Module) -> None:
    forward = module.__dict__.get("forward")
    if forward is not None and getattr(forward, "_torchdynamo_orig_callable", None) is None:
        stock_forward_holder(module)
    cls = stock_class(type(module))
    owner = next((one for one in cls.__mro__ if "forward" in vars(one)), None)
    function = vars(owner).get("forward") if owner is not None else None
    if owner is None or not inspect.isfunction(function) or _is_at_home(function, owner):
        return
    raise ForeignHookError(
        f"the forward of the class {owner.__name__} was replaced by one of {function.__code__.co_filename}, line"
        f" {function.__code__.co_firstlineno}: it may be another cache's. Put the class's own forward back first, or go"
        " without dita (dita.disable)"
    )


def _is_at_home(function: Any, owner: type) -> bool:
    """Whether a forward of a library's class is a library's. Of a class of the user's own nothing is known."""
    if owner.__module__.partition(".")[0] not in _TRUSTED:
        return True
    written = Path(function.__code__.co_filename)
    files = (getattr(sys.modules.get(package), "__file__", None) for package in _TRUSTED)
    return any(Path(file).parent in written.parents for file in files if file is not None)
