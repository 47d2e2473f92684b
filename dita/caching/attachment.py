"""Attaches a method to one pipeline or transformer: `enable`, `disable`, `summary`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from diffusers import DiffusionPipeline
from torch import nn

from dita.caching.adapters import Adapter, UnsupportedModelError, adapter_for
from dita.caching.calls import Surrounded
from dita.caching.class_swap import check_free_of_other_caches, restore, swap
from dita.caching.evaluations import Evaluations, check_one_step
from dita.caching.guidance import Parts, PartsOfRows, parts_of_pipeline
from dita.caching.run import Run
from dita.caching.state import BlockState
from dita.caching.steady import IDLE, steady_forward
from dita.caching.summary import Summary
from dita.footprint import Compiled
from dita.methods import Method, MethodLike, as_method
from dita.stores import Store
from dita.values import integer, number, shown, switch, whole

Target = TypeVar("Target", DiffusionPipeline, nn.Module)


def enable(
    target: Target,
    method: MethodLike,
    *,
    steps: int | None = None,
    calls_per_step: int = 1,
    timesteps: Sequence[float] | None = None,
    record: bool = False,
    memory_limit: int | None = None,
    store: Store | None = None,
    guided_halves: bool = False,
) -> Target:
    """Accelerates `target`, in place, until `disable`. Enabling again replaces the method.

    Args:
        target: a diffusers pipeline, or a bare transformer for people with their own sampling loop.
        method: a method, its short form such as `"toca:4:0.9"`, or two that work together: `[ToMe(), ToCa()]`.
        steps: denoising steps of a run; bare transformers only, where it is required. A sampler of second order that
            calls the model twice in a step takes two here. A new run begins after them, after an exception, and when
            the size of the input changes; to break one off, enable again.
        calls_per_step: transformer calls in each step, bare transformers only (2 with guidance by two calls).
        timesteps: of the steps, 1000 to 0, bare transformers only: for methods that go by them (PAB), and on a CPU to
            compute FLUX's modulations ahead. PAB takes the family's usual ones by default.
        record: keep which tokens each step computed and merged, for `summary(...).tokens` and the plots of them.
        memory_limit: bytes that the feature store may take, an error where it needs more; without it, the memory that
            is free.
        store: how features are kept: in fewer bits, in the host's memory, or not more than so many bytes. Without it,
            as they were computed.
        guided_halves: bare transformers only: whether each call holds two equal halves of latents, one under the
            prompts and one under the null prompt, as the pipelines of PixArt, DiT and Open-Sora put them together.
            Their halves then compute the same tokens, and T-GATE ends their guidance. Without it, each row of a call is
            a sample of its own. A pipeline tells by its class and its arguments.

    Returns the target. Raises `UnsupportedModelError` for a family without an adapter, `ForeignHookError` if another
    cache or an unknown hook is on the transformer, `ValueError` for bad arguments; the target is then as it was.
    """
    method = as_method(method)
    record = switch("record", record)
    memory_limit = None if memory_limit is None else whole("memory_limit", memory_limit)
    timesteps = None if timesteps is None else _checked_timesteps(timesteps)
    if memory_limit is not None and memory_limit < 0:
        raise ValueError(f"memory_limit must be at least 0 bytes, got {memory_limit}")
    if store is not None and not isinstance(store, Store):
        raise ValueError(f"store must be a dita.Store such as Store(dtype='fp8'), got {store!r}")
    guided_halves = switch("guided_halves", guided_halves)
    model = transformer_of(target)
    adapter = adapter_for(model)
    method.check_family(adapter.family)
    if guided_halves and isinstance(target, DiffusionPipeline):
        raise ValueError("guided_halves is for bare transformers; a pipeline tells by its class and its arguments")
    if guided_halves and not adapter.halves:
        raise ValueError(
            f"guided_halves=True is not for {adapter.family}, whose guidance is distilled or a second call of its own:"
            " leave it out, and pass calls_per_step=2 for two calls a step"
        )
    if not _users(model):
        check_free_of_other_caches(model)
    attachment: _Attachment
    if isinstance(target, DiffusionPipeline):
        if steps is not None or calls_per_step != 1 or timesteps is not None:
            raise ValueError(
                "steps and calls_per_step are for bare transformers, and so are timesteps; a pipeline's scheduler tells"
                " them"
            )
        attachment = PipelineAttachment(target, method, record, memory_limit, store)
    else:
        if steps is None or steps == 0:
            raise ValueError(
                "a bare transformer does not know its sampling loop: pass steps, at least 1, and calls_per_step, at"
                f" least 1; got steps={steps}"
            )
        steps, calls_per_step = integer("steps", steps), integer("calls_per_step", calls_per_step)
        if timesteps is not None and len(timesteps) != steps:
            raise ValueError(f"timesteps must be one for each of the {steps} steps, got {len(timesteps)}")
        attachment = TransformerAttachment(
            target, method, record, memory_limit, store, steps, calls_per_step, timesteps, guided_halves
        )
    disable(target)
    attachment.attach(adapter)
    target.__dict__["_dita_attachment"] = attachment
    return target


def _checked_timesteps(given: object) -> list[float]:
    """Timesteps as numbers. Raises `ValueError` for anything else."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"timesteps must be numbers, one for each step, got {shown(given)}")
    return [number("each of the timesteps", timestep) for timestep in given]


