"""One sampling run: follows the steps, tells the sites what to do, selects tokens, and logs what was executed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import psutil
import torch
from torch import Tensor, nn

from dita.caching import cuda_graphs
from dita.caching.adapters import Adapter
from dita.caching.attention import check_backend
from dita.caching.context_parallel import Divided, Ranks, ranks_of_model
from dita.caching.cuda_graphs import Rescue
from dita.caching.forecast import AS_COMPUTED, Stored, as_weights
from dita.caching.guidance import first_half, twice
from dita.caching.keeping import Keeper
from dita.caching.live import LiveSelection
from dita.caching.modulations import COMPUTED, Modulations
from dita.caching.offload import expect
from dita.caching.probe import Common
from dita.caching.recorder import Recorder
from dita.caching.scores import combined, entropy_score, of_features, random_scores, spread
from dita.caching.selection import SpatialBonus, select_cycle
from dita.caching.spans import BlockSpans, SpanStore
from dita.caching.state import BlockState, Slot, held_bytes, row_numbers
from dita.caching.steady import IDLE, SteadyMemo
from dita.caching.summary import Executed, Summary
from dita.caching.token_record import Geometry
from dita.fitting import with_store
from dita.footprint import peak_bytes
from dita.merges import Cells
from dita.merging.matching import cell_order
from dita.merging.merger import Merger
from dita.methods import FEATURE_SCORES, PROBED_SCORES, Method, ToCa
from dita.plan import Block, Plan, Step, full_step, step_kind
from dita.shapes import STORED, Kind, Shape, Site
from dita.stores import Store


class CacheMemoryError(MemoryError):
    """The feature store of the plan would not fit into the memory that is free."""


class Branch:
    """One of the transformer calls of a step: with true classifier-free guidance there are two, each with features of
    its own. `seen` is the shape of the call as the adapter sees it, `shape` the same with guidance recognised.
    `selected[site]` holds the rows of the cached steps to come, next one first; `settled` the sites whose were selected
    inside of the present call; `mergers` what merges the tokens of a group of blocks, by the first of them."""

    def __init__(
        self,
        seen: Shape,
        shape: Shape,
        plan: Plan,
        states: list[BlockState],
        device: torch.device,
        keeper: Keeper = AS_COMPUTED,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks
        self.seen = seen
        self.shape = shape
        self.plan = plan
        self.states = states
        self.fresh = True  # nothing stored yet
        self.full = full_step(shape)
        self.joined = False  # the halves of a guided call are computed as one
        self.spans = {span: SpanStore(span, keeper) for span in plan.spans}
        self.selected: dict[Site, list[Tensor | None]] = {}
        self.all_selected: dict[Site, list[Tensor | None]] = {}  # of all ranks, where tokens are recorded
        self.settled: set[Site] = set()
        self.mergers: dict[Block, Merger] = {}
        self.grid: tuple[int, ...] | None = None
        self.geometry: Geometry | None = None  # where tokens are recorded
        self.device = device
        self.weights: dict[tuple[int, int], tuple[Tensor, ...]] = {}  # by distance and number of factors
        self.steady = SteadyMemo()
        self.modulations = Modulations(plan.cached_steps) if plan.foresees else COMPUTED
        self.common = Common()
        for state in states:
            state.modulations, state.probe.common = self.modulations, self.common

    def merger(self, block: Block) -> Merger:
        """What merges the tokens of `block`, and of the others of its group."""
        group, merging = self.plan.group(block), self.plan.merging
        if group not in self.mergers:
            assert merging is not None
            cells = self.shape.cells(block[0], merging.stride)
            self.mergers[group] = Merger(cells, cells.removed(merging.ratio), merging.proportional)
        return self.mergers[group]

    def rescue(self, rescue: Rescue) -> None:
        """Copies what blocks have put out and later steps need, where it is on the model's device, out of the memory of
        graphs. What lies in the host's memory is a copy already."""

        def moved(tensor: Tensor) -> Tensor:
            return rescue.moved(tensor) if tensor.device.type == self.device.type else tensor

        holders: list[BlockState | SpanStore | Merger] = [*self.states, *self.spans.values(), *self.mergers.values()]
        for holder in holders:
            holder.replace(moved)

    def held_bytes(self, inside: bool = False) -> int:
        """Bytes of what is stored. `inside` of a call: without what the call will have freed at its end, the collected
        scores and the matchings."""
        slots = [slot for state in self.states for slot in state.slots.values()]
        tensors = [tensor for state in self.states for tensor in state.tensors()]
        tensors += [tensor for store in self.spans.values() for tensor in store.tensors()]
        features = held_bytes(iter([*tensors, *self.steady.tensors(), *self.modulations.tensors()]))
        queues = [*self.selected.values(), *self.all_selected.values()]
        numbers = [rows for queue in queues for rows in queue]
        if not inside:
            numbers += [state.probe.scores for state in self.states]
            numbers += [slot.rows for slot in slots if slot.live is not None]
            numbers += [tensor for merger in self.mergers.values() for tensor in merger.tensors()]
        return features + sum(tensor.nbytes for tensor in numbers if tensor is not None)


