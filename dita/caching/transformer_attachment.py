"""A method on one bare transformer, for people with a sampling loop of their own."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

from torch import nn

from dita.caching import second_cache
from dita.caching.attached import Attachment, compiled, named
from dita.caching.broken import Checks
from dita.caching.caller import innermost_pipeline_call
from dita.caching.calls import Answer, repeats
from dita.caching.guidance import Parts
from dita.caching.ownership import Transformer, known_or_new, transformer_of
from dita.caching.run import Run
from dita.methods import Method
from dita.stores import Store

_KEY = "_dita_attachment"


def attachment_of(target: nn.Module) -> TransformerAttachment | None:
    """What is enabled on `target` itself; copies have nothing."""
    found: TransformerAttachment | None = target.__dict__.get(_KEY)
    return found if found is not None and found.outer is target else None


class TransformerAttachment(Attachment):
    """Accelerates the calls of one bare transformer: run after run of `steps` steps.

    Plain, with a warning, are calls that come in the middle of a run from another thread than its, or from a pipeline
    inside of the loop that it is of.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        record: bool,
        memory_limit: int | None,
        store: Store | None,
        checks: Checks,
        steps: int,
        calls_per_step: int,
        timesteps: Sequence[float] | None = None,
        guided_halves: bool = False,
    ) -> None:
        super().__init__(method, record, memory_limit, store, checks)
        self.guided_halves = guided_halves
        self._outer = weakref.ref(model)
        self.steps = method.run_steps(steps)
        self.requested_steps = steps
        self.calls_per_step = calls_per_step
        self.timesteps = timesteps
        self.run: Run | None = None
        self._transformer: Transformer = known_or_new(transformer_of(model))
        self._user = object()
        self._dropped: Any = None
        self._begun_in: threading.Thread | None = None
        self._begun_by: int | None = None
        self._answered = False  # the present call is not made
        self._warned = False
        self._sites: list[nn.Module] = []
        self._fingerprint: tuple[Any, ...] = ()

    @property
    def outer(self) -> nn.Module | None:
        """The transformer as it is called; None once it is gone."""
        return self._outer()

    def attach(self) -> None:
        outer = self.outer
        assert outer is not None
        self._transformer.attach(self._user, outer, traced=False)
        self._transformer.bare = weakref.ref(self)
        self._dropped = weakref.finalize(outer, self._transformer.detach, self._user, wait=False)
        self._dropped.atexit = False
        outer.__dict__[_KEY] = self

    def detach(self) -> None:
        with self._transformer.lock:
            self._finish()
            outer = self.outer
            if outer is not None and outer.__dict__.get(_KEY) is self:
                del outer.__dict__[_KEY]
            if self._transformer.bare is not None and self._transformer.bare() is self:
                self._transformer.bare = None
        self._dropped.detach()
        self._transformer.detach(self._user)

    # ------------------------------------------------------------------------------------------ its calls

    def owns_call(self) -> bool:
        """Whether the coming call is of the run, or begins one."""
        nearest, going_on = innermost_pipeline_call()
        if self.run is not None and self._begun_in is not None:
            inside = nearest != self._begun_by and (self._begun_by is None or self._begun_by in going_on)
            elsewhere = self._begun_in is not threading.current_thread() and self._begun_in.is_alive()
            if inside or elsewhere:
                self._warn(elsewhere)
                return False
            if nearest != self._begun_by:  # that pipeline's call is over
                self._finish()
        if self.run is None:
            self._begun_in, self._begun_by = threading.current_thread(), nearest
        return True

    def _warn(self, elsewhere: bool) -> None:
        if not self._warned:
            self._warned = True
            whose = "another thread" if elsewhere else "a pipeline"
            warnings.warn(
                f"a call of the transformer by {whose}, in the middle of an accelerated run, was computed in full and"
                " is no part of that run; enable again to break a run off",
                stacklevel=6,
            )

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | Answer | None:
        outer = self.outer
        assert outer is not None
        model, adapter = transformer_of(outer), self._transformer.adapter
        inputs = named(model, args, kwargs)
        if self.run is not None and self.run.begins_next_step(inputs):
            self._advance()
        if self.run is not None and self.run.resized(inputs):
            self._finish()
        try:
            if self.run is None:
                self._sites = second_cache.sites(model, adapter)
            if self.run is None or second_cache.fingerprint(model, self._sites) != self._fingerprint:
                second_cache.check(model, adapter, outer)
                self._fingerprint = second_cache.fingerprint(model, self._sites)
            if self.run is None:
                self.run = Run(
                    adapter,
                    model,
                    self.method,
                    self.steps,
                    requested_steps=self.requested_steps,
                    record=self.record,
                    memory_limit=self.memory_limit,
                    parts=_two_halves if self.guided_halves else None,
                    timesteps=self.timesteps,
                    store=self.store,
                    calls=self.calls_per_step,
                    compiled=compiled(outer, adapter),
                    checks=self.checks,
                )
            answer = self.run.answer(inputs)
            self._answered = answer is not None
            return Answer(answer) if self._answered else self.run.before_call(inputs)
        except BaseException:
            self._finish()
            raise

    def after(self, output: Any) -> Any:
        if self.run is None:
            return None
        if output is None:  # the forward raised
            self._finish()
            return None
        try:
            changed = None if self._answered else self.run.after_call(output, repeats())
            if self.run.call == self.calls_per_step:
                self._advance()
        except BaseException:
            self._finish()
            raise
        return changed

    def settle(self) -> None:
        if self.run is not None and self.run.call and self.run.step == self.steps - 1:
            self._finish()

    def rest(self) -> None:
        """Nothing: between its calls the sites stay as they are."""

    def make_way(self) -> None:
        if self.run is not None:
            self.run.rest()

    def resume(self) -> None:
        if self.run is not None:
            self.run.resume()

    def _advance(self) -> None:
        assert self.run is not None
        self.run.advance()
        if self.run.step == self.steps:
            self.run.settle()
            self._finish()

    def _finish(self) -> None:
        if self.run is not None:
            self.last = self.run.finish()
            self.run = None
            self._sites = []


def _two_halves(rows: int) -> Parts:
    """What `guided_halves=True` says of a call."""
    return Parts(guided=True, required=True)