def disable(target: DiffusionPipeline | nn.Module) -> None:
    """Restores `target`: same classes, same `state_dict` keys, bit-equal output. Harmless where nothing is enabled.

    Raises `UnsupportedModelError` for what is neither a pipeline nor a model.
    """
    _check_target(target)
    attachment = target.__dict__.pop("_dita_attachment", None)
    if attachment is not None:
        attachment.detach()


def summary(target: DiffusionPipeline | nn.Module, show: bool = True) -> Summary:
    """What the last run on `target` really executed; printed too, unless `show` is False.

    Raises `RuntimeError` if dita is not enabled there, or nothing has run since; `UnsupportedModelError` for what is
    neither a pipeline nor a model.
    """
    _check_target(target)
    attachment: _Attachment | None = target.__dict__.get("_dita_attachment")
    if attachment is None:
        raise RuntimeError(f"dita is not enabled on this {type(target).__name__}")
    attachment.settle()
    if attachment.last is None:
        raise RuntimeError(f"this {type(target).__name__} has not run since dita was enabled")
    if show:
        print(attachment.last)
    return attachment.last


def _check_target(target: object) -> None:
    """Refuses a class, and values such as a name; nothing else is looked at where nothing is enabled."""
    if isinstance(target, type) or not hasattr(target, "__dict__"):
        raise UnsupportedModelError(f"{shown(target)} is neither a diffusers pipeline nor a transformer")


def transformer_of(target: object) -> nn.Module:
    """The transformer of a pipeline, or `target` itself; beneath `torch.compile`."""
    model = target.components.get("transformer") if isinstance(target, DiffusionPipeline) else target
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"{type(target).__name__} has no transformer that dita could accelerate")
    return getattr(model, "_orig_mod", model)


