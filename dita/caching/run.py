"""One sampling run: follows the steps, tells the sites what to do, selects tokens, and logs what was executed."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from dita.caching.adapters import Adapter
from dita.caching.scores import normalise, random_scores, spread
from dita.caching.selection import SpatialBonus, select_cycle
from dita.caching.state import BlockState, held_bytes, row_numbers
from dita.caching.summary import Executed, Summary
from dita.methods import LIVE_SCORES, Method, ToCa
from dita.plan import Plan, Step, full_step, step_kind
from dita.shapes import Kind, Shape, Site

PROBED_SCORES = ("attention", "attention-sampled", "k-norm", "v-norm")  # collected in the full step


class CacheMemoryError(MemoryError):
    """The feature store of the plan would not fit into the memory that is free."""


class Branch:
    """One of the transformer calls of a step: with true classifier-free guidance there are two, each with features of
    its own. `selected[site]` holds the rows of the cached steps to come, next one first."""

    def __init__(self, shape: Shape, plan: Plan, states: list[BlockState], device: torch.device) -> None:
        self.shape = shape
        self.plan = plan
        self.states = states
        self.fresh = True  # nothing stored yet
        self.full = full_step(shape)
        self.selected: dict[Site, list[Tensor | None]] = {}
        self.grid: tuple[int, int] | None = None
        self.device = device

    def held_bytes(self) -> int:
        slots = [slot for state in self.states for slot in state.slots.values()]
        features = held_bytes(tensor for slot in slots for tensor in slot.tensors())
        live = [slot.rows for slot in slots if slot.live_score is not None]
        queued = [rows for queue in self.selected.values() for rows in queue]
        return features + sum(rows.nbytes for rows in live + queued if rows is not None)


class Run:
    """Drives the attached blocks through `steps` denoising steps.

    `before_call` and `after_call` surround every transformer call, `advance` ends a step. The bytes that the store may
    take are bounded by `memory_limit`, or by the memory that is free.
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
    ) -> None:
        self.adapter = adapter
        self.model = model
        self.method = method
        self.steps = steps
        self.requested_steps = requested_steps or steps
        self.memory_limit = memory_limit
        self.step = 0
        self.call = 0
        self.branches: list[Branch] = []
        self.record = record
        self.summary = Summary(method=method, repeats=self.requested_steps / steps)
        self._blocks = adapter.blocks(model)
        self._number = {(stack, layer): i for i, (stack, layer, _) in enumerate(self._blocks)}
        self._bound: Branch | None = None
        self._clock = _Clock()

    # ------------------------------------------------------------------------------------------ one transformer call

    def before_call(self, inputs: dict[str, Any]) -> None:
        """Prepares the sites for the coming transformer call. Raises before anything was changed in the model."""
        shape = self.adapter.shape(self.model, inputs)
        if self.call == len(self.branches):
            self.branches.append(self._new_branch(shape, inputs))
        branch = self.branches[self.call]
        if branch.shape != shape:  # a callback changed the prompt's length, say: what is stored does not fit any more
            branch = self.branches[self.call] = self._new_branch(shape, inputs)
        actions = self._actions(branch)
        self._instruct(branch, actions)
        self.summary.shape = self.branches[0].shape
        self._clock.start(self.adapter.tokens_in(inputs).device)

    def after_call(self) -> None:
        """Logs the call and, after a full step, selects the tokens of the cached steps that follow."""
        branch = self.branches[self.call]
        actions = self._actions(branch)
        kind = step_kind(actions)
        self.summary.executed.append(self._executed(branch, actions, kind))
        if kind is Kind.FULL:
            self._select(branch)
            branch.fresh = False
        elif self.record:
            self._record(branch, actions)
        if kind is Kind.FULL or getattr(self.method, "score", None) in LIVE_SCORES:  # nothing else grows the store
            self.summary.cache_bytes = max(self.summary.cache_bytes, sum(b.held_bytes() for b in self.branches))
        self.call += 1

    def resized(self, inputs: dict[str, Any]) -> bool:
        """Whether the coming call has another size than the same call of the earlier steps."""
        known = self.call < len(self.branches)
        return known and self.branches[self.call].shape != self.adapter.shape(self.model, inputs)

    def advance(self) -> None:
        """Ends a denoising step."""
        self.step += 1
        self.call = 0

    def finish(self) -> Summary:
        """Frees the feature store, lets the model run plain again, and returns what was executed."""
        self._clock.settle(self.summary.executed)
        self._bind([BlockState(self.adapter.modules(stack)) for stack, _, _ in self._blocks])
        self.branches.clear()
        self._bound = None
        return self.summary

    # ------------------------------------------------------------------------------------------------ set-up

    def _new_branch(self, shape: Shape, inputs: dict[str, Any]) -> Branch:
        latents = self.adapter.tokens_in(inputs)
        if not bool(torch.isfinite(latents).all()):
            raise ValueError(
                f"the latents at step {self.step} hold {int((~torch.isfinite(latents)).sum())} values that are NaN or"
                " infinite; check the pipeline's dtype and the latents that were passed in"
            )
        _check_attention_backend(self.model, latents.device)
        plan = self.method.plan(shape, self.requested_steps)
        states = [BlockState(self.adapter.modules(stack)) for stack, _, _ in self._blocks]
        branch = Branch(shape, plan, states, latents.device)
        if isinstance(self.method, ToCa) and (self.method.spatial_bonus or self.method.score == "uniform"):
            branch.grid = self.adapter.grid(inputs)
            if self.method.spatial_bonus:
                _check_cells(branch.grid, self.method.spatial_grid)
        _check_memory(plan, latents.device, self.memory_limit, held=sum(b.held_bytes() for b in self.branches))
        return branch

    def _actions(self, branch: Branch) -> Step:
        """What this step does: full where the plan has ended, or where there is nothing stored to reuse."""
        if branch.fresh or self.step >= len(branch.plan.steps):
            return branch.full
        return branch.plan.steps[self.step]

    def _kept(self, branch: Branch) -> frozenset[Site]:
        """Sites whose output the coming cached steps use."""
        if self.step >= len(branch.plan.steps):
            return frozenset()
        if branch.plan.kinds[self.step] is Kind.FULL:
            return branch.plan.kept[self.step]
        coming = branch.plan.steps[self.step + 1 : self.step + 2]  # a full step where the plan has a cached one
        return frozenset(site for step in coming for site, action in step.items() if action.kind is not Kind.FULL)

    def _instruct(self, branch: Branch, actions: Step) -> None:
        kept = self._kept(branch) if step_kind(actions) is Kind.FULL else frozenset()
        shared = self._selecting_branch(branch)
        score = getattr(self.method, "score", None)
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            state.cached = False
            scored = False
            for module, slot in state.slots.items():
                site = Site(stack, layer, module)
                slot.kind, slot.tokens = actions[site]
                slot.keep = site in kept
                slot.rows = None
                if slot.kind is Kind.FULL:
                    slot.age = None
                    if not slot.keep:  # else each tensor is replaced in its turn: the allocator finds its place again
                        slot.out = slot.inner = None
                    scored = scored or (slot.keep and any(branch.plan.cycle_tokens(self.step, site)))
                else:
                    state.cached = True
                    self._hand_out(branch, shared, site, slot)
            state.probe.scores = None
            state.probe.score = score if scored and score in PROBED_SCORES and shared is branch else None
        if self._bound is not branch:
            self._bind(branch.states)
            self._bound = branch

    def _hand_out(self, branch: Branch, shared: Branch, site: Site, slot: Any) -> None:
        """Gives a cached site its rows, or tells it to find them itself."""
        score = getattr(self.method, "score", None)
        slot.live_score = None
        if slot.kind is not Kind.PARTIAL:
            if branch is shared and branch.selected.get(site):
                branch.selected[site].pop(0)
            return
        if score in LIVE_SCORES:
            if branch is shared:
                assert isinstance(self.method, ToCa)
                slot.live_score = score
                slot.age_weight = self.method.age_weight / self.method.cycle
                slot.spatial = self._spatial(branch, site.module)
            else:
                slot.rows = self._slot(shared, site).rows
        else:
            slot.rows = branch.selected[site].pop(0) if branch is shared else self._slot(shared, site).rows

    def _slot(self, branch: Branch, site: Site) -> Any:
        return branch.states[self._number[site.stack, site.layer]].slots[site.module]

    def _selecting_branch(self, branch: Branch) -> Branch:
        """The calls of a step share the selections of the first one, where their tokens correspond."""
        return self.branches[0] if self.branches and self.branches[0].shape == branch.shape else branch

    def _bind(self, states: list[BlockState]) -> None:
        for (stack, _, block), state in zip(self._blocks, states, strict=True):
            self.adapter.bind(stack, block, state)

    # ------------------------------------------------------------------------------------------------ selection

    def _select(self, branch: Branch) -> None:
        """Selects the tokens of the cached steps up to the next full one, for all layers of a module at once."""
        branch.selected.clear()
        if not isinstance(self.method, ToCa) or self._selecting_branch(branch) is not branch:
            return
        if self.method.score in LIVE_SCORES:
            return
        kept = self._kept(branch)
        for stack in branch.shape.stacks:
            for module in self.adapter.modules(stack):
                sites = [Site(stack, layer, module) for layer in range(branch.shape.depth(stack))]
                counts = [branch.plan.cycle_tokens(self.step, site) for site in sites]
                if not set(sites) <= kept or not any(map(any, counts)):
                    continue
                selections = select_cycle(
                    self._base_scores(branch, stack, module, counts),
                    list(zip(*counts, strict=True)),
                    self.method.age_weight / self.method.cycle,
                    self._spatial(branch, module),
                )
                batch, tokens = branch.shape.batch, branch.shape.tokens(module)
                for layer, site in enumerate(sites):
                    branch.selected[site] = [
                        None if (index := chosen[layer]) is None else row_numbers(index, batch, tokens)
                        for chosen in selections
                    ]
        for state in branch.states:
            state.probe.scores = None

    def _base_scores(self, branch: Branch, stack: str, module: str, counts: list[tuple[int, ...]]) -> Any:
        """j -> scores (L, B or 1, N) of one module in all layers of a stack at the j-th cached step."""
        assert isinstance(self.method, ToCa)
        shape, method = branch.shape, self.method
        tokens = shape.tokens(module)
        device = branch.device
        number = (branch.shape.stacks.index(stack), self.adapter.modules(stack).index(module))
        layers = range(shape.depth(stack))
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
            return lambda j: torch.stack([(values + starts[i] + taken[j][i]).frac()[None] for i in layers])
        states = [state for (s, _, _), state in zip(self._blocks, branch.states, strict=True) if s == stack]
        joint = torch.stack([scores for state in states if (scores := state.probe.scores) is not None])
        frozen = normalise(self.adapter.module_scores(stack, module, shape, joint))
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
        start = self.adapter.image_start(module, branch.shape)
        if not isinstance(self.method, ToCa) or not self.method.spatial_bonus or start is None:
            return None
        assert branch.grid is not None
        return SpatialBonus(self.method.spatial_bonus, self.method.spatial_grid, branch.grid, start)

    def _executed(self, branch: Branch, actions: Step, kind: Kind) -> Executed:
        shape, selecting = branch.shape, [site for site in actions if branch.shape.selects(site.module)]
        scoring = [
            shape.score_flops(Site(stack, layer, module), state.probe.score)
            for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True)
            if state.probe.score is not None
            for module in state.slots
        ]
        return Executed(
            step=self.step,
            branch=self.call,
            kind=kind,
            seconds=self._clock.stop(),
            flops=branch.plan.step_flops(actions),
            plain_flops=branch.plan.step_flops(branch.full),
            score_flops=sum(scoring),
            tokens=sum(actions[site].tokens for site in selecting),
            all_tokens=sum(shape.tokens(site.module) for site in selecting),
        )

    def _record(self, branch: Branch, actions: Step) -> None:
        for (stack, layer, _), state in zip(self._blocks, branch.states, strict=True):
            for module, slot in state.slots.items():
                if slot.rows is not None and self.call == 0:
                    index = slot.rows.view(branch.shape.batch, -1) % branch.shape.tokens(module)
                    self.summary.selections[self.step, Site(stack, layer, module)] = index.int().cpu()


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