class Run:
    """Drives the attached blocks through `steps` denoising steps.

    `before_call` and `after_call` surround every transformer call, `advance` ends a step. The bytes that the store may
    take are bounded by `memory_limit`, or by the memory that is free. `guidance`: False where the calls are known to
    hold no guided halves; otherwise two equal halves of latents are taken as such. `timesteps`: of the steps, where
    they are known. `store`: how features are kept. `calls`: transformer calls of a step, which share what the store may
    hold. `compiled`: the blocks run as compiled graphs.
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
        guidance: bool = True,
        timesteps: Sequence[float] | None = None,
        store: Store | None = None,
        calls: int = 1,
        compiled: bool = False,
    ) -> None:
        self.store = store or Store()
        self.calls = calls
        self.adapter = adapter
        self.model = model
        self.whole_method = method
        self.method = method.caching
        self.steps = steps
        self.requested_steps = requested_steps or steps
        self.memory_limit = memory_limit
        self.guidance = guidance
        self.timesteps = timesteps
        self.compiled = compiled
        self.step = 0
        self.call = 0
        self.branches: list[Branch] = []
        self.recorder = Recorder() if record else None
        self.summary = Summary(method=method, repeats=self.requested_steps / steps)
        if self.recorder is not None:
            self.summary.tokens = self.recorder.record
        self._blocks = adapter.blocks(model)
        self._number = {(stack, layer): i for i, (stack, layer, _) in enumerate(self._blocks)}
        self._bound: Branch | None = None
        self._clock = _Clock()
        self._rescue: Rescue | None = None

    # ------------------------------------------------------------------------------------------ one transformer call

    def before_call(self, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """Prepares the sites for the coming transformer call. Raises before anything was changed in the model.

        Returns the arguments that the call shall have instead of `inputs`, None for none.
        """
        seen = self.adapter.shape(self.model, inputs)
        if self.call == len(self.branches):
            self.branches.append(self._new_branch(seen, inputs))
        branch = self.branches[self.call]
        if branch.seen != seen:  # a callback changed the prompt's length, say: what is stored does not fit any more
            branch = self.branches[self.call] = self._new_branch(seen, inputs)
        self._join_halves(branch)
        branch.settled.clear()
        self._instruct(branch, self._actions(branch))
        self._instruct_steady(branch, self.adapter.steady_inputs(inputs))
        branch.modulations.begin(self.step, partial(self._foreseen, branch, inputs))
        self.summary.shape, self.summary.plan = self.branches[0].shape, self.branches[0].plan
        latents = self.adapter.tokens_in(inputs)
        if cuda_graphs.may_own_outputs(latents.device, self.compiled):
            self._rescue = self._rescue or Rescue()
            if self.call == 0:
                self._rescue.begin_step()
        self._clock.start(latents.device)
        return first_half(inputs, len(latents)) if branch.joined else None

    def after_call(self, output: Any = None) -> Any:
        """Logs the call and, where sites were full, selects the tokens of the cached steps that follow there.

        Returns what shall stand for the call's `output`, None for itself.
        """
        branch = self.branches[self.call]
        if self._rescue is not None:
            branch.rescue(self._rescue)
        actions = self._actions(branch)
        kind = step_kind(actions)
        self.summary.executed.append(self._executed(branch, actions, kind))
        if self.recorder is not None and self.call == 0:
            self._record(self.recorder, branch, actions)
        some_full = any(action.kind is Kind.FULL for action in actions.values())
        if some_full:
            self._measure(inside=True)
        self._form_factors(branch)
        self._select(branch, [site for site, action in actions.items() if action.kind is Kind.FULL])
        branch.common.forget()
        self._forget_scores(branch)
        self._forget_matchings(branch)
        if not branch.plan.keeps_steady(self.step):
            branch.steady.forget()
        first_cached = branch.plan.foresees and self.step == branch.plan.cached_steps[0]
        if branch.plan.foresees and self.step >= branch.plan.cached_steps[-1]:
            branch.modulations.forget()
        if kind is Kind.FULL:
            branch.fresh = False
        # nothing else grows the store
        if some_full or branch.spans or first_cached or self.method.selects_live(branch.shape):
            self._measure()
        self.call += 1
        return twice(output) if branch.joined else None

    def resized(self, inputs: dict[str, Any]) -> bool:
        """Whether the coming call has another size than the same call of the earlier steps."""
        known = self.call < len(self.branches)
        return known and self.branches[self.call].seen != self.adapter.shape(self.model, inputs)

    def advance(self) -> None:
        """Ends a denoising step."""
        self.step += 1
        self.call = 0

    def _measure(self, inside: bool = False) -> None:
        held = sum(branch.held_bytes(inside and number == self.call) for number, branch in enumerate(self.branches))
        self.summary.cache_bytes = max(self.summary.cache_bytes, held)

    def finish(self) -> Summary:
        """Frees the feature store, lets the model run plain again, and returns what was executed."""
        self._clock.settle(self.summary.executed)
        self._bind([BlockState(self.adapter.modules(stack)) for stack, _, _ in self._blocks])
        self.branches.clear()
        self._bound = None
        if self.recorder is not None:
            self.recorder.settle()
        return self.summary

    # ------------------------------------------------------------------------------------------------ set-up

    def _new_branch(self, seen: Shape, inputs: dict[str, Any]) -> Branch:
        latents = self.adapter.tokens_in(inputs)
        if not bool(torch.isfinite(latents).all()):
            raise ValueError(
                f"the latents at step {self.step} hold {int((~torch.isfinite(latents)).sum())} values that are NaN or"
                " infinite; check the pipeline's dtype and the latents that were passed in"
            )
        backend = self.adapter.attention_backend(self.model)
        check_backend(self.model, backend, latents.device)
        shape = self.adapter.guided(seen, inputs) if self.guidance else seen
        if self.whole_method.merging is not None and getattr(shape, "grid", None) is None:
            shape = dataclasses.replace(cast(Any, shape), grid=self.adapter.grid(self.model, inputs))
        plan = self.whole_method.on(latents.device.type).plan(shape, self.requested_steps, self.timesteps)
        if self._foresees(plan, latents):
            plan = dataclasses.replace(plan, foresees=True)
        ranks = self._ranks(plan)
        of_ranks = 1 if ranks is None else ranks.count
        share = of_ranks / self.calls if self.call < self.calls else 0
        plan = with_store(plan, self.store, share=share, compiled=self.compiled)
        self.summary.store, self.summary.dropped = self.store, max(self.summary.dropped, len(plan.dropped))
        keeper = Keeper(self.store)
        states = [BlockState(self.adapter.modules(stack), backend, keeper) for stack, _, _ in self._blocks]
        branch = Branch(seen, shape, plan, states, latents.device, keeper, ranks)
        for (stack, _, _), state in zip(self._blocks, states, strict=True):
            state.probe.divided = self._divided(branch, shape.score_source(stack, "attention"))
        for block in plan.text_blocks:
            states[self._number[block]].steady = branch.steady
        if isinstance(self.method, ToCa):
            bonus, cell = self.method.spatial(shape.family)
            if bonus or self.method.score in ("uniform", "frame-uniqueness"):
                branch.grid = self.adapter.grid(self.model, inputs)
            if bonus:
                _check_cells(branch.grid, cell, given=self.method.spatial_grid is not None)
        if self.recorder is not None:
            branch.geometry = self._geometry(shape, branch.grid or self.adapter.grid(self.model, inputs))
        _check_memory(
            plan, latents.device, self.memory_limit, sum(b.held_bytes() for b in self.branches), self.compiled, of_ranks
        )
        return branch

    def _ranks(self, plan: Plan) -> Ranks | None:
        """The processes that share the tokens of a call. Raises `ValueError` for what does not work with them."""
        ranks, method = ranks_of_model(self.model), plan.whole_method.label()
        if ranks is None:
            return None
        if not self.adapter.context_parallel:
            raise ValueError(f"dita supports context parallelism on FLUX only, not on {plan.shape.family}")
        if plan.merging is not None:
            raise ValueError(f"{method} matches tokens of a whole picture, of which each rank holds a part: no merging")
        if self.compiled and plan.method.selects_live(plan.shape):
            raise ValueError(
                f"{method} selects tokens inside of cached steps, and ranks would have to wait for each other inside of"
                " compiled blocks: take another score, or do not compile"
            )
        return ranks

    def _divided(self, branch: Branch, module: str) -> Divided | None:
        """How ranks share the tokens of a module; None where this process has them all."""
        if branch.ranks is None:
            return None
        start = self.adapter.image_start(module, branch.shape)
        return Divided(branch.ranks, branch.shape.tokens(module), start or 0)

    def _geometry(self, shape: Shape, grid: tuple[int, ...] | None) -> Geometry:
        modules = dict.fromkeys(site.module for site in shape.sites())
        starts = {module: self.adapter.image_start(module, shape) for module in modules}
        return Geometry(shape, grid, {module: start for module, start in starts.items() if start is not None})

    def _actions(self, branch: Branch) -> Step:
        """What this step does: full where the plan has ended, or where there is nothing stored to reuse."""
        if self.step >= len(branch.plan.steps) or (branch.fresh and branch.plan.kinds[self.step] is not Kind.FULL):
            return branch.full
        return branch.plan.steps[self.step]

    def _coming(self, branch: Branch, site: Site) -> tuple[int, ...]:
        """Tokens that the site computes in the cached steps from the next one on, up to its next full one."""
        return branch.plan.cycle_tokens(self.step, site) if self.step < len(branch.plan.steps) else ()

    def _join_halves(self, branch: Branch) -> None:
        """At the end of guidance: what was stored of both halves becomes that of their mean."""
        joined = branch.plan.joined
        if joined is None or self.step < joined or branch.joined or branch.fresh:
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
        for state in branch.states:
            state.spans = None

        def of(block: tuple[str, int]) -> BlockSpans:
            state = branch.states[self._number[block]]
            state.spans = state.spans or BlockSpans()
            return state.spans

        for span, store in branch.spans.items():
            store.keep = False
            if span == skipped:
                store.weights = self._weights(branch, store)
                for block in order[order.index(span.first) : order.index(span.last) + 1]:
                    of(block).skipped = True
                of(span.last).closes = store
            elif not past and plan.holds_span(self.step, span):
                store.keep = True
                store.renew(self.step, self._order(branch))
                of(span.first).opens.append(store)
                of(span.source or span.last).fills.append(store)
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
        """Forms the factors of forecasts that compiled blocks have left to do."""
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
                coming = self._coming(branch, site)
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
        full = step_kind(self._actions(branch)) is Kind.FULL
        keeps = self._keeps_steady(branch)
        keep = keeps and full and branch.plan.keeps_steady(self.step)
        branch.steady.instruct(inputs, keep=keep, use=keeps and not full)

    def _keeps_steady(self, branch: Branch) -> bool:
        plan = branch.plan
        return not self.compiled and plan.keeps_steady(0) and plan.shape.steady_bytes(len(plan.text_blocks)) > 0

    def _foresees(self, plan: Plan, latents: Tensor) -> bool:
        """Whether the modulations of cached steps are computed ahead."""
        known = self.timesteps is not None and len(self.timesteps) == len(plan.steps)
        here = latents.device.type == "cpu" and not self.compiled and not torch.is_grad_enabled()
        return known and here and plan.modulation_chunks > 0

    def _foreseen(self, branch: Branch, inputs: dict[str, Any]) -> Tensor:
        assert self.timesteps is not None
        times = [self.timesteps[step] for step in branch.plan.cached_steps]
        found = self.adapter.foreseen(self.model, inputs, times)
        assert found is not None
        return found

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
        if branch is not shared:
            source = self._slot(shared, site)
            slot.rows, slot.all_rows = (source.rows, source.all_rows) if slot.kind is Kind.PARTIAL else (None, None)
        elif self.method.selects_live(branch.shape):
            slot.live = slot.live or self._live_selection(branch, site, state)
            if slot.kind is not Kind.PARTIAL:
                slot.live.wait()
        elif branch.selected.get(site):
            slot.rows = branch.selected[site].pop(0)
            slot.all_rows = branch.all_selected[site].pop(0) if site in branch.all_selected else None
        if slot.later:
            slot.inner = slot.later.pop(0)
        varying = branch.ranks is not None or (site.stack, site.module) in branch.plan.varying
        if self.compiled and varying:
            _mark_varying(slot)

    def _expect(self, branch: Branch) -> None:
        """Has the coming call's features on their way from the host's memory."""
        stored = [slot for state in branch.states for slot in state.slots.values() if slot.kind in STORED or slot.keep]
        skipping = [store for store in branch.spans.values() if store.out is not None]
        expect([tensor for one in (*stored, *skipping) for tensor in one.used()], branch.device)

    def _live_selection(self, branch: Branch, site: Site, state: BlockState) -> LiveSelection:
        assert isinstance(self.method, ToCa)
        return LiveSelection(
            "entropy" if self.method.scores_entropy(branch.shape) else self.method.score,
            self.method.age_weight / self.method.cycle,
            self._spatial(branch, site.module),
            state.probe,
            halves=branch.shape.rows > branch.shape.batch,
            shared=self.method.shares_halves(branch.shape),
            divided=self._divided(branch, site.module),
        )

    def _slot(self, branch: Branch, site: Site) -> Slot:
        return branch.states[self._number[site.stack, site.layer]].slots[site.module]

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
        if isinstance(self.method, ToCa) and not self.method.selects_live(branch.shape) and shared is branch:
            self._select_cycles(branch, sites)
        for site in sites:
            slot = self._slot(branch, site)
            if slot.inner is not None and self.method.selects_live(branch.shape):
                slot.inner = slot.keeper.stow(slot.inner)
            elif slot.inner is not None:
                slot.cut_inner(shared.selected[site])

    def _select_cycles(self, branch: Branch, sites: Sequence[Site]) -> None:
        """The layers of a module whose cycles are equally long are selected at once."""
        method, shape = self.method, branch.shape
        assert isinstance(method, ToCa)
        cycles: dict[tuple[str, str, int], list[int]] = {}
        for site in sites:
            branch.selected.pop(site, None)
            branch.all_selected.pop(site, None)
            coming = self._coming(branch, site)
            if any(coming):
                cycles.setdefault((site.stack, site.module, len(coming)), []).append(site.layer)
        for (stack, module, _), layers in cycles.items():
            counts = [self._coming(branch, Site(stack, layer, module)) for layer in layers]
            selections = select_cycle(
                self._base_scores(branch, stack, module, layers, counts),
                list(zip(*counts, strict=True)),
                method.age_weight / method.cycle,
                self._spatial(branch, module),
            )
            tokens = shape.tokens(module)
            rows = [
                [None if index is None else row_numbers(index, shape.rows, tokens) for index in of_layer]
                for of_layer in zip(*selections, strict=True)
            ]
            sites_of_layers = [Site(stack, layer, module) for layer in layers]
            divided = self._divided(branch, module)
            if divided is not None:
                if self.recorder is not None:
                    branch.all_selected |= zip(sites_of_layers, rows, strict=True)
                own = iter(divided.own([some for of_layer in rows for some in of_layer if some is not None]))
                rows = [[None if some is None else next(own) for some in of_layer] for of_layer in rows]
            branch.selected |= zip(sites_of_layers, rows, strict=True)

    def _forget_scores(self, branch: Branch) -> None:
        """Frees the scores that no later selection uses."""
        if not self.method.keeps_scores(branch.shape):
            for state in branch.states:
                state.probe.scores = None

    def _base_scores(
        self, branch: Branch, stack: str, module: str, layers: list[int], counts: list[tuple[int, ...]]
    ) -> Callable[[int], Tensor]:
        """j -> scores (L, b, N) of one module in `layers` of a stack at the j-th cached step of their cycle.

        b is the number of samples that choose: 1 where all choose alike.
        """
        assert isinstance(self.method, ToCa)
        shape, method = branch.shape, self.method
        tokens = shape.tokens(module)
        device = branch.device
        divided = self._divided(branch, module)
        number = (branch.shape.stacks.index(stack), self.adapter.modules(stack).index(module))
        if method.score == "random":
            return lambda j: torch.stack(
                [
                    self._draw(Site(stack, i, module), self.step + 1 + j, (method.seed, *number, i), device)
                    for i in layers
                ]
            )
        if method.score == "uniform":
            values = self._spread(branch, module, device)
            taken = [[sum(c[:j]) / tokens for c in counts] for j in range(len(counts[0]))]
            starts = [0.6180339887498949 * (i + 7 * self.step + method.seed) for i in layers]
            return lambda j: torch.stack(
                [(values + start + share).frac()[None] for start, share in zip(starts, taken[j], strict=True)]
            )
        if method.score in FEATURE_SCORES:
            grid = branch.grid if method.score == "frame-uniqueness" else None
            outputs = (self._slot(branch, Site(stack, layer, module)).stored() for layer in layers)
            whole = [out if divided is None else divided.joined(out, 1) for out in outputs if isinstance(out, Tensor)]
            scores = torch.stack([of_features(method.score, out, grid) for out in whole])
            frozen = combined(scores, method.shares_halves(shape))
            return lambda j: frozen
        collected = [branch.states[self._number[stack, layer]].probe.scores for layer in layers]
        joint = torch.stack([scores for scores in collected if scores is not None])  # (L, B, N)
        of_block = self._divided(branch, shape.score_source(stack, method.score))
        joint = joint if of_block is None else of_block.joined(joint)
        of_module = self.adapter.module_scores(stack, module, shape, joint)
        if method.scores_entropy(shape):
            frozen = entropy_score(of_module, shape.rows > shape.batch)
        else:
            frozen = combined(of_module, method.shares_halves(shape), alike=not method.strict)
        return lambda j: frozen

    def _draw(self, site: Site, step: int, seed: tuple[int, ...], device: torch.device) -> Tensor:
        """U(0, 1) for one site and step, (1, N): shared by the samples of the batch."""
        return random_scores(self.branches[0].shape.tokens(site.module), (*seed, step), device)[None]

    def _spread(self, branch: Branch, module: str, device: torch.device) -> Tensor:
        start = self.adapter.image_start(module, branch.shape)
        tokens = branch.shape.tokens(module)
        if start is None or branch.grid is None:
            return spread(tokens, None, device)
        return torch.cat([spread(start, None, device), spread(tokens - start, branch.grid, device)])

    def _spatial(self, branch: Branch, module: str) -> SpatialBonus | None:
        assert isinstance(self.method, ToCa)
        start = self.adapter.image_start(module, branch.shape)
        bonus, cell = self.method.spatial(branch.shape.family)
        if not bonus or start is None:
            return None
        assert branch.grid is not None
        return SpatialBonus(bonus, cell, branch.grid, start)

    def _executed(self, branch: Branch, actions: Step, kind: Kind) -> Executed:
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
            flops=branch.plan.step_flops(actions) * (0.5 if branch.joined else 1.0),
            plain_flops=branch.plan.step_flops(branch.full),
            score_flops=scoring,
            tokens=sum(actions[site].tokens for site in selecting),
            all_tokens=sum(shape.tokens(site.module) for site in selecting),
            matching_flops=branch.plan.matched_flops(frozenset(matching)) * (0.5 if branch.joined else 1.0),
            merged_tokens=sum(actions[site].merged for site in merging),
            mergeable_tokens=sum(of_site.tokens * of_site.sequences for of_site in cells),
        )

    def _record(self, recorder: Recorder, branch: Branch, actions: Step) -> None:
        """Notes which tokens this call computed, and which it merged."""
        selected: dict[Site, Tensor] = {}
        matched: dict[Block, Tensor] = {}
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            for module, slot in state.slots.items():
                if slot.rows is not None:
                    selected[Site(stack, layer, module)] = slot.rows if slot.all_rows is None else slot.all_rows
            if state.matcher is not None:
                matched[branch.plan.group((stack, layer))] = state.matcher.representatives()
        merging = {
            (site.stack, site.layer): branch.plan.group((site.stack, site.layer))
            for site, action in actions.items()
            if action.merged
        }
        assert branch.geometry is not None
        recorder.note(self.step, actions, branch.geometry, selected, matched, merging)


class _Clock:
    """Seconds of each transformer call. On CUDA, events are recorded and read at the end, so nothing waits."""

    def __init__(self) -> None:
        self._cuda = False
        self._started: Any = None
        self._events: list[tuple[Any, Any]] = []

    def start(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._started = self._now()

    def stop(self) -> float:
        """Seconds since `start`; 0 on CUDA, until `settle`."""
        if self._cuda:
            self._events.append((self._started, self._now()))
            return 0.0
        return self._now() - self._started

    def settle(self, executed: list[Executed]) -> None:
        for call, (start, stop) in zip(executed, self._events, strict=False):
            stop.synchronize()
            call.seconds = start.elapsed_time(stop) / 1000

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _check_cells(grid: tuple[int, ...] | None, cell: int, given: bool) -> None:
    """Cells of the paper's size may be smaller at the edge of a picture; a size that the user gave must fit."""
    if grid is None:
        raise ValueError("spatial_bonus needs image tokens that form one grid; set spatial_bonus=0 for this pipeline")
    height, width = grid[-2:]
    if given and (height % cell or width % cell):
        raise ValueError(
            f"spatial_bonus works in cells of {cell}x{cell} image tokens, which do not divide this picture's"
            f" {height}x{width} tokens; choose another spatial_grid, another picture size, or spatial_bonus=0"
        )


