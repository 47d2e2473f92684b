"""A method on one pipeline: which calls are accelerated, and how a run learns of its steps."""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dita.caching import second_cache
from dita.caching.adapters import Adapter
from dita.caching.attached import Attachment, compiled, named
from dita.caching.broken import Checks, Made, watching
from dita.caching.caller import Caller, Whose, whose_call
from dita.caching.calls import Answer, repeats
from dita.caching.evaluations import Evaluations, check_one_step
from dita.caching.guidance import parts_of_pipeline
from dita.caching.origin import call_facts
from dita.caching.ownership import Transformer, known_or_new, transformer_of
from dita.caching.run import Run
from dita.caching.sampled import chosen_steps, other_sampler
from dita.caching.schedulers import followed
from dita.caching.stand_in import is_stand_in, stand_in, stock_class
from dita.caching.summary import Summary
from dita.methods import Method
from dita.stores import Store
from dita.values import integer

_ATTACHMENTS: weakref.WeakKeyDictionary[DiffusionPipeline, PipelineAttachment] = weakref.WeakKeyDictionary()


def attachment_of(pipe: DiffusionPipeline) -> PipelineAttachment | None:
    """What is enabled on `pipe` itself; copies have nothing."""
    return _ATTACHMENTS.get(pipe)


class PipelineAttachment(Attachment):
    """Accelerates the calls of one pipeline instance; other pipelines that share its transformer run plain."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        method: Method,
        record: bool = False,
        memory_limit: int | None = None,
        store: Store | None = None,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(method, record, memory_limit, store, checks or Checks())
        self._pipe = weakref.ref(pipe)
        self._transformer: Transformer | None = None
        self._user = object()
        self._dropped: Any = None
        self._sampling: Sampling | None = None

    def attach(self) -> None:
        pipe = self._pipe()
        assert pipe is not None
        self._take(pipe)
        if not hasattr(pipe, "_dita_calls_attachment") and not is_stand_in(type(pipe)):
            pipe.__class__ = _calling_class(type(pipe))
        _ATTACHMENTS[pipe] = self

    def detach(self) -> None:
        pipe = self._pipe()
        if self._sampling is not None:
            self._sampling.end()
        if self._dropped is not None:
            self._dropped.detach()
        if self._transformer is not None:
            self._transformer.detach(self._user)
        self._dropped = self._transformer = None  # it may be attached again
        if pipe is None or _ATTACHMENTS.get(pipe) is not self:
            return
        del _ATTACHMENTS[pipe]
        if is_stand_in(type(pipe)):
            pipe.__class__ = stock_class(type(pipe))

    def _take(self, pipe: DiffusionPipeline) -> tuple[nn.Module, Transformer]:
        """The pipeline's transformer as it is called, and what is known of it; attached, if it was not yet."""
        outer = pipe.components["transformer"]
        transformer = known_or_new(transformer_of(pipe))
        transformer.attach(self._user, outer)
        if transformer is not self._transformer:
            if self._transformer is not None:  # the user put another one into the pipeline
                self._transformer.detach(self._user)
                self._dropped.detach()
            self._transformer = transformer
            self._dropped = weakref.finalize(pipe, transformer.detach, self._user, wait=False)
            self._dropped.atexit = False
        return outer, transformer

    def call(self, stock_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls the pipeline's own `__call__` under the method."""
        pipe = self._pipe()
        assert pipe is not None
        if self._sampling is not None:
            raise RuntimeError(
                f"this {type(pipe).__name__} is sampling already; for pictures in between take a copy of it that has a"
                " scheduler of its own: other = copy.copy(pipe), other.scheduler = copy.deepcopy(pipe.scheduler)"
            )
        bound = inspect.signature(stock_call).bind(pipe, *args, **kwargs)
        bound.apply_defaults()
        outer, transformer = self._take(pipe)
        self.method.check_family(transformer.adapter.family)
        called = call_facts(pipe, bound.arguments)
        self.origin.compare(self.method, called, stacklevel=3)
        with other_sampler(pipe, self.method):
            respaced = _respaced(pipe, self.method, bound)
            self.origin.called = called
            return self._sample(pipe, outer, transformer, stock_call, bound, respaced, args, kwargs)

    def _sample(
        self,
        pipe: DiffusionPipeline,
        outer: nn.Module,
        transformer: Transformer,
        stock_call: Callable[..., Any],
        bound: inspect.BoundArguments,
        taken: tuple[dict[str, Any] | None, Evaluations],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        respaced, evaluations = taken
        caller = Caller(pipe, sys._getframe(), _callbacks(bound))
        with watching(pipe, lambda: whose_call(caller) is not Whose.FOREIGN) as made:
            sampling = Sampling(self, pipe, outer, transformer, caller, evaluations, bound, made)
            self._sampling = sampling
            transformer.calls.append(sampling)
            try:
                follows = followed(pipe.scheduler, caller, sampling, evaluations.set_timesteps)
                with follows, chosen_steps(pipe, self.method):
                    stock = functools.partial(stock_call, pipe)
                    output = stock(*args, **kwargs) if respaced is None else stock(**respaced)
                sampling.check()
                return output
            finally:
                self._sampling = None
                transformer.calls.remove(sampling)
                caller.close()
                sampling.end()


class Sampling:
    """One call of a pipeline: it owns its calls of the transformer, and gives them to a run."""

    def __init__(
        self,
        attachment: PipelineAttachment,
        pipe: DiffusionPipeline,
        outer: nn.Module,
        transformer: Transformer,
        caller: Caller,
        evaluations: Evaluations,
        bound: inspect.BoundArguments,
        made: Made,
    ) -> None:
        self.caller = caller
        self._made = made
        self._attachment = attachment
        self._pipe = pipe
        self._outer = outer
        self._transformer = transformer
        self._evaluations = evaluations
        self._parts = parts_of_pipeline(pipe, bound.arguments)
        self._calls = _calls_per_step(bound)
        self._method = attachment.method
        self._run: Run | None = None
        self._earlier: Summary | None = None
        self._answered = False  # the present call is not made
        self._over = False
        self._sites: list[nn.Module] = []
        self._fingerprint: tuple[Any, ...] = ()

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | Answer | None:
        if self._over:  # disabled in the middle of the call
            return None
        model, adapter = transformer_of(self._outer), self._transformer.adapter
        if self._run is not None and self._run.step >= self._run.steps:  # one call samples clip after clip, say
            self._run.settle()
            self._finish()
        if self._run is None:
            self._sites = second_cache.sites(model, adapter)
        if self._run is None or second_cache.fingerprint(model, self._sites) != self._fingerprint:
            second_cache.check(model, adapter, self._outer, self._pipe)
            self._fingerprint = second_cache.fingerprint(model, self._sites)
        if self._run is None:
            self._run = self._begin(model, adapter)
        inputs = named(model, args, kwargs)
        answer = self._run.answer(inputs)
        self._answered = answer is not None
        return Answer(answer) if self._answered else self._run.before_call(inputs)

    def after(self, output: Any) -> Any:
        if output is None or self._run is None or self._answered:
            return None
        return self._run.after_call(output, repeats())

    def make_way(self) -> None:
        if self._run is not None:
            self._run.rest()

    rest = make_way

    def resume(self) -> None:
        if self._run is not None:
            self._run.resume()

    def output(self, output: Tensor, sample: Tensor) -> Tensor:
        """What the scheduler shall take a step with, for the model's `output` at its `sample`."""
        return output if self._run is None else self._run.end_step(output, sample)

    def advance(self, out: Any) -> None:
        """The scheduler took a step, which returned `out`."""
        self._made.stepped(out)
        if self._run is not None:
            self._run.advance()

    def check(self) -> None:
        """Complains of numbers that broke, where that was not done yet."""
        if self._run is not None:
            self._run.settle()
        said = self._earlier is not None and self._earlier.broken
        if not said and (self._run is None or not self._run.summary.broken):
            self._made.check(self._attachment.checks)

    def end(self) -> None:
        """Ends the run; the rest of the pipeline's call is plain."""
        with self._transformer.lock:
            self._over = True
            self._finish()

    def _begin(self, model: nn.Module, adapter: Adapter) -> Run:
        taken, requested, timesteps = self._evaluations.ahead()
        return Run(
            adapter,
            model,
            self._method,
            taken,
            requested_steps=requested,
            record=self._attachment.record,
            memory_limit=self._attachment.memory_limit,
            parts=self._parts,
            timesteps=timesteps,
            store=self._attachment.store,
            calls=self._calls,
            compiled=compiled(self._outer, adapter),
            checks=self._attachment.checks,
            scheduler=self._pipe.scheduler,
            begin=self._evaluations.begin,
        )

    def _finish(self) -> None:
        if self._run is not None:
            self._attachment.last = self._earlier = self._run.finish().after(self._earlier)
            self._run = None


_CALLING_CLASSES: dict[type[DiffusionPipeline], type[DiffusionPipeline]] = {}


def _calling_class(base: type[DiffusionPipeline]) -> type[DiffusionPipeline]:
    """`base` with a `__call__` that goes through what is enabled on the instance; name, module and signature stay."""
    if base not in _CALLING_CLASSES:

        @functools.wraps(base.__call__)
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            attachment = attachment_of(self)
            if attachment is None:
                return base.__call__(self, *args, **kwargs)
            return attachment.call(base.__call__, *args, **kwargs)

        _CALLING_CLASSES[base] = stand_in(base, {"__call__": __call__}, transparent=True)
    return _CALLING_CLASSES[base]


def _callbacks(bound: inspect.BoundArguments) -> list[Any]:
    """What of a call's arguments the pipeline calls back."""
    given = dict(bound.arguments)
    given.update(given.pop("kwargs", {}))
    return [value for name, value in given.items() if name.startswith("callback") and callable(value)]


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
    named = dict(bound.arguments, num_inference_steps=method.grid_steps(steps))
    self_name = next(iter(named))
    del named[self_name]
    named.update(named.pop("kwargs", {}))
    if taken == steps:
        return named, Evaluations(pipe.scheduler, steps)
    return named, Evaluations(pipe.scheduler, taken, steps, bound.arguments.get("strength"), method.label())


def _calls_per_step(bound: inspect.BoundArguments) -> int:
    """Transformer calls that a pipeline call makes in a step: two for guidance that is not distilled, where each
    condition has a call of its own."""
    scale, given = bound.arguments.get("true_cfg_scale"), bound.arguments
    negative = given.get("negative_prompt") is not None or given.get("negative_prompt_embeds") is not None
    return 2 if isinstance(scale, (int, float)) and scale > 1 and negative else 1
