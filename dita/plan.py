"""The plan of one sampling run: what happens at every (step, layer, module), as plain Python data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from dita import predictors
from dita.footprint import peak_bytes
from dita.shapes import STORED, Accounting, Kind, Shape, Site, feature_score_flops
from dita.stores import Store

if TYPE_CHECKING:
    from dita.methods import Method, ToMe

LETTERS = {Kind.FULL: "F", Kind.PARTIAL: "p", Kind.FORECAST: "~", Kind.REUSE: ".", Kind.SKIP: "-", Kind.CALL: "="}
"""One character for a step of each kind."""

LONGEST_LETTERS = 60
"""Steps that are shown in a line."""

SETTLED = 8
"""Blocks that select their tokens together inside a full step: few kernels, and little that is stored for nothing."""

Basis = Literal["taylor", "hermite"]
BASES: tuple[Basis, ...] = get_args(Basis)


class Action(NamedTuple):
    """What one site does in one step, how many tokens of a sample it computes, and how many it has merged away."""

    kind: Kind
    tokens: int
    merged: int = 0


Step = Mapping[Site, Action]
Block = tuple[str, int]
"""(stack, layer)."""
Coming = dict[Site, tuple[int, ...]]
"""Tokens that sites compute in the cached steps that are to come, until the next full one of each."""


@dataclass(frozen=True)
class Span:
    """Consecutive blocks that some steps pass by as one, with what was stored when they ran last.

    Attributes:
        first, last: (stack, layer) of the first and of the last block, in the order of execution.
        delta: 0 stores what leaves the span, and a skipping step puts it in that place. +1 stores the difference
            between what leaves and what enters, and a skipping step adds it to what enters now (Delta-DiT); -1
            subtracts it.
        source: the block whose output is stored, if it is not `last`.
    """

    first: tuple[str, int]
    last: tuple[str, int]
    delta: int = 0
    source: tuple[str, int] | None = None


@dataclass(frozen=True)
class Forecast:
    """How stored outputs are continued to the steps that follow a full one (TaylorSeer, arXiv 2503.06923).

    The factors of a full step s are F_0, its output, and F_i+1 = (F_i - F_i of the full step before) / (distance of the
    two steps), for i below `order` and as far as the step before has an F_i. A step x later is
    F_0 + sum over i of b_i(x) F_i / i!.

    Attributes:
        order: the highest i. 0 is reuse.
        basis: b_i(x) is x^i (`taylor`) or, of HiCache (arXiv 2508.16984), c^i H_i(c x) with the Hermite polynomials
            H_0 = 1, H_1 = 2x, H_i+1 = 2x H_i - 2i H_i-1 and c the `scale` (`hermite`).
        since: the first full step whose factors beyond F_0 are formed.
    """

    order: int
    basis: Basis = "taylor"
    scale: float = 0.5
    since: int = 1

    def weights(self, distance: int, factors: int) -> tuple[float, ...]:
        """b_i(x) / i! for i = 1 ... `factors`, x = `distance`."""
        if self.basis == "taylor":
            return tuple(float(distance) ** i / math.factorial(i) for i in range(1, factors + 1))
        polynomials = [1.0, 2 * self.scale * distance]
        for i in range(1, factors):
            polynomials.append(2 * self.scale * distance * polynomials[i] - 2 * i * polynomials[i - 1])
        return tuple(self.scale**i * polynomials[i] / math.factorial(i) for i in range(1, factors + 1))


Predictor = Literal["lagrange", "hermite", "chebyshev", "fitted"]
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)
Space = Literal["auto", "output", "x0", "velocity"]
SPACES: tuple[Space, ...] = get_args(Space)
Along = Literal["auto", "step", "noise", "log-snr"]
ALONG: tuple[Along, ...] = get_args(Along)


@dataclass(frozen=True)
class CallForecast:
    """How the output of a whole transformer call is continued to the steps that make no call.

    What is stored, and forecast, is a linear map of the scheduler's sample and of the model's output, after guidance.

    Attributes:
        order: of the polynomial; 0 is reuse. Of `chebyshev`, its degree.
        predictor: `lagrange` goes through the last outputs; `hermite` as of `predictors.hermite`, `chebyshev` as of
            `predictors.chebyshev`; `fitted` takes `weights`.
        space: what is forecast: the model's `output`, the clean sample `x0`, or the `velocity` (of flow matching
            noise - x0, else alpha noise - sigma x0).
        along: the coordinate: `step` number, `noise` level (the timestep), or `log-snr`, log(alpha / sigma).
        scale: c of `hermite`.
        stored: how many outputs are stored, at most.
        weights: of `fitted`: for each step that makes no call, those of the last outputs, oldest first.
    """

    order: int = 1
    predictor: Predictor = "lagrange"
    space: Space = "auto"
    along: Along = "auto"
    scale: float = 0.5
    stored: int = 2
    weights: tuple[tuple[float, ...], ...] = ()

    def weights_at(
        self, nodes: tuple[float, ...], at: float, span: tuple[float, float], number: int
    ) -> tuple[float, ...]:
        """What the stored outputs, oldest first, are multiplied with.

        nodes: their coordinates. at: that of the step to forecast, the `number`-th that makes no call. span: those of
        the run's first and last step.
        """
        if self.predictor == "fitted":
            given = self.weights[number]
            return (*(0.0,) * (len(nodes) - len(given)), *given)
        if self.predictor == "chebyshev":
            return predictors.chebyshev(nodes, at, self.order, span)
        if self.predictor == "hermite":
            return predictors.hermite(nodes, at, self.order, self.scale)
        return predictors.lagrange(nodes, at, self.order)


def full_step(shape: Shape) -> Step:
    """The step of the plain pipeline: every site computes all its tokens."""
    return {site: Action(Kind.FULL, shape.tokens(site.module)) for site in shape.sites()}


ATTENTION = ("attn", "cross_attn")
"""Modules that are attention, and nothing else."""


def stored_step(shape: Shape, kind: Kind) -> Step:
    """A step that computes nothing at any site: `kind` is REUSE, FORECAST, SKIP or CALL."""
    return {site: Action(kind, 0) for site in shape.sites()}


def attention_stored(shape: Shape, site: Site, kind: Kind) -> Action:
    """What a site does in a step that takes its attention from the store, by `kind`, and computes everything else.

    A site that is attention and MLP in one (FLUX's single-stream blocks) is PARTIAL, of all its tokens.
    """
    if site.module in ATTENTION:
        return Action(kind, 0)
    return Action(Kind.PARTIAL if shape.shares_projection(site) else Kind.FULL, shape.tokens(site.module))


def blocks_of(shape: Shape) -> tuple[tuple[str, int], ...]:
    """(stack, layer) of every block, in the order of execution."""
    return tuple(dict.fromkeys((site.stack, site.layer) for site in shape.sites()))


def letters(kinds: Iterable[Kind], most: int = LONGEST_LETTERS) -> str:
    """Steps as one word, a character each; of more than `most`, the first ones."""
    word = "".join(LETTERS[kind] for kind in kinds)
    return word if len(word) <= most else word[: most - 3] + "..."


def shared(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The same steps, equal ones as one object: what is computed of a step is computed once for all of them."""
    objects: dict[int, Step] = {}
    first: dict[tuple[tuple[Site, Action], ...], Step] = {}
    for step in (given := tuple(steps)):
        if id(step) not in objects:
            objects[id(step)] = first.setdefault(tuple(step.items()), step)
    return tuple(objects[id(step)] for step in given)


def step_kind(step: Step) -> Kind:
    """FULL if all sites are, PARTIAL if any computes tokens, SKIP if no block runs, CALL if there is no call at all,
    else FORECAST before REUSE."""
    kinds = {action.kind for action in step.values()}
    if len(kinds) == 1:
        return kinds.pop()
    computed = Kind.FULL in kinds or Kind.PARTIAL in kinds
    return Kind.PARTIAL if computed else Kind.FORECAST if Kind.FORECAST in kinds else Kind.REUSE


@dataclass(frozen=True)
class Plan:
    """All actions of one sampling run, built before it starts.

    Attributes:
        steps: what every site does in each step; equal ones are one object.
        requested_steps: steps that the plain pipeline would take; `steps` may hold fewer.
        skips: step -> the span that it passes by; the sites there have the action SKIP.
        forecast: how stored outputs are continued; None where they are used as they are.
        joined: the first step of those in which the two halves of a guided call are computed as one; None for none.
        merging: the token merging that goes with `method`, if any.
        store: how features are kept.
        dropped: sites that are full where `method` would cache them, to stay below the store's `max_cache_bytes`.
        foresees: the first cached step computes the modulations of all cached ones.
        call_forecast: how the output of whole calls is continued, where steps make none (`Kind.CALL`).
    """

    method: Method
    shape: Shape
    steps: tuple[Step, ...]
    requested_steps: int
    skips: Mapping[int, Span] = field(default_factory=dict)
    forecast: Forecast | None = None
    joined: int | None = None
    merging: ToMe | None = None
    store: Store = field(default_factory=Store)
    dropped: frozenset[Site] = frozenset()
    foresees: bool = False
    call_forecast: CallForecast | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", shared(self.steps))

    @cached_property
    def distinct(self) -> tuple[Step, ...]:
        """The steps that differ, in the order in which they first come."""
        return tuple({id(step): step for step in self.steps}.values())

    def __repr__(self) -> str:
        """In one line: method, model, steps, and what the plan takes of FLOPs and memory."""
        taken, asked = len(self.steps), self.requested_steps
        count = f"{taken} steps" if taken == asked else f"{taken} steps in place of {asked}"
        costs = f"{self.flops_ratio():.2f} times fewer FLOPs, " if self.steps and self.flops() else ""
        return (
            f"<Plan of {self.whole_method.label()} on {self.shape.name}: {count} {letters(self.kinds)},"
            f" {costs}cache {self.cache_bytes / 2**20:.4g} MiB>"
        )

    def _repr_html_(self) -> str:
        from dita.plots.notebook import plan_html  # which draws: notebooks alone need it

        return plan_html(self)

    @property
    def whole_method(self) -> Method:
        """`method` and `merging` as one."""
        return self.method if self.merging is None else self.merging.beside(self.method)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        kinds = {id(step): step_kind(step) for step in self.distinct}
        return tuple(kinds[id(step)] for step in self.steps)

    @property
    def full_steps(self) -> tuple[int, ...]:
        return tuple(s for s, kind in enumerate(self.kinds) if kind is Kind.FULL)

    @cached_property
    def kept(self) -> tuple[frozenset[Site], ...]:
        """Per step: the sites that are full there and whose output a later step uses."""
        return tuple(
            frozenset(site for site, action in step.items() if action.kind is Kind.FULL and self.holds(s, site))
            for s, step in enumerate(self.steps)
        )

    def holds(self, step: int, site: Site) -> bool:
        """Whether what is stored at `site` is needed after `step`, before or for the next full step there."""
        return site in self._coming[step] or (self._differs(step) and self._used_until.get(site, -1) > step)

    def used_later(self, step: int) -> int:
        """How many sites use what they have stored after `step`, where later factors are differences to it, else 0."""
        return sum(count for last, count in self._last_uses.items() if last > step) if self._differs(step) else 0

    def holds_span(self, step: int, span: Span) -> bool:
        """Whether what is stored of `span` is needed after `step`."""
        soon = self.skips.get(step + 1) == span
        return soon or (self._differs(step) and any(s > step and p == span for s, p in self.skips.items()))

    def _differs(self, step: int) -> bool:
        """Whether factors of a later full step are differences to what is stored at `step`."""
        return self.forecast is not None and self.forecast.order > 0 and step >= self.forecast.since - 1

    @cached_property
    def _used_until(self) -> dict[Site, int]:
        """The last step that uses what a site has stored."""
        last = {id(step): s for s, step in enumerate(self.steps)}
        ordered = sorted(self.distinct, key=lambda step: last[id(step)])
        return {site: last[id(step)] for step in ordered for site, action in step.items() if action.kind in STORED}

    @cached_property
    def _last_uses(self) -> Counter[int]:
        """Counts sites by the last step that uses what they have stored."""
        return Counter(self._used_until.values())

    @cached_property
    def attention_alone(self) -> frozenset[Site]:
        """Sites that share a projection and whose cached steps compute every token: what is stored of them, and
        forecast, is not their output but their attention."""
        whole = {
            site: self.shape.tokens(site.module) for site in self.shape.sites() if self.shape.shares_projection(site)
        }
        taken = {site: {step[site][:2] for step in self.distinct if step[site].kind in STORED} for site in whole}
        return frozenset(site for site, tokens in whole.items() if taken[site] == {(Kind.PARTIAL, tokens)})

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        return tuple(dict.fromkeys(self.skips.values()))

    @cached_property
    def varying(self) -> frozenset[tuple[str, str]]:
        """Modules, as (stack, module), whose number of tokens is not the same in all partial steps and layers."""
        counts: dict[tuple[str, str], set[int]] = {}
        for step in self.distinct:
            for site, action in step.items():
                if action.kind is Kind.PARTIAL:
                    counts.setdefault((site.stack, site.module), set()).add(action.tokens)
        return frozenset(module for module, found in counts.items() if len(found) > 1)

    def cycle_tokens(self, step: int, site: Site) -> tuple[int, ...]:
        """Tokens to select at `site` in the cached steps that follow `step`, until the next full one there.

        0 where none or all are computed, of `attention_alone`; steps that skip the site do not count.
        """
        return self._coming[step].get(site, ())

    @cached_property
    def _coming(self) -> tuple[Coming, ...]:
        """Per step: `cycle_tokens` by site. Equal ones are one object."""
        coming: Coming = {}
        per_step: list[Coming] = []
        before: dict[tuple[int, int], Coming] = {}
        first: dict[tuple[tuple[Site, tuple[int, ...]], ...], Coming] = {(): coming}
        for step in reversed(self.steps):
            per_step.append(coming)
            key = id(step), id(coming)
            if key not in before:
                made = self._coming_before(step, coming)
                before[key] = first.setdefault(tuple(made.items()), made)
            coming = before[key]
        return tuple(reversed(per_step))

    def _coming_before(self, step: Step, coming: Coming) -> Coming:
        """What is to come in front of `step`, where `coming` is what is to come after it."""
        alone = self.attention_alone
        return {
            site: later if action.kind is Kind.SKIP else (0 if site in alone else action.tokens, *later)
            for site, action in step.items()
            if (later := coming.get(site, ())) or action.kind in STORED
            if action.kind is not Kind.FULL
        }

    def situation(self, step: int) -> tuple[object, ...]:
        """What a step's scores and stored features follow from: equal where it does the same, before the same."""
        return id(self.steps[step]), id(self._coming[step]), self._scored_later[step]

    def scores_at(self, step: int, stack: str, layer: int, score: str) -> bool:
        """Whether a block, whose scored module is full at `step`, must score its tokens there."""
        source = Site(stack, layer, self.shape.score_source(stack, score))
        if self.steps[step][source].kind is not Kind.FULL:
            return False
        sites = self._sites_of[stack, layer]
        live = self.method.selects_live(self.shape)
        choosing = (site for site in sites if live or self.steps[step][site].kind is Kind.FULL)
        return self.scores_later(step, stack, layer) or any(any(self.cycle_tokens(step, site)) for site in choosing)

    @cached_property
    def _sites_of(self) -> dict[Block, tuple[Site, ...]]:
        """The sites of every block."""
        sites: dict[Block, tuple[Site, ...]] = {}
        for site in self.shape.sites():
            sites[site.stack, site.layer] = (*sites.get((site.stack, site.layer), ()), site)
        return sites

    def scores_later(self, step: int, stack: str, layer: int) -> bool:
        """Whether a site of a block selects tokens at a later step, before the block's scored module is full again.

        So it is where modules have cycles of their own: cross-attention is scored, say, and the MLP is full sooner.
        """
        return step < len(self.steps) and (stack, layer) in self._scored_later[step]

    @cached_property
    def _scored_later(self) -> tuple[frozenset[Block], ...]:
        score = getattr(self.method, "score", None)
        if score is None:
            return (frozenset(),) * len(self.steps)
        later: frozenset[Block] = frozenset()
        per_step: list[frozenset[Block]] = []
        before: dict[tuple[int, int, frozenset[Block]], frozenset[Block]] = {}
        for actions, coming in zip(reversed(self.steps), reversed(self._coming), strict=True):
            per_step.append(later)
            key = id(actions), id(coming), later
            if key not in before:
                full = [site for site, action in actions.items() if action.kind is Kind.FULL]
                selecting = {(site.stack, site.layer) for site in full if any(coming.get(site, ()))}
                scored = {
                    (site.stack, site.layer)
                    for site in full
                    if site.module == self.shape.score_source(site.stack, str(score))
                }
                before[key] = (later | selecting) - scored
            later = before[key]
        return tuple(reversed(per_step))

    def flops(self, accounting: Accounting = "post-projection") -> float:
        """FLOPs of the run's transformer calls, scores not included. `pre-projection` is the ToCa repository's way."""
        flops = {id(step): self.step_flops(step, accounting) for step in self.distinct}
        return sum(flops[id(step)] * self.row_share(s) for s, step in enumerate(self.steps))

    def row_share(self, step: int) -> float:
        """The share of a call's samples that is computed: a half where guidance has ended."""
        return 0.5 if self.joined is not None and step >= self.joined else 1.0

    def step_flops(self, step: Step, accounting: Accounting = "post-projection") -> float:
        if step_kind(step) is Kind.CALL:
            return 0.0
        sites = sum(self._site_flops(site, action, accounting) for site, action in step.items())
        return sites + self.shape.step_flops()

    def _site_flops(self, site: Site, action: Action, accounting: Accounting) -> float:
        if action.merged:
            return self.shape.merged_flops(site, self.merged_modules(site), action.merged)
        return self.shape.flops(site, action.kind, action.tokens, accounting)

    def merged_modules(self, site: Site) -> frozenset[str]:
        """What a site that merges tokens computes on the merged ones: of `attn`, `cross_attn` and `mlp`."""
        return self.merging.modules_at(site, self.shape) if self.merging is not None else frozenset()

    def keeps_steady(self, step: int) -> bool:
        """Whether what no timestep enters is kept after `step`: where a later step is cached, and the inputs stay."""
        called = self.call_forecast is None
        return called and self.joined is None and self.store.device is None and step < self._last_cached

    @cached_property
    def _last_cached(self) -> int:
        return max(self.cached_steps, default=0)

    @cached_property
    def cached_steps(self) -> tuple[int, ...]:
        """The steps that are not full."""
        return tuple(s for s, kind in enumerate(self.kinds) if kind is not Kind.FULL)

    @cached_property
    def modulation_chunks(self) -> int:
        """How many shifts, scales and gates the blocks need in cached steps; those of a site in partial and in reuse
        steps count apart."""
        needed: set[tuple[Site, Kind]] = set()
        for step in (step for step in self.distinct if step_kind(step) is not Kind.FULL):
            cached = {(site.stack, site.layer) for site, action in step.items() if action.kind in STORED}
            needed |= {(site, action.kind) for site, action in step.items() if (site.stack, site.layer) in cached}
        return sum(self.shape.modulation_chunks(site, kind) for site, kind in needed)

    @cached_property
    def text_blocks(self) -> frozenset[Block]:
        """The blocks whose cross-attention computes some tokens in cached steps, for which it needs the text."""
        return frozenset(
            (site.stack, site.layer)
            for step in self.distinct
            for site, action in step.items()
            if site.module == "cross_attn" and action.kind is Kind.PARTIAL
        )

    @property
    def matched(self) -> tuple[frozenset[Block], ...]:
        """Per step: the blocks that match their tokens, for themselves and for the blocks of their group."""
        return tuple(matched for matched, _ in self._matchings)

    @cached_property
    def matchings_kept(self) -> tuple[frozenset[Block], ...]:
        """Per step: the groups of blocks, each named by its first one, whose matching a later step uses."""
        kept: frozenset[Block] = frozenset()
        per_step = []
        for matched, used in reversed(self._matchings):
            per_step.append(kept)
            kept = (kept | used) - {self.group(block) for block in matched}
        return tuple(reversed(per_step))

    @cached_property
    def _matchings(self) -> tuple[tuple[frozenset[Block], frozenset[Block]], ...]:
        """Per step: the blocks that match their tokens, and the groups that merge by a matching."""
        if self.merging is None:
            return ((frozenset(), frozenset()),) * len(self.steps)
        since: dict[Block, int] = {}  # the step that a group's matching is of
        per_step = []
        for s, step in enumerate(self.steps):
            if s == self.joined:  # other samples than before
                since.clear()
            merging = dict.fromkeys((site.stack, site.layer) for site, action in step.items() if action.merged)
            matched = set()
            for block in merging:
                group = self.group(block)
                if group not in since or s - since[group] >= self.merging.reuse_steps:
                    since[group] = s
                    matched.add(block)
            per_step.append((frozenset(matched), frozenset(map(self.group, merging))))
        return tuple(per_step)

    def group(self, block: Block) -> Block:
        """The first block of those that share a matching with `block`."""
        stack, layer = block
        return (stack, layer - layer % self.merging.reuse_layers) if self.merging is not None else block

    @property
    def matching_flops(self) -> float:
        """FLOPs that the matching of tokens adds."""
        return sum(self.matched_flops(blocks) * self.row_share(s) for s, blocks in enumerate(self.matched))

    def matched_flops(self, blocks: frozenset[Block]) -> float:
        """FLOPs of the matchings of `blocks`."""
        if self.merging is None:
            return 0.0
        calls, width = self.shape.rows * self.shape.branches, self.shape.width
        return sum(self.shape.cells(stack, self.merging.stride).matching_flops(width) * calls for stack, _ in blocks)

    @property
    def merged_share(self) -> float:
        """Image tokens that are merged away, over all image tokens, where tokens are merged."""
        merged = total = 0
        times = Counter(map(id, self.steps))
        for step in self.distinct:
            for site, action in step.items():
                if action.merged and self.merging is not None:
                    cells = self.shape.cells(site.stack, self.merging.stride)
                    merged += action.merged * times[id(step)]
                    total += cells.tokens * cells.sequences * times[id(step)]
        return merged / total if total else 0.0

    @property
    def plain_flops(self) -> float:
        """FLOPs of the plain pipeline with the requested number of steps."""
        return self.step_flops(full_step(self.shape)) * self.requested_steps

    def flops_ratio(self, accounting: Accounting = "post-projection") -> float:
        """FLOPs of the plain pipeline over those of the plan: not a speed-up, which is measured in seconds."""
        return self.plain_flops / self.flops(accounting)

    @property
    def score_flops(self) -> float:
        """FLOPs that scoring tokens adds: at the full steps that a partial step follows."""
        score = getattr(self.method, "score", None)
        if score is None:
            return 0.0
        total = 0.0
        terms: dict[tuple[object, ...], list[float]] = {}
        for s in range(len(self.steps)):
            situation = self.situation(s)
            if situation not in terms:
                terms[situation] = self._score_flops_at(s, score)
            for term in terms[situation]:  # one by one: sums of floats depend on their order
                total += term
        return total

    def _score_flops_at(self, step: int, score: str) -> list[float]:
        """FLOPs that scores take in a step, part by part."""
        terms = [self.feature_score_flops(step)]
        rescored = self.method.rescores(self.shape)
        scoring = {
            (stack, layer)
            for stack in self.shape.stacks
            for layer in range(self.shape.depth(stack))
            if self._coming[step] and self.scores_at(step, stack, layer, score)
        }
        for site, action in self.steps[step].items():
            if (site.stack, site.layer) in scoring:
                terms.append(self.shape.score_flops(site, score))
            elif rescored and action.kind is Kind.PARTIAL:
                terms.append(self.shape.score_flops(site, score, action.tokens))
        return terms

    def feature_score_flops(self, step: int) -> float:
        """FLOPs of scores that are taken of the modules' output in a step."""
        score = str(getattr(self.method, "score", None))
        sites = [site for site, action in self.steps[step].items() if action.kind is Kind.FULL]
        tokens = sum(self.shape.tokens(site.module) for site in sites if any(self.cycle_tokens(step, site)))
        return float(feature_score_flops(score, tokens, self.shape.width) * self.shape.rows)

    @cached_property
    def cache_bytes(self) -> int:
        """Bytes of stored features and of selected token numbers, at most, while the plan runs."""
        return peak_bytes(self)

    def opened(self, step: int) -> tuple[Site, ...]:
        """The sites that store attention in front of a projection in a step, of all tokens until these are selected."""
        if self.method.selects_live(self.shape):
            return ()
        return tuple(
            site
            for site, action in self.steps[step].items()
            if action.kind is Kind.FULL and self.shape.shares_projection(site) and any(self.cycle_tokens(step, site))
        )

    def settled(self, step: int) -> frozenset[Block]:
        """The blocks in front of which that attention is cut down, in the blocks before, to the selected tokens."""
        return frozenset((site.stack, site.layer) for site in self.opened(step)[SETTLED::SETTLED])

    def token_share(self) -> float:
        """Tokens computed in the modules that can select, over all tokens there, cached steps only."""
        computed = total = 0
        for step, kind in zip(self.steps, self.kinds, strict=True):
            if kind is Kind.FULL:
                continue
            for site, action in step.items():
                if self.shape.selects(site.module):
                    computed += action.tokens
                    total += self.shape.tokens(site.module)
        return computed / total if total else 1.0

    def tokens(self) -> dict[str, list[int]]:
        """Tokens per layer for each selecting module, at the first step that selects any."""
        cached = [step for step, kind in zip(self.steps, self.kinds, strict=True) if kind is not Kind.FULL]
        partial = (step for step in cached if any(a.kind is Kind.PARTIAL for a in step.values()))
        step = next(partial, cached[0] if cached else {})
        counts: dict[str, list[int]] = {}
        for site, action in step.items():
            if self.shape.selects(site.module):
                counts.setdefault(site.module, []).append(action.tokens)
        return counts

    def map(self) -> list[str]:
        """A picture of the plan: one line for each stack and module, one character a step.

        F full, M full on merged tokens, p partial, ~ forecast, . reuse, - skipped, = no call at all; f full in some
        layers only.
        """
        lines = []
        modules = dict.fromkeys((site.stack, site.module) for site in self.shape.sites())
        order = list(LETTERS)
        for stack, module in modules:
            drawn: dict[int, str] = {}
            for step in self.distinct:
                actions = [a for site, a in step.items() if (site.stack, site.module) == (stack, module)]
                kinds = {action.kind for action in actions}
                merged = any(action.merged for action in actions)
                letter = "M" if merged else LETTERS[min(kinds, key=order.index)]
                drawn[id(step)] = letter if len(kinds) == 1 else letter.lower()
            row = "".join(drawn[id(step)] for step in self.steps)
            label = module if stack == module else f"{stack}.{module}"
            lines.append(f"{label:<16} x{self.shape.depth(stack):<3} {row}")
        return lines

    def as_json(self, accounting: Accounting = "post-projection") -> dict[str, Any]:
        """The plan's facts for other programs: FLOPs in units of 10^12, sizes in bytes, steps from 0."""
        return {
            "model": self.shape.name,
            "method": self.whole_method.as_json(),
            "steps": self.requested_steps,
            "full_steps": list(self.full_steps),
            "step_kinds": "".join(LETTERS[kind] for kind in self.kinds),
            "tokens": self.tokens(),
            "token_share": self.token_share(),
            "accounting": accounting,
            "tflops": self.flops(accounting) / 1e12,
            "tflops_pre_projection": self.flops("pre-projection") / 1e12,
            "tflops_scores": self.score_flops / 1e12,
            "tflops_matching": self.matching_flops / 1e12,
            "merged_share": self.merged_share,
            "tflops_plain": self.plain_flops / 1e12,
            "flops_ratio": self.flops_ratio(accounting),
            "cache_bytes": self.cache_bytes,
            "store": asdict(self.store),
            "dropped": [str(site) for site in self.shape.sites() if site in self.dropped],
        }