def _mark_varying(slot: Slot) -> None:
    """Tells dynamo that the rows of a slot are not always as many: one graph for all numbers, not one for each site
    whose number is seen to change."""
    if slot.rows is not None:
        torch._dynamo.maybe_mark_dynamic(slot.rows, 1)
    if slot.live is not None:
        slot.room = torch.empty(slot.tokens, 0)
        torch._dynamo.maybe_mark_dynamic(slot.room, 0)
    if slot.cut and isinstance(slot.inner, Tensor):
        torch._dynamo.maybe_mark_dynamic(slot.inner, 1)


def _check_memory(
    plan: Plan, device: torch.device, limit: int | None, held: int, compiled: bool, ranks: int = 1
) -> None:
    place = device if plan.store.device is None else torch.device(plan.store.device)
    if limit is None:
        limit = held + _free_bytes(place)
    needed = held + peak_bytes(plan, compiled) // ranks
    if needed > limit:
        raise CacheMemoryError(
            f"the feature store of {plan.method.label()} needs {needed / 2**20:.1f} MiB and {limit / 2**20:.1f} MiB are"
            f" available on {place}; use a smaller batch or picture, a method that stores less (FORA), or a"
            " dita.Store(dtype='fp8'), Store(device='cpu') or Store(max_cache_bytes=...)"
        )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