class _Attachment:
    """A method on one target. `last` is the summary of the last run."""

    def __init__(self, method: Method, record: bool, memory_limit: int | None, store: Store | None) -> None:
        self.method = method
        self.record = record
        self.memory_limit = memory_limit
        self.store = store
        self.last: Summary | None = None

    def attach(self, adapter: Adapter) -> None:
        raise NotImplementedError

    def detach(self) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Ends a run whose last step may have further calls, and need not."""


class PipelineAttachment(_Attachment):
    """Accelerates the calls of one pipeline instance; other pipelines that share its transformer run plain."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        method: Method,
        record: bool = False,
        memory_limit: int | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__(method, record, memory_limit, store)
        self.pipe = pipe
        self.model: nn.Module | None = None
        self._stock_class: type[DiffusionPipeline] | None = None

    def attach(self, adapter: Adapter) -> None:
        self.model = transformer_of(self.pipe)
        _attach_sites(self.model, adapter, self)
        if not hasattr(self.pipe, "_dita_calls_attachment"):
            self._stock_class = type(self.pipe)
            self.pipe.__class__ = _calling_class(type(self.pipe))

    def detach(self) -> None:
        if self.model is not None:
            _detach_sites(self.model, self)
        if self._stock_class is not None:
            self.pipe.__class__ = self._stock_class

    def call(self, stock_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls the pipeline's own `__call__` under the method."""
        bound = inspect.signature(stock_call).bind(self.pipe, *args, **kwargs)
        bound.apply_defaults()
        named, evaluations = _respaced(self.pipe, self.method, bound)
        parts = parts_of_pipeline(self.pipe, bound.arguments)
        with evaluations.watched(), self._sampling(evaluations, parts=parts, calls=_calls_per_step(bound)):
            if named is not None:
                return stock_call(self.pipe, **named)
            return stock_call(self.pipe, *args, **kwargs)

    @contextmanager
    def _sampling(self, evaluations: Evaluations, parts: PartsOfRows, calls: int) -> Iterator[None]:
        outer = self.pipe.components["transformer"]
        model = transformer_of(self.pipe)
        adapter = adapter_for(model)
        if model is not self.model:  # the user put another transformer into the pipeline
            if self.model is not None:
                _detach_sites(self.model, self)
            _attach_sites(model, adapter, self)
            self.model = model
        if model.__dict__.get("_dita_running"):
            raise RuntimeError(
                "this transformer is sampling already: run the pipelines that share it one after another"
            )
        run: Run | None = None
        earlier: list[Summary] = []

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal run
            if run is not None and run.step >= run.steps:  # a call that samples several times, such as clip after clip
                self.last = run.finish().after(earlier.pop() if earlier else None)
                earlier.append(self.last)
                run = None
            if run is None:
                taken, requested, timesteps = evaluations.ahead()
                run = Run(
                    adapter,
                    model,
                    self.method,
                    taken,
                    requested_steps=requested,
                    record=self.record,
                    memory_limit=self.memory_limit,
                    parts=parts,
                    timesteps=timesteps,
                    store=self.store,
                    calls=calls,
                    compiled=_compiled(outer, adapter),
                )
            return run.before_call(_named(model, args, kwargs))

        def after(output: Any) -> Any:
            if output is None:  # the forward raised
                return None
            assert run is not None
            return run.after_call(output)

        def step(*args: Any, **kwargs: Any) -> Any:
            out = stock_step(*args, **kwargs)
            if run is not None:
                run.advance()
            return out

        scheduler = self.pipe.scheduler
        stock_step = scheduler.step
        surrounded = Surrounded(outer, before, after)
        model.__dict__["_dita_running"] = True
        scheduler.__dict__["step"] = functools.wraps(stock_step)(step)
        try:
            yield
        finally:
            del scheduler.__dict__["step"]
            model.__dict__.pop("_dita_running", None)
            surrounded.remove()
            if run is not None:
                self.last = run.finish().after(earlier.pop() if earlier else None)


class TransformerAttachment(_Attachment):
    """Accelerates every call of one bare transformer: run after run of `steps` steps."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        record: bool,
        memory_limit: int | None,
        store: Store | None,
        steps: int,
        calls_per_step: int,
        timesteps: Sequence[float] | None = None,
        guided_halves: bool = False,
    ) -> None:
        super().__init__(method, record, memory_limit, store)
        self.guided_halves = guided_halves
        self.outer = model
        self.model = transformer_of(model)
        self.steps = method.run_steps(steps)
        self.requested_steps = steps
        self.calls_per_step = calls_per_step
        self.timesteps = timesteps
        self.run: Run | None = None
        self._calls: Surrounded | None = None

    def attach(self, adapter: Adapter) -> None:
        _attach_sites(self.model, adapter, self)
        self.adapter = adapter
        self._calls = Surrounded(self.outer, self._before, self._after)

    def detach(self) -> None:
        self._finish()
        if self._calls is not None:
            self._calls.remove()
        _detach_sites(self.model, self)

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        inputs = _named(self.model, args, kwargs)
        if self.run is not None and self.run.begins_next_step(inputs):
            self._advance()
        if self.run is not None and self.run.resized(inputs):
            self._finish()
        if self.run is None:
            self.run = Run(
                self.adapter,
                self.model,
                self.method,
                self.steps,
                requested_steps=self.requested_steps,
                record=self.record,
                memory_limit=self.memory_limit,
                parts=_two_halves if self.guided_halves else None,
                timesteps=self.timesteps,
                store=self.store,
                calls=self.calls_per_step,
                compiled=_compiled(self.outer, self.adapter),
            )
        try:
            return self.run.before_call(inputs)
        except BaseException:
            self._finish()
            raise

    def _after(self, output: Any) -> Any:
        if self.run is None:
            return None
        if output is None:  # the forward raised
            self._finish()
            return None
        changed = self.run.after_call(output)
        if self.run.call == self.calls_per_step:
            self._advance()
        return changed

    def settle(self) -> None:
        if self.run is not None and self.run.call and self.run.step == self.steps - 1:
            self._finish()

    def _advance(self) -> None:
        assert self.run is not None
        self.run.advance()
        if self.run.step == self.steps:
            self._finish()

    def _finish(self) -> None:
        if self.run is not None:
            self.last = self.run.finish()
            self.run = None


def _compiled(outer: nn.Module, adapter: Adapter) -> Compiled:
    """What of a transformer `torch.compile` is on."""
    model = transformer_of(outer)
    if outer is not model or model._compiled_call_impl is not None:
        return Compiled.WHOLE
    blocks = (block for _, _, block in adapter.blocks(model))
    return Compiled.BLOCKS if any(block._compiled_call_impl is not None for block in blocks) else Compiled.NOTHING


def _users(model: nn.Module) -> list[object]:
    return model.__dict__.get("_dita_users", [])


def _attach_sites(model: nn.Module, adapter: Adapter, user: object) -> None:
    users = _users(model)
    if not users:
        swapped = []
        try:
            for stack, _, block in adapter.blocks(model):
                for module, make_forward in adapter.forwards(stack, block):
                    swap(module, make_forward)
                    swapped.append(module)
                adapter.bind(stack, block, BlockState(adapter.modules(stack)))
            for module in adapter.steady_modules(model):
                swap(module, steady_forward)
                swapped.append(module)
                module.__dict__["_dita"] = IDLE
        except BaseException:
            for module in swapped:
                _restore_site(module)
            raise
    model.__dict__["_dita_users"] = [*users, user]


def _detach_sites(model: nn.Module, user: object) -> None:
    users = [other for other in _users(model) if other is not user]
    if users:
        model.__dict__["_dita_users"] = users
        return
    model.__dict__.pop("_dita_users", None)
    for module in model.modules():
        _restore_site(module)


def _restore_site(module: nn.Module) -> None:
    restore(module)
    module.__dict__.pop("_dita", None)


_CALLING_CLASSES: dict[type[DiffusionPipeline], type[DiffusionPipeline]] = {}


def _calling_class(base: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    """`base` with a `__call__` that goes through the attachment; its name, module and signature stay."""
    if base not in _CALLING_CLASSES:

        @functools.wraps(base.__call__)
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self.__dict__["_dita_attachment"].call(base.__call__, *args, **kwargs)

        body = {"__call__": __call__, "__module__": base.__module__, "__qualname__": base.__qualname__}
        _CALLING_CLASSES[base] = type(base.__name__, (base,), body)
    return _CALLING_CLASSES[base]


def _respaced(
    pipe: DiffusionPipeline, method: Method, bound: inspect.BoundArguments
) -> tuple[dict[str, Any] | None, Evaluations]:
    """The call's arguments by name with the method's number of steps, None where it leaves the call as it is; and what
    counts the evaluations of the model.

    Raises `ValueError` for a number of steps that is none, and for one step where the pipeline cannot take it.
    """
    given = bound.arguments.get("num_inference_steps")
    if given is None:
        return None, Evaluations(pipe.scheduler)
    steps = integer("num_inference_steps", given)
    taken = method.run_steps(steps)
    spaced = next((found for name in ("sigmas", "timesteps") if (found := bound.arguments.get(name)) is not None), None)
    check_one_step(pipe, taken if spaced is None else len(spaced), method.label() if taken != steps else "")
    if taken != steps:
        for name in ("sigmas", "timesteps"):
            if bound.arguments.get(name) is not None:
                raise ValueError(f"{method.label()} spaces the steps itself; call the pipeline without {name}")
    elif type(given) is int:
        return None, Evaluations(pipe.scheduler, steps)
    named = dict(bound.arguments, num_inference_steps=taken)
    self_name = next(iter(named))
    del named[self_name]
    named.update(named.pop("kwargs", {}))
    if taken == steps:
        return named, Evaluations(pipe.scheduler, steps)
    return named, Evaluations(pipe.scheduler, taken, steps, bound.arguments.get("strength"), method.label())


def _two_halves(rows: int) -> Parts:
    """What `guided_halves=True` says of a call."""
    return Parts(guided=True, required=True)


def _calls_per_step(bound: inspect.BoundArguments) -> int:
    """Transformer calls that a pipeline call makes in a step: two for guidance that is not distilled, where each
    condition has a call of its own."""
    scale, given = bound.arguments.get("true_cfg_scale"), bound.arguments
    negative = given.get("negative_prompt") is not None or given.get("negative_prompt_embeds") is not None
    return 2 if isinstance(scale, (int, float)) and scale > 1 and negative else 1


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if not args:
        return kwargs
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    return dict(zip(names, args, strict=False)) | kwargs
