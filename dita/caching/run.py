"""One sampling run: follows the steps, tells the sites what to do, has tokens selected, and logs what was executed."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from dita.caching import cuda_graphs
from dita.caching.adapters import Adapter
from dita.caching.attention import check_backend
from dita.caching.branch import Branch
from dita.caching.broken import Checks, Outputs, first_broken, is_broken
from dita.caching.calls import Again
from dita.caching.clock import Clock
from dita.caching.compiled_blocks import around_calls
from dita.caching.context_parallel import Divided, Ranks, ranks_of_model
from dita.caching.cuda_graphs import Rescue
from dita.caching.departures import DepartureWarning, begin, departures
from dita.caching.forecast import Stored, as_weights
from dita.caching.gradients import check_gradients
from dita.caching.guard import Guard
from dita.caching.guidance import APART, Parts, PartsOfRows, first_half, twice
from dita.caching.keeping import Keeper
from dita.caching.offload import expect
from dita.caching.recorder import Recorder
from dita.caching.room import check_room
from dita.caching.scores import random_scores
from dita.caching.selecting import Selector
from dita.caching.spans import BlockSpans
from dita.caching.state import BlockState, Slot
from dita.caching.steady import IDLE
from dita.caching.summary import Executed, Summary
from dita.caching.token_record import Geometry
from dita.caching.whole_call import WholeCalls, blank, filled, first_tensor, form_of
from dita.fitting import with_store
from dita.footprint import Compiled
from dita.merges import Cells
from dita.merging.matching import cell_order
from dita.merging.merger import Merger
from dita.methods import PROBED_SCORES, Method, ToCa
from dita.plan import Block, Plan, Step, step_kind
from dita.shapes import STORED, Kind, Shape, Site
from dita.stores import Store


class Run:
    """Drives the attached blocks through `steps` denoising steps.

    `before_call` and `after_call` surround every transformer call, `advance` ends a step. The bytes that the store may
    take are bounded by `memory_limit`, or by the memory that is free. `parts`: what guidance makes of a call's rows;
    without it, each is a sample of its own. `timesteps`: of the steps, where they are known. `store`: how features are
    kept. `calls`: transformer calls of a step, which share what the store may hold. `compiled`: what runs as compiled
    graphs. `checks`: what is looked at in the numbers. `scheduler`: of a pipeline, its timesteps set, of which the run
    takes those from number `begin` on; where it is there, what whole calls put out is forecast after guidance, by
    `end_step`.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: nn.Module,
        method: Method,
        steps: int,
        *,
        requested_steps: int | None = None,
        record: bool = False,
        memory_limit: int | None = None,
        parts: PartsOfRows | None = None,
        timesteps: Sequence[float] | None = None,
        store: Store | None = None,
        calls: int = 1,
        compiled: Compiled = Compiled.NOTHING,
        checks: Checks | None = None,
        scheduler: Any = None,
        begin: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.begin = begin
        self.whole: WholeCalls | None = None  # of a pipeline's steps; those of a bare transformer are in its branches
        self.skipping = False  # this step makes no transformer call
        self.store = store or Store()
        self.checks = checks or Checks()
        self.calls = calls
        self.adapter = adapter
        self.model = model
        self.whole_method = method
        self.method = method.caching
        self.steps = steps
        self.requested_steps = requested_steps or steps
        self.memory_limit = memory_limit
        self.parts = parts
        self.timesteps = timesteps
        self.compiled = compiled
        self.step = 0
        self.call = 0
        self.branches: list[Branch] = []
        self._timestep: Any = None  # of this step's first call
        self._samples: int | None = None  # under guidance by halves that the user told of
        self.recorder = Recorder() if record else None
        self.summary = Summary(method=method, repeats=self.requested_steps / steps)
        if self.recorder is not None:
            self.summary.tokens = self.recorder.record
        self._blocks = adapter.blocks(model)
        self._number = {(stack, layer): i for i, (stack, layer, _) in enumerate(self._blocks)}
        self._bound: Branch | None = None
        self._idle = [BlockState(adapter.modules(stack)) for stack, _, _ in self._blocks]
        self._selector = Selector(adapter, self.method, record) if isinstance(self.method, ToCa) else None
        self._clock = Clock()
        blocks = (block for _, _, block in self._blocks)
        self._around = around_calls(blocks) if compiled is Compiled.BLOCKS else []
        self._rescue: Rescue | None = None
        self._outputs = Outputs()
        self._guard = None if self.checks.guard is None else Guard(self.checks.guard)
        self._inputs: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------ one transformer call

    def answer(self, inputs: dict[str, Any]) -> Any:
        """What stands for the output of the coming transformer call, where the step makes none; None where it is made.

        In a pipeline it is blank: `end_step` has the forecast.
        """
        if self.call == 0:
            self._timestep = inputs.get("timestep")
            self.skipping = self._skips(inputs)
        if not self.skipping or self.call >= len(self.branches) or self.branches[self.call].form is None:
            return None
        branch, started = self.branches[self.call], perf_counter()
        out = blank(branch.form)
        if branch.whole is not None:
            like = first_tensor(branch.form)
            out = filled(branch.form, branch.whole.output(self.step, self.adapter.tokens_in(inputs), like.dtype))
        self.summary.executed.append(self._uncalled(branch, perf_counter() - started))
        branch.last = self.step
        self.call += 1
        return out

    def _skips(self, inputs: dict[str, Any]) -> bool:
        """Whether the step makes no call: it is planned so, and what is stored fits."""
        if not self.branches or self.branches[0].plan.call_forecast is None:
            return False
        branch = self.branches[0]
        planned = self.step < len(branch.plan.steps) and branch.plan.kinds[self.step] is Kind.CALL
        if not planned or branch.fresh or branch.seen != self.adapter.shape(self.model, inputs):
            return False
        whole = self.whole or branch.whole
        if self._guard is not None and whole is not None:
            drifted = self._guard.bound == 0 or not self._guard.stays(*whole.compared(self.step))
            if drifted:
                self._make_full(branch)
            return not drifted
        return True

    def end_step(self, output: Tensor, sample: Tensor) -> Tensor:
        """What the scheduler shall get for the model's `output` of this step, after guidance: itself, or its forecast
        where the step made no call."""
        if self.whole is None:
            return output
        started = perf_counter()
        if self.skipping:
            output = self.whole.output(self.step, sample, output.dtype)
            self.summary.executed[-1].seconds += perf_counter() - started
            for step, _ in self._outputs.note(self.step, 0, output):
                self._complain(step)
        elif self._skips_later():
            self.whole.put(self.step, output, sample)
            self._measure()
        return output

    def _skips_later(self) -> bool:
        """Whether a later step makes no call."""
        kinds = self.branches[0].plan.kinds if self.branches else ()
        return Kind.CALL in kinds[self.step + 1 :]

    def before_call(self, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """Prepares the sites for the coming transformer call. Raises before anything was changed in the model.

        Returns the arguments that the call shall have instead of `inputs`, None for none.
        """
        seen = self.adapter.shape(self.model, inputs)
        check_gradients(self.model)
        if self.call == len(self.branches):
            self.branches.append(self._new_branch(seen, inputs))
        branch = self.branches[self.call]
        missed = branch.last is not None and branch.last < self.step - 1
        # A callback changed the prompt's length, say, or guidance: what is stored does not fit any more. Nor does it in
        # a call that was left out of a step, as the second one is while guidance is off.
        left = branch.inference and not torch.is_inference_mode_enabled()  # what was stored there is of no use outside
        if branch.seen != seen or branch.said != self._said_parts(inputs) or missed or left:
            branch = self.branches[self.call] = self._new_branch(seen, inputs)
        branch.last, branch.inference = self.step, torch.is_inference_mode_enabled()
        if torch.is_grad_enabled() and self.adapter.tokens_in(inputs).grad_fn is None:
            branch.detach()
        if self._guard is not None and (self._guard.bound == 0 or self.step in self.summary.guarded):
            self._make_full(branch)
        self._join_halves(branch)
        self._prepare(branch, inputs)
        self.summary.shape, self.summary.plan = self.branches[0].shape, self.branches[0].plan
        self._inputs = inputs
        if self.call == self.calls:
            self.summary.departures.append(f"step {self.step}: more calls of the transformer than {self.calls}")
        latents = self.adapter.tokens_in(inputs)
        if cuda_graphs.may_own_outputs(latents.device, self._in_graphs):
            self._rescue = self._rescue or Rescue()
            if self.call == 0:
                self._rescue.begin_step()
        self._clock.start(latents.device)
        return first_half(inputs, len(latents)) if branch.joined else None

    def after_call(self, output: Any = None, again: Again | None = None) -> Any:
        """Logs the call and, where sites were full, selects the tokens of the cached steps that follow there.

        `again` repeats the call as it was given, in front of what `before_call` made of it, with nothing around it.
        Returns what shall stand for the call's `output`, None for itself. Raises `BrokenNumbersError` where the checks
        say so.
        """
        branch, inputs, self._inputs = self.branches[self.call], self._inputs, {}
        replaced = twice(output) if branch.joined else None
        tried = 0.0
        if self._departs(branch, output if replaced is None else replaced) and again is not None:
            tried = branch.plan.step_flops(branch.actions(self.step)) * (0.5 if branch.joined else 1.0)
            self._make_full(branch)
            self._prepare(branch, inputs)
            replaced = again()
        if self._rescue is not None:
            branch.rescue(self._rescue)
        actions = branch.actions(self.step)
        kind = step_kind(actions)
        self.summary.executed.append(self._executed(branch, actions, kind, tried))
        self.summary.departures += departures(branch.states, self.step, self.compiled)
        if output is not None:
            self._check(branch, inputs, output if replaced is None else replaced, kind)
        if self.recorder is not None and self.call == 0:
            self._record(self.recorder, branch, actions)
        some_full = any(action.kind is Kind.FULL for action in actions.values())
        if some_full:
            self._measure(inside=True)
        if branch.plan.call_forecast is not None:
            branch.form = form_of(output)
            if branch.whole is not None and self._skips_later():
                branch.whole.put(self.step, first_tensor(output), first_tensor(output))
        self._form_factors(branch)
        self._select(branch, [site for site, action in actions.items() if action.kind is Kind.FULL])
        branch.common.forget()
        self._forget_scores(branch)
        self._forget_matchings(branch)
        if not branch.plan.keeps_steady(self.step):
            branch.steady.forget()
        foreseen = branch.plan.cached_steps if branch.plan.foresees else ()
        first_cached = self.step in foreseen[:1]
        if branch.plan.foresees and not any(step > self.step for step in foreseen[-1:]):
            branch.modulations.forget()
        if kind is Kind.FULL:
            branch.fresh = False
        # nothing else grows the store
        if some_full or branch.spans or first_cached or self.method.selects_live(branch.shape):
            self._measure()
        if self.step == self.steps - 1:  # what may be the run's last call: nothing is used again
            branch.forget()
        self.call += 1
        return replaced

    def _prepare(self, branch: Branch, inputs: dict[str, Any]) -> None:
        """Tells everything that takes part in a call what to do in it."""
        begin(branch.states)
        branch.settled.clear()
        self._instruct(branch, branch.actions(self.step))
        self._instruct_steady(branch, self.adapter.steady_inputs(inputs))
        branch.modulations.begin(self.step, partial(self._foreseen, branch, inputs))

    def _make_full(self, branch: Branch) -> None:
        """Has the present step computed in full where the plan has it cached. Later steps go on from it."""
        if step_kind(branch.actions(self.step)) is Kind.FULL and not branch.joined:
            return
        branch.make_full(self.step)
        self.summary.guarded = tuple(sorted({*self.summary.guarded, self.step}))

    def _departs(self, branch: Branch, output: Any) -> bool:
        """Whether a cached step's output is too far from the last full one's."""
        if self._guard is None or output is None:
            return False
        cached = step_kind(branch.actions(self.step)) is not Kind.FULL or branch.joined
        return cached and not self._guard.accepts(branch, output)

    def _check(self, branch: Branch, inputs: dict[str, Any], output: Any, kind: Kind) -> None:
        """Looks for broken numbers in the output of a call, and complains of those that are known by now."""
        if self._guard is not None and kind is Kind.FULL:
            self._guard.keep(branch, output)
        for step, call in self._outputs.note(self.step, self.call, output):
            now = (step, call) == (self.step, self.call)
            self._complain(step, partial(self._where_broken, branch, inputs, kind) if now else None)

    def _complain(self, step: int, locate: Callable[[], str] | None = None) -> None:
        """Says, of the first step that is found to be broken, where."""
        first = not self.summary.broken
        self.summary.broken = tuple(sorted({*self.summary.broken, step}))
        if not first:
            return
        where = "" if locate is None else locate()
        self.checks.complain(
            f"the transformer ({type(self.model).__name__}) put out NaN or infinity at step {step} of {self.steps},"
            f" counted from 0{where}; on_nan='warn' goes on"
        )

    def _where_broken(self, branch: Branch, inputs: dict[str, Any], kind: Kind) -> str:
        """What a message says of where numbers broke: the plain call tells where it can be made once more."""
        if self.checks.on_nan == "raise" and self.compiled is Compiled.NOTHING and ranks_of_model(self.model) is None:
            self._bind([BlockState(self.adapter.modules(stack)) for stack, _, _ in self._blocks])
            self._bound = None
            found = first_broken(self.model, inputs)
            if found is not None:
                return f", first in {found}"
            if kind is not Kind.FULL:
                return (
                    f": computed in full this call has none, so they come of what {self.whole_method.label()} keeps and"
                    " continues"
                )
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            for module, slot in state.slots.items():
                if any(is_broken(tensor) for tensor in slot.tensors()):
                    return f", first in what is stored of {Site(stack, layer, module)}"
        return ""

    def settle(self) -> None:
        """Waits for what is not known yet of the numbers of a run that has ended, and complains of it."""
        for step, _ in self._outputs.settle():
            self._complain(step)

    def resized(self, inputs: dict[str, Any]) -> bool:
        """Whether the coming call has another size than the same call of the earlier steps; half the rows, or twice as
        many again, are guidance that is switched off or on, where the user has told of it."""
        if self.call >= len(self.branches):
            return False
        seen, now = self.branches[self.call].seen, self.adapter.shape(self.model, inputs)
        if seen == now or self._samples is None or dataclasses.replace(cast(Any, now), batch=seen.batch) != seen:
            return seen != now
        latents = self.adapter.tokens_in(inputs)
        return len(latents) != self._samples * (2 if Parts(guided=True).are_in(latents) else 1)

    def begins_next_step(self, inputs: dict[str, Any]) -> bool:
        """Whether the coming call is at another timestep than the first one of this step: a call was left out, as that
        of the null prompt is where guidance has ended."""
        first, now = self._timestep, inputs.get("timestep")
        if not self.call or first is None or now is None or first is now:
            return False
        one, other = torch.as_tensor(first).flatten()[:1], torch.as_tensor(now).flatten()[:1]
        return not torch.equal(one, other.to(one))

    def advance(self) -> None:
        """Ends a denoising step."""
        self.step += 1
        self.call = 0
        self.skipping = False

    def rest(self) -> None:
        """Leaves the sites idle, for calls that are not of this run; its own next call enters them again."""
        if self._bound is not None:
            self._bind(self._idle)
            self._bound = None

    def resume(self) -> None:
        """Enters the sites again after `rest` in the middle of a call."""
        if self.call < len(self.branches):
            self._bound = self.branches[self.call]
            self._bind(self._bound.states, self._bound)

    def _measure(self, inside: bool = False) -> None:
        held = sum(branch.held_bytes(inside and number == self.call) for number, branch in enumerate(self.branches))
        if self.whole is not None:
            held += sum(tensor.nbytes for tensor in self.whole.tensors())
        self.summary.cache_bytes = max(self.summary.cache_bytes, held)

    def finish(self) -> Summary:
        """Frees the feature store, lets the model run plain again, and returns what was executed."""
        for around in self._around:
            around.remove()
        self._clock.settle(self.summary.executed)
        late = (step for step, _ in self._outputs.settle())  # of a run that ends by an exception
        self.summary.broken = tuple(sorted({*self.summary.broken, *late}))
        self._inputs = {}
        if not self.summary.ran_as_planned:
            warnings.warn(self.summary.said_departures, DepartureWarning, stacklevel=2)
        self._bind(self._idle)
        self.branches.clear()
        self.whole = None
        self._bound = None
        if self.recorder is not None:
            self.recorder.settle()
        return self.summary

    @property
    def _in_graphs(self) -> bool:
        return self.compiled is not Compiled.NOTHING

    # ------------------------------------------------------------------------------------------------ set-up

    def _new_branch(self, seen: Shape, inputs: dict[str, Any]) -> Branch:
        latents = self.adapter.tokens_in(inputs)
        if self.checks.on_nan == "raise" and not bool(torch.isfinite(latents).all()):
            raise ValueError(
                f"the latents at step {self.step} hold {int((~torch.isfinite(latents)).sum())} values that are NaN or"
                " infinite; check the pipeline's dtype and the latents that were passed in"
            )
        backend = self.adapter.attention_backend(self.model)
        check_backend(self.model, backend, latents.device)
        said = self._said_parts(inputs)
        parts = said if said.are_in(latents) else APART
        if parts.required:
            self._samples = len(latents) // parts.count
        shape = seen if parts == APART else self.adapter.parted(seen, parts)
        if self.whole_method.merging is not None and getattr(shape, "grid", None) is None:
            shape = dataclasses.replace(cast(Any, shape), grid=self.adapter.grid(self.model, inputs))
        plan = self.whole_method.on(latents.device.type).plan(shape, self.requested_steps, self.timesteps)
        if len(plan.steps) != self.steps:  # fewer steps, of a sampler that does not evaluate the model once in each
            plan = dataclasses.replace(plan, steps=(plan.steps * self.steps)[: self.steps])
        if self._foresees(plan, latents):
            plan = dataclasses.replace(plan, foresees=True)
        ranks = self._ranks(plan)
        of_ranks = 1 if ranks is None else ranks.count
        share = of_ranks / self.calls if self.call < self.calls else 0
        if plan.call_forecast is not None and self.scheduler is not None:  # one latent serves all calls of a step
            share = 1
        plan = with_store(plan, self.store, share=share, compiled=self.compiled)
        self.summary.store, self.summary.dropped = self.store, max(self.summary.dropped, len(plan.dropped))
        keeper = Keeper(self.store)
        states = {
            (stack, layer): BlockState(self.adapter.modules(stack), backend, keeper) for stack, layer, _ in self._blocks
        }
        branch = Branch(seen, shape, plan, states, latents.device, keeper, self._divided(ranks, shape))
        branch.said = said
        if plan.call_forecast is not None:
            whole = WholeCalls(plan.call_forecast, self.scheduler, self.begin, plan, keeper)
            if self.scheduler is None:
                branch.whole = whole
            elif self.call == 0:
                self.whole = whole
        for block in plan.text_blocks:
            states[block].steady = branch.steady
        if self._selector is not None and self._selector.needs_grid(shape):
            branch.grid = self.adapter.grid(self.model, inputs)
            self._selector.check_grid(branch)
        if self.recorder is not None:
            branch.geometry = self._geometry(shape, branch.grid or self.adapter.grid(self.model, inputs))
        held = sum(branch.held_bytes() for branch in self.branches)
        check_room(plan, latents.device, self.memory_limit, held, self.compiled, of_ranks)
        return branch

    def _said_parts(self, inputs: dict[str, Any]) -> Parts:
        rows = len(self.adapter.tokens_in(inputs))
        return APART if self.parts is None or rows == self._samples else self.parts(rows)

    def _ranks(self, plan: Plan) -> Ranks | None:
        """The processes that share the tokens of a call. Raises `ValueError` for what does not work with them."""
        ranks, method = ranks_of_model(self.model), plan.whole_method.label()
        if ranks is None:
            return None
        if not self.adapter.context_parallel:
            raise ValueError(f"dita supports context parallelism on FLUX only, not on {plan.shape.family}")
        if plan.merging is not None:
            raise ValueError(f"{method} matches tokens of a whole picture, of which each rank holds a part: no merging")
        if self._in_graphs and plan.method.selects_live(plan.shape):
            raise ValueError(
                f"{method} selects tokens inside of cached steps, and ranks would have to wait for each other inside of"
                " compiled blocks: take another score, or do not compile"
            )
        return ranks

    def _divided(self, ranks: Ranks | None, shape: Shape) -> dict[str, Divided]:
        """How ranks share the tokens of each module."""
        if ranks is None:
            return {}
        starts = self._image_starts(shape)
        return {module: Divided(ranks, shape.tokens(module), start or 0) for module, start in starts.items()}

    def _geometry(self, shape: Shape, grid: tuple[int, ...] | None) -> Geometry:
        starts = self._image_starts(shape)
        return Geometry(shape, grid, {module: start for module, start in starts.items() if start is not None})

    def _image_starts(self, shape: Shape) -> dict[str, int | None]:
        modules = dict.fromkeys(site.module for site in shape.sites())
        return {module: self.adapter.image_start(module, shape) for module in modules}

    def _join_halves(self, branch: Branch) -> None:
        """At the end of guidance: what was stored of both halves becomes that of their mean."""
        joined = branch.plan.joined
        full = step_kind(branch.actions(self.step)) is Kind.FULL  # only a guarded step is, once guidance has ended
        if joined is None or self.step < joined or branch.joined or branch.fresh or full:
            return
        branch.joined = True
        for state in branch.states:
            for slot in state.slots.values():
                slot.join_halves()
        for merger in branch.mergers.values():
            merger.forget()

    def _instruct_spans(self, branch: Branch) -> None:
        """Tells the blocks which spans this step stores or skips."""
        if not branch.spans:
            return
        plan, past = branch.plan, self.step >= len(branch.plan.steps)
        skipped = None if branch.fresh or past else plan.skips.get(self.step)
        order = [(stack, layer) for stack, layer, _ in self._blocks]
        hooked = any(block._forward_hooks or block._forward_pre_hooks for _, _, block in self._blocks)
        for state in branch.states:
            state.spans = None

        def of(block: tuple[str, int]) -> BlockSpans:
            state = branch.state_of[block]
            state.spans = state.spans or BlockSpans(apart=hooked)
            return state.spans

        for span, store in branch.spans.items():
            store.keep = False
            if span == skipped:
                store.weights = self._weights(branch, store)
                for block in order[order.index(span.first) : order.index(span.last) + 1]:
                    of(block).skipped = True
                if not span.delta:
                    of(span.first).opens.append(store)
                of(span.last).closes = store
            elif not past and plan.holds_span(self.step, span):
                store.keep = True
                store.renew(self.step, self._order(branch))
                of(span.first).opens.append(store)
                source = span.source or span.last
                for block in order[order.index(span.first) + 1 : order.index(source) + 1]:
                    of(block).within.append(store)
                of(source).fills.append(store)
            else:
                store.forget()

    def _order(self, branch: Branch) -> int:
        """Up to which order what this step stores forms factors with what was stored before; 0 for none."""
        forecast = branch.plan.forecast
        return forecast.order if forecast is not None and self.step >= forecast.since else 0

    def _weights(self, branch: Branch, store: Stored) -> tuple[Tensor, ...]:
        """What the factors of a stored output are multiplied with in this step."""
        if branch.plan.forecast is None or not store.factors:
            return ()
        key = (self.step - store.step, len(store.factors))
        if key not in branch.weights:
            branch.weights[key] = as_weights(branch.plan.forecast.weights(*key), branch.device)
        return branch.weights[key]

    def _form_factors(self, branch: Branch) -> None:
        """Forms the factors of forecasts that graphs have left to do."""
        if self._order(branch):
            for state in branch.states:
                for slot in state.slots.values():
                    slot.settle()
            for store in branch.spans.values():
                store.settle()

    def _instruct(self, branch: Branch, actions: Step) -> None:
        shared = self._selecting_branch(branch)
        score = getattr(self.method, "score", None)
        probed = self.adapter.probed_score(score) if score in PROBED_SCORES else None
        rescored = self.method.rescores(branch.shape)
        keeps_scores = self.method.keeps_scores(branch.shape)
        keeps_gates = self.method.keeps_gates(branch.shape)
        self._instruct_spans(branch)
        live = self.method.selects_live(branch.shape)
        settled = branch.plan.settled(self.step) if self.step < len(branch.plan.steps) else frozenset()
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            state.cached = False
            state.settle = partial(self._settle, branch, (stack, layer)) if (stack, layer) in settled else None
            chooses, rescores = branch.plan.scores_later(self.step, stack, layer), False
            for module, slot in state.slots.items():
                site = Site(stack, layer, module)
                coming = branch.coming(self.step, site)
                slot.kind, slot.tokens, merged = actions[site]
                slot.merger = branch.merger((stack, layer)) if merged else None
                slot.merged_modules = branch.plan.merged_modules(site) if merged else frozenset()
                needed = self.step < len(branch.plan.steps) and branch.plan.holds(self.step, site)
                slot.keep = slot.kind is Kind.FULL and needed
                slot.keep_gate, slot.keep_inner = slot.keep and keeps_gates, any(coming)
                slot.rows = slot.all_rows = None
                if slot.cut:
                    slot.inner = None
                slot.needed = needed
                chooses = chooses or (any(coming) and (live or slot.kind is Kind.FULL))
                if slot.kind is Kind.FULL or (not needed and slot.kind is Kind.SKIP):
                    slot.live = None
                    slot.forget_inner()
                    if slot.keep:  # each tensor is replaced in its turn: the allocator finds its place again
                        slot.renew(self.step, self._order(branch))
                    else:
                        slot.forget()
                if slot.kind in STORED:
                    state.cached = True
                    rescores = rescores or (rescored and slot.kind is Kind.PARTIAL)
                    slot.weights = self._weights(branch, slot)
                    self._hand_out(branch, shared, site, slot, state)
            state.probe.score = None
            if probed is not None and shared is branch:
                source = actions[Site(stack, layer, branch.shape.score_source(stack, str(score)))]
                if source.kind is Kind.FULL:
                    state.probe.score = probed if chooses else None
                    if not (keeps_scores and chooses):
                        state.probe.scores = None
                elif rescores:
                    state.probe.score = probed
        self._instruct_matching(branch)
        if self.store.device is not None:
            self._expect(branch)
        if self._bound is not branch:
            self._bind(branch.states, branch)
            self._bound = branch

    def _instruct_steady(self, branch: Branch, inputs: tuple[Tensor, ...]) -> None:
        """Tells whether what is made of the steady inputs is stored in this step, or taken from what is stored."""
        full = step_kind(branch.actions(self.step)) is Kind.FULL
        keeps = self._keeps_steady(branch)
        keep = keeps and full and branch.plan.keeps_steady(self.step)
        branch.steady.instruct(inputs, keep=keep, use=keeps and not full)

    def _keeps_steady(self, branch: Branch) -> bool:
        plan = branch.plan
        return not self._in_graphs and plan.keeps_steady(0) and plan.shape.steady_bytes(len(plan.text_blocks)) > 0

    def _foresees(self, plan: Plan, latents: Tensor) -> bool:
        """Whether the modulations of cached steps are computed ahead."""
        known = self.timesteps is not None and len(self.timesteps) == len(plan.steps)
        here = latents.device.type == "cpu" and not self._in_graphs and not torch.is_grad_enabled()
        return known and here and plan.modulation_chunks > 0

    def _foreseen(self, branch: Branch, inputs: dict[str, Any]) -> Tensor | None:
        assert self.timesteps is not None
        times = [self.timesteps[step] for step in branch.plan.cached_steps]
        return self.adapter.foreseen(self.model, inputs, times)

    def _instruct_matching(self, branch: Branch) -> None:
        """Tells the first merging block of each group whose tokens are to be matched in this step to do so."""
        matched = branch.plan.matched[self.step] if self.step < len(branch.plan.steps) else frozenset()
        due = {branch.plan.group(block) for block in matched}
        told: set[Block] = set()
        by_stack: dict[str, list[Merger]] = {}
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            state.matcher = None
            merger = next((slot.merger for slot in state.slots.values() if slot.merger is not None), None)
            if merger is None:
                continue
            group = branch.plan.group((stack, layer))
            if group not in told and (group in due or not merger.matched):
                told.add(group)
                state.matcher = merger
                by_stack.setdefault(stack, []).append(merger)
        for stack, mergers in by_stack.items():
            orders = self._orders(branch, stack, mergers[0].cells, len(mergers))
            for merger, order in zip(mergers, orders, strict=True):
                merger.order = order

    def _orders(self, branch: Branch, stack: str, cells: Cells, count: int) -> Tensor:
        """Destinations and sources of `count` matchings in this step, (count, n): the same for all samples."""
        merging = branch.plan.merging
        assert merging is not None
        sizes = (count, cells.destinations)
        if not merging.random:
            return cell_order(cells, torch.zeros(sizes, dtype=torch.int64, device=branch.device))
        seed = (merging.seed, branch.shape.stacks.index(stack), self.step)
        draws = random_scores(math.prod(sizes), seed, branch.device).view(sizes)
        return cell_order(cells, (draws * math.prod(cells.stride)).long())

    def _forget_matchings(self, branch: Branch) -> None:
        """Frees the matchings that no later step uses."""
        kept = branch.plan.matchings_kept[self.step] if self.step < len(branch.plan.steps) else frozenset()
        for group, merger in branch.mergers.items():
            merger.order = None
            if group not in kept:
                merger.forget()

    def _hand_out(self, branch: Branch, shared: Branch, site: Site, slot: Slot, state: BlockState) -> None:
        """Gives a cached site its rows, or what finds them inside the step."""
        if slot.attention_alone:
            pass  # computes all tokens
        elif branch is not shared:
            slot.rows = shared.slot(site).rows if slot.kind is Kind.PARTIAL else None
        elif self.method.selects_live(branch.shape):
            assert self._selector is not None
            slot.live = slot.live or self._selector.live(branch, site)
            if slot.kind is not Kind.PARTIAL:
                slot.live.wait()
        elif branch.selected.get(site):
            slot.rows = branch.selected[site].pop(0)
            slot.all_rows = branch.all_selected[site].pop(0) if site in branch.all_selected else None
        if slot.later:
            slot.inner = slot.later.pop(0)
        varying = bool(branch.divided) or (site.stack, site.module) in branch.plan.varying
        if self._in_graphs and varying:
            _mark_varying(slot)

    def _expect(self, branch: Branch) -> None:
        """Has the coming call's features on their way from the host's memory."""
        stored = [slot for state in branch.states for slot in state.slots.values() if slot.kind in STORED or slot.keep]
        skipping = [store for store in branch.spans.values() if store.out is not None]
        expect([tensor for one in (*stored, *skipping) for tensor in one.used()], branch.device)

    def _selecting_branch(self, branch: Branch) -> Branch:
        """The calls of a step share the selections of the first one, where their tokens correspond."""
        return self.branches[0] if self.branches and self.branches[0].seen == branch.seen else branch

    def _bind(self, states: list[BlockState], branch: Branch | None = None) -> None:
        for (stack, _, block), state in zip(self._blocks, states, strict=True):
            self.adapter.bind(stack, block, state)
        for module in self.adapter.steady_modules(self.model):
            module.__dict__["_dita"] = branch.steady if branch is not None else IDLE

    # ------------------------------------------------------------------------------------------------ selection

    def _settle(self, branch: Branch, block: Block) -> None:
        """In front of a block, in a full step: selects the tokens of those before it that store attention of all."""
        self._measure(inside=True)
        number, plan = self._number[block], branch.plan
        done = [one for one in plan.opened(self.step) if self._number[one.stack, one.layer] < number]
        self._select(branch, done)

    def _select(self, branch: Branch, sites: Sequence[Site]) -> None:
        """Selects the tokens of the cached steps up to the next full one, for `sites` that are full in this step.

        Their stored attention is cut down to them.
        """
        sites = [site for site in sites if site not in branch.settled]
        branch.settled.update(sites)
        shared = self._selecting_branch(branch)
        if self._selector is not None and not self.method.selects_live(branch.shape) and shared is branch:
            self._selector.select(branch, self.step, sites)
        for site in sites:
            slot = branch.slot(site)
            if slot.inner is not None and self.method.selects_live(branch.shape):
                slot.inner = slot.keeper.stow(slot.inner)
            elif slot.inner is not None:
                slot.cut_inner(shared.selected[site])

    def _forget_scores(self, branch: Branch) -> None:
        """Frees the scores that no later selection uses."""
        if not self.method.keeps_scores(branch.shape):
            for state in branch.states:
                state.probe.scores = None

    def _executed(self, branch: Branch, actions: Step, kind: Kind, tried: float = 0.0) -> Executed:
        """What a call did; `tried` are FLOPs of a cached call that the guard has thrown away."""
        shape, selecting = branch.shape, [site for site in actions if branch.shape.selects(site.module)]
        score = str(getattr(self.method, "score", None))
        planned = self.step < len(branch.plan.steps) and self._selecting_branch(branch) is branch
        scoring = branch.plan.feature_score_flops(self.step) if planned else 0.0
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            if state.probe.score is not None:
                scored = actions[Site(stack, layer, shape.score_source(stack, score))]
                count = None if scored.kind is Kind.FULL else scored.tokens
                scoring += sum(shape.score_flops(Site(stack, layer, module), score, count) for module in state.slots)
        blocks = zip(self._blocks, branch.states, strict=True)
        matching = [(stack, layer) for (stack, layer, _), state in blocks if state.matcher is not None]
        merging = [site for site, action in actions.items() if action.merged]
        cells = [branch.merger((site.stack, site.layer)).cells for site in merging]
        return Executed(
            step=self.step,
            branch=self.call,
            kind=kind,
            seconds=self._clock.stop(),
            flops=branch.plan.step_flops(actions) * (0.5 if branch.joined else 1.0) + tried,
            plain_flops=branch.plan.step_flops(branch.full),
            score_flops=scoring,
            tokens=sum(actions[site].tokens for site in selecting),
            all_tokens=sum(shape.tokens(site.module) for site in selecting),
            matching_flops=branch.plan.matched_flops(frozenset(matching)) * (0.5 if branch.joined else 1.0),
            merged_tokens=sum(actions[site].merged for site in merging),
            mergeable_tokens=sum(of_site.tokens * of_site.sequences for of_site in cells),
        )

    def _uncalled(self, branch: Branch, seconds: float) -> Executed:
        """A call that was not made."""
        shape = branch.shape
        return Executed(
            step=self.step,
            branch=self.call,
            kind=Kind.CALL,
            seconds=seconds,
            flops=0.0,
            plain_flops=branch.plan.step_flops(branch.full),
            score_flops=0.0,
            tokens=0,
            all_tokens=sum(shape.tokens(site.module) for site in shape.sites() if shape.selects(site.module)),
        )

    def _record(self, recorder: Recorder, branch: Branch, actions: Step) -> None:
        """Notes which tokens this call computed, and which it merged."""
        selected: dict[Site, Tensor] = {}
        matched: dict[Block, Tensor] = {}
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            for module, slot in state.slots.items():
                if slot.rows is not None:
                    all_rows = slot.all_rows if slot.live is None else slot.live.all_rows
                    selected[Site(stack, layer, module)] = slot.rows if all_rows is None else all_rows
            if state.matcher is not None:
                matched[branch.plan.group((stack, layer))] = state.matcher.representatives()
        merging = {
            (site.stack, site.layer): branch.plan.group((site.stack, site.layer))
            for site, action in actions.items()
            if action.merged
        }
        assert branch.geometry is not None
        recorder.note(self.step, actions, branch.geometry, selected, matched, merging)


def _mark_varying(slot: Slot) -> None:
    """Tells dynamo that the rows of a slot are not always as many: one graph for all numbers, not one for each site
    whose number is seen to change."""
    if slot.rows is not None:
        torch._dynamo.maybe_mark_dynamic(slot.rows, 0)
    if slot.live is not None:
        slot.room = torch.empty(slot.tokens, 0)
        torch._dynamo.maybe_mark_dynamic(slot.room, 0)
    if slot.cut and isinstance(slot.inner, Tensor):
        torch._dynamo.maybe_mark_dynamic(slot.inner, 1)