def _check_cells(grid: tuple[int, int] | None, cell: int) -> None:
    if grid is None:
        raise ValueError("spatial_bonus needs image tokens that form one grid; set spatial_bonus=0 for this pipeline")
    if grid[0] % cell or grid[1] % cell:
        raise ValueError(
            f"spatial_bonus works in cells of {cell}x{cell} image tokens, which do not divide this picture's"
            f" {grid[0]}x{grid[1]} tokens; choose another spatial_grid, another picture size, or spatial_bonus=0"
        )


def _check_attention_backend(model: nn.Module, device: torch.device) -> None:
    """Raises `ValueError` if the model's attention is set to xformers where its kernels cannot run."""
    for module in model.modules():
        backend = getattr(getattr(module, "processor", None), "_attention_backend", None)
        if getattr(backend, "value", backend) == "xformers" and device.type != "cuda":
            raise ValueError(
                f"the attention backend 'xformers' needs a CUDA device, and the latents are on {device}; call"
                " transformer.set_attention_backend('native')"
            )


def _check_memory(plan: Plan, device: torch.device, limit: int | None, held: int) -> None:
    if limit is None:
        limit = held + _free_bytes(device)
    needed = held + plan.cache_bytes
    if needed > limit:
        raise CacheMemoryError(
            f"the feature store of {plan.method.label()} needs {needed / 2**20:.1f} MiB and {limit / 2**20:.1f} MiB are"
            " available; use a smaller batch or picture, or a method that stores less (FORA)"
        )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
