"""What dita knows of one transformer: who has attached a method to it, and whose each of its calls is.

Every call of the transformer belongs to one run, or to none. Its sites have the state of a run in the calls of that run
alone; any other call, such as another pipeline's in a callback, finds them idle, and runs plain. Calls of several
threads come one after another.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from dita.caching.adapters import Adapter, UnsupportedModelError, adapter_for
from dita.caching.caller import Caller, calling
from dita.caching.calls import Answer, Surrounded
from dita.caching.class_swap import restore, swap
from dita.caching.second_cache import swappable
from dita.caching.state import BlockState
from dita.caching.steady import IDLE, steady_forward


class Owner(Protocol):
    """A run as its transformer's calls see it."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | Answer | None:
        """In front of a call of its own, or in its place; its state enters the sites."""
        ...

    def after(self, output: Any) -> Any:
        """Behind it, None where the call raised."""
        ...

    def rest(self) -> None:
        """Leaves the sites to others, where it does not keep them between its calls."""
        ...

    def make_way(self) -> None:
        """Leaves the sites to a call that is not its own."""
        ...

    def resume(self) -> None:
        """Enters the sites again, in the middle of a call."""
        ...


class PipelineCall(Owner, Protocol):
    """The run of a pipeline's call."""

    caller: Caller


class BareOwner(Owner, Protocol):
    """What owns the calls of a bare transformer."""

    def owns_call(self) -> bool:
        """Whether the coming call is of its run."""
        ...


