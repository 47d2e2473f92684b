"""One of the transformer calls of a step: its plan, and what is stored and selected for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dita.caching.context_parallel import Divided
from dita.caching.cuda_graphs import Rescue
from dita.caching.forecast import AS_COMPUTED
from dita.caching.guidance import APART
from dita.caching.keeping import Keeper
from dita.caching.modulations import COMPUTED, Modulations
from dita.caching.probe import Common
from dita.caching.spans import SpanStore
from dita.caching.state import BlockState, Slot, held_bytes
from dita.caching.steady import SteadyMemo
from dita.caching.token_record import Geometry
from dita.caching.whole_call import WholeCalls
from dita.merging.merger import Merger
from dita.plan import Block, Plan, Step, full_step
from dita.shapes import Kind, Shape, Site


class Branch:
    """One of the transformer calls of a step: with true classifier-free guidance there are two, each with features of
    its own. `seen` is the shape of the call as the adapter sees it, `shape` the same with guidance recognised, and
    `said` what the caller says that guidance makes of its rows.
    `selected[site]` holds the rows of the cached steps to come, next one first; `settled` the sites whose were selected
    inside of the present call; `mergers` what merges the tokens of a group of blocks, by the first of them; `divided`
    how ranks of context parallelism share the tokens of each module, empty where one process has them all; `form` that
    of the transformer's output, and `whole` what is stored of whole calls, where a bare transformer's are forecast."""

    def __init__(
        self,
        seen: Shape,
        shape: Shape,
        plan: Plan,
        states: dict[Block, BlockState],
        device: torch.device,
        keeper: Keeper = AS_COMPUTED,
        divided: Mapping[str, Divided] | None = None,
    ) -> None:
        self.seen = seen
        self.shape = shape
        self.plan = plan
        self.state_of = states
        self.states = list(states.values())
        self.divided = divided or {}
        self.said = APART
        self.last: int | None = None  # the step of the last call
        self.inference = False  # that call ran in inference mode
        self.fresh = True  # nothing stored yet
        self.full = full_step(shape)
        self.form: Any = None
        self.whole: WholeCalls | None = None
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
        for (stack, _), state in states.items():
            state.modulations, state.probe.common = self.modulations, self.common
            for slot in state.slots.values():
                slot.ragged = bool(self.divided)
            state.probe.divided = self.divided.get(shape.score_source(stack, "attention"))
        for site in plan.attention_alone:
            self.slot(site).attention_alone = True

    def actions(self, step: int) -> Step:
        """What a step does: full where the plan has ended, or where there is nothing stored to reuse."""
        if step >= len(self.plan.steps) or (self.fresh and self.plan.kinds[step] is not Kind.FULL):
            return self.full
        return self.plan.steps[step]

    def make_full(self, step: int) -> None:
        """Changes the plan so that `step` computes everything, both halves of guidance too."""
        plan = self.plan
        self.joined = False
        if step < len(plan.steps):
            steps = (*plan.steps[:step], self.full, *plan.steps[step + 1 :])
            skips = {other: span for other, span in plan.skips.items() if other != step}
            self.plan = dataclasses.replace(plan, steps=steps, skips=skips)

    def coming(self, step: int, site: Site) -> tuple[int, ...]:
        """Tokens that the site computes in the cached steps behind `step`, up to its next full one."""
        return self.plan.cycle_tokens(step, site) if step < len(self.plan.steps) else ()

    def slot(self, site: Site) -> Slot:
        """The slot of a site."""
        return self.state_of[site.stack, site.layer].slots[site.module]

    def merger(self, block: Block) -> Merger:
        """What merges the tokens of `block`, and of the others of its group."""
        group, merging = self.plan.group(block), self.plan.merging
        if group not in self.mergers:
            assert merging is not None
            cells = self.shape.cells(block[0], merging.stride)
            self.mergers[group] = Merger(cells, cells.removed(merging.ratio), merging.proportional)
        return self.mergers[group]

    def detach(self) -> None:
        """Makes constants of what is stored: latents that nothing computed begin a graph of their own. Their step's
        gradient is that of the step, as in the plain model, and the graphs of steps before may be gone."""
        self._replace(lambda tensor: tensor.detach() if tensor.requires_grad else tensor)

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        holders: list[BlockState | SpanStore | Merger] = [*self.states, *self.spans.values(), *self.mergers.values()]
        for holder in holders:
            holder.replace(change)

    def rescue(self, rescue: Rescue) -> None:
        """Copies what blocks have put out and later steps need, where it is on the model's device, out of the memory of
        graphs. What lies in the host's memory is a copy already."""

        def moved(tensor: Tensor) -> Tensor:
            return rescue.moved(tensor) if tensor.device.type == self.device.type else tensor

        self._replace(moved)

    def forget(self) -> None:
        """Frees what is stored."""
        for state in self.states:
            for slot in state.slots.values():
                slot.forget()
        for store in self.spans.values():
            store.forget()

    def held_bytes(self, inside: bool = False) -> int:
        """Bytes of what is stored. `inside` of a call: without what the call will have freed at its end, the collected
        scores and the matchings."""
        slots = [slot for state in self.states for slot in state.slots.values()]
        tensors = [tensor for state in self.states for tensor in state.tensors()]
        tensors += [tensor for store in self.spans.values() for tensor in store.tensors()]
        tensors += list(self.whole.tensors()) if self.whole is not None else []
        features = held_bytes(iter([*tensors, *self.steady.tensors(), *self.modulations.tensors()]))
        queues = [*self.selected.values(), *self.all_selected.values()]
        numbers = [rows for queue in queues for rows in queue]
        if not inside:
            numbers += [state.probe.scores for state in self.states]
            numbers += [slot.rows for slot in slots if slot.live is not None]
            numbers += [tensor for merger in self.mergers.values() for tensor in merger.tensors()]
        return features + sum(tensor.nbytes for tensor in numbers if tensor is not None)