class Transformer:
    """One transformer that methods are attached to; it is held weakly, and so are they."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self.adapter: Adapter = adapter_for(model)
        self.lock = threading.RLock()
        self.calls: list[PipelineCall] = []
        self.bare: weakref.ref[BareOwner] | None = None
        self._users: set[object] = set()
        self._surrounded: dict[int, tuple[weakref.ref[nn.Module], Surrounded]] = {}
        self._open: list[_OpenCall] = []
        self._leaving = False

    @property
    def model(self) -> nn.Module | None:
        """The transformer itself; None once it is gone."""
        return self._model()

    @property
    def users(self) -> int:
        """How many attachments there are."""
        return len(self._users)

    # ---------------------------------------------------------------------------------------------- attaching

    def attach(self, user: object, outer: nn.Module, *, traced: bool = True) -> None:
        """Swaps what is not swapped yet, and surrounds the calls of `outer`, the transformer or what wraps it.

        Raises, and changes nothing, where a module cannot be swapped.
        """
        with self.lock:
            model = self.model
            assert model is not None
            swap_sites(model, self.adapter)
            self._users.add(user)
            self.surround(outer, traced=traced)

    def detach(self, user: object, *, wait: bool = True) -> None:
        """Restores the transformer where `user` was the last one.

        Waits for another thread's call to end or, without `wait`, leaves it to that thread to restore it then.
        """
        self._users.discard(user)
        self._leaving = True
        if wait:
            with self.lock:
                pass
        self._settle()

    def surround(self, outer: nn.Module, *, traced: bool = True) -> None:
        """Surrounds the calls of `outer`, and those of the transformer in it, which others may call."""
        model = self.model
        assert model is not None
        for module in (outer, model):
            if id(module) in self._surrounded and self._surrounded[id(module)][0]() is module:
                continue
            is_outer = module is not model

            def before(args: tuple[Any, ...], kwargs: dict[str, Any], is_outer: bool = is_outer) -> Any:
                return self._before(is_outer, args, kwargs)

            surrounded = Surrounded(module, before, self._after, traced=traced or module is not outer)
            self._surrounded[id(module)] = (weakref.ref(module), surrounded)

    def _settle(self) -> None:
        """Restores the transformer if nobody uses it any more and no call is going on.

        May run anywhere, in the middle of a collection of garbage, too: it never waits.
        """
        while self._leaving and self.lock.acquire(blocking=False):
            try:
                if self._open:
                    return
                self._leaving = False
                if not self._users:
                    self._restore()
            finally:
                self.lock.release()

    def _restore(self) -> None:
        for _, surrounded in self._surrounded.values():
            surrounded.remove()
        self._surrounded.clear()
        model = self.model
        if model is not None:
            restore_sites(model)

    # ---------------------------------------------------------------------------------------------- calls

    def _before(self, is_outer: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | Answer | None:
        self.lock.acquire()
        try:
            if self._open and self._open[-1].is_outer and not is_outer:  # what wraps the transformer calls it
                self._open.append(_OpenCall(is_outer, None, passed=True))
                return None
            inside, owner = self._inside(), self._owner()
            if owner is inside:  # in the middle of a call of its own, a run makes no other
                owner = None
            changed = self._entered(owner, inside, args, kwargs)
            self._open.append(_OpenCall(is_outer, owner))
            return changed
        except BaseException:
            self._leave()
            raise

    def _entered(
        self, owner: Owner | None, inside: Owner | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any] | Answer | None:
        holder = inside or (None if self.bare is None else self.bare())
        if holder is not None and holder is not owner:
            holder.make_way()
        try:
            return None if owner is None else owner.before(args, kwargs)
        except BaseException:
            if owner is not None:
                owner.rest()
            if inside is not None:
                inside.resume()
            raise

    def _after(self, output: Any) -> Any:
        call = self._open[-1]
        try:
            return None if call.owner is None else call.owner.after(output)
        finally:
            self._open.pop()  # not before: what wraps the transformer may be called again meanwhile
            if call.owner is not None:
                call.owner.rest()
            inside = self._inside()
            if inside is not None and not call.passed:
                inside.resume()
            self._leave()

    def _inside(self) -> Owner | None:
        """Whose call the present one is inside of."""
        return next((call.owner for call in reversed(self._open) if not call.passed), None)

    def _owner(self) -> Owner | None:
        """Whose the coming call is."""
        if self.calls:
            caller = calling([call.caller for call in self.calls])
            return next((call for call in self.calls if call.caller is caller), None)
        bare = None if self.bare is None else self.bare()
        return bare if bare is not None and bare.owns_call() else None

    def _leave(self) -> None:
        self.lock.release()
        self._settle()


@dataclass
class _OpenCall:
    """A call that goes on. `is_outer`: of what wraps the transformer; `passed`: by that, to the transformer."""

    is_outer: bool
    owner: Owner | None
    passed: bool = False


_TRANSFORMERS: weakref.WeakKeyDictionary[nn.Module, Transformer] = weakref.WeakKeyDictionary()


def known(model: nn.Module) -> Transformer | None:
    """What dita knows of `model`; None where nothing was ever attached."""
    return _TRANSFORMERS.get(model)


def known_or_new(model: nn.Module) -> Transformer:
    """What dita knows of `model`. Raises `UnsupportedModelError` for a family without an adapter."""
    found = _TRANSFORMERS.get(model)
    if found is None:
        found = _TRANSFORMERS[model] = Transformer(model)
    return found


# -------------------------------------------------------------------------------------------------- sites


def swap_sites(model: nn.Module, adapter: Adapter) -> None:
    """Swaps the sites of `model` that are not swapped yet, idle. Raises, and changes nothing, where one cannot be."""
    swapped: list[nn.Module] = []
    try:
        for stack, block, forwards in swappable(model, adapter):
            fresh = [one for one in forwards if not hasattr(type(one[0]), "_dita_base")]
            for module, make_forward in fresh:
                swap(module, make_forward)
                swapped.append(module)
            if fresh:
                adapter.bind(stack, block, BlockState(adapter.modules(stack)))
        for module in adapter.steady_modules(model):
            if not hasattr(type(module), "_dita_base"):
                swap(module, steady_forward)
                swapped.append(module)
                module.__dict__["_dita"] = IDLE
    except BaseException:
        for module in swapped:
            _restore_site(module)
        raise


def restore_sites(model: nn.Module) -> None:
    """Gives every module of `model` its own class back."""
    for module in model.modules():
        _restore_site(module)


def _restore_site(module: nn.Module) -> None:
    if restore(module):
        module.__dict__.pop("_dita", None)


# -------------------------------------------------------------------------------------------------- wrappers


def transformer_of(target: object) -> nn.Module:
    """The transformer of a pipeline, or `target` itself; beneath `torch.compile`, and beneath peft's `PeftModel`,
    `DataParallel` and `DistributedDataParallel`."""
    from diffusers import DiffusionPipeline

    model = target.components.get("transformer") if isinstance(target, DiffusionPipeline) else target
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(_why_without(target))
    while (inner := _wrapped(model)) is not None:
        model = inner
    return model


def _why_without(target: object) -> str:
    """What is said of a target without a transformer: a class, a modular pipeline, or something else."""
    if isinstance(target, type):
        return f"{target.__name__} is a class, and has no transformer: pass an instance of it"
    name = type(target).__name__
    if any(cls.__name__ == "ModularPipeline" for cls in type(target).__mro__):
        what = f"{name} is a modular pipeline, whose steps dita cannot see"
        if isinstance(getattr(target, "transformer", None), nn.Module):
            return f"{what}; what works is its transformer: dita.enable(pipe.transformer, method, steps=...)"
        return f"{what}; what works is its transformer, which is not loaded: pipe.load_components() first"
    return f"{name} has no transformer that dita could accelerate"


_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


def _wrapped(model: nn.Module) -> nn.Module | None:
    """What `model` wraps and hands its arguments on to, unchanged."""
    names = {cls.__name__ for cls in type(model).__mro__}
    if "PeftModel" in names:
        inner = model.get_base_model()  # type: ignore[operator]
        return inner if isinstance(inner, nn.Module) and inner is not model else None
    attribute = next((attribute for name, attribute in _WRAPPERS.items() if name in names), None)
    return None if attribute is None else getattr(model, attribute)
