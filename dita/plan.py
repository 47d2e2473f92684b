"""The plan of one sampling run: what happens at every (step, layer, module), as plain Python data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from dita.shapes import Accounting, Kind, Shape, Site

if TYPE_CHECKING:
    from dita.methods import Method, ToMe

_LETTERS = {Kind.FULL: "F", Kind.PARTIAL: "p", Kind.REUSE: "."}


class Action(NamedTuple):
    """What one site does in one step, how many tokens of a sample it computes, and how many it has merged away."""

    kind: Kind
    tokens: int
    merged: int = 0


Step = Mapping[Site, Action]
Block = tuple[str, int]
"""(stack, layer)."""


def full_step(shape: Shape) -> Step:
    """The step of the plain pipeline: every site computes all its tokens."""
    return {site: Action(Kind.FULL, shape.tokens(site.module)) for site in shape.sites()}


def step_kind(step: Step) -> Kind:
    """FULL if all sites are, PARTIAL if any computes some of its tokens, else REUSE."""
    kinds = {action.kind for action in step.values()}
    if kinds == {Kind.FULL}:
        return Kind.FULL
    return Kind.PARTIAL if len(kinds) > 1 or Kind.PARTIAL in kinds else Kind.REUSE


@dataclass(frozen=True)
class Plan:
    """All actions of one sampling run, built before it starts.

    `requested_steps` is the number of steps that the plain pipeline would take; `steps` may hold fewer. `merging` is
    the token merging that goes with `method`, if any.
    """

    method: Method
    shape: Shape
    steps: tuple[Step, ...]
    requested_steps: int
    merging: ToMe | None = None

    @property
    def whole_method(self) -> Method:
        """`method` and `merging` as one."""
        return self.method if self.merging is None else self.merging.beside(self.method)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(step_kind(step) for step in self.steps)

    @property
    def full_steps(self) -> tuple[int, ...]:
        return tuple(s for s, kind in enumerate(self.kinds) if kind is Kind.FULL)

    @cached_property
    def kept(self) -> tuple[frozenset[Site], ...]:
        """Per step: the sites whose output a later step uses before it is computed in full again."""
        needed: set[Site] = set()
        per_step: list[frozenset[Site]] = []
        for step in reversed(self.steps):
            per_step.append(frozenset(site for site in needed if step[site].kind is Kind.FULL))
            needed = {site for site, action in step.items() if action.kind is not Kind.FULL}
        return tuple(reversed(per_step))

    def cycle_tokens(self, step: int, site: Site) -> tuple[int, ...]:
        """Tokens to compute at `site` in the cached steps that follow `step`, until the next full one there."""
        return self._coming[step].get(site, ())

    @cached_property
    def _coming(self) -> tuple[dict[Site, tuple[int, ...]], ...]:
        coming: dict[Site, tuple[int, ...]] = {}
        per_step = []
        for step in reversed(self.steps):
            per_step.append(coming)
            coming = {
                site: (action.tokens, *coming.get(site, ()))
                for site, action in step.items()
                if action.kind is not Kind.FULL
            }
        return tuple(reversed(per_step))

    def scores_at(self, step: int, stack: str, layer: int, score: str) -> bool:
        """Whether a block, whose scored module is full at `step`, must score its tokens there."""
        source = Site(stack, layer, self.shape.score_source(stack, score))
        if self.steps[step][source].kind is not Kind.FULL:
            return False
        sites = (site for site in self.shape.sites() if (site.stack, site.layer) == (stack, layer))
        return self.scores_later(step, stack, layer) or any(any(self.cycle_tokens(step, site)) for site in sites)

    def scores_later(self, step: int, stack: str, layer: int) -> bool:
        """Whether a site of a block selects tokens at a later step, before the block's scored module is full again.

        So it is where modules have cycles of their own: cross-attention is scored, say, and the MLP is full sooner.
        """
        return step < len(self.steps) and (stack, layer) in self._scored_later[step]

    @cached_property
    def _scored_later(self) -> tuple[frozenset[tuple[str, int]], ...]:
        score = getattr(self.method, "score", None)
        later: set[tuple[str, int]] = set()
        per_step: list[frozenset[tuple[str, int]]] = []
        for step, actions in reversed(list(enumerate(self.steps))) if score is not None else ():
            per_step.append(frozenset(later))
            coming = self._coming[step]
            for site, action in actions.items():
                if action.kind is Kind.FULL and any(coming.get(site, ())):
                    later.add((site.stack, site.layer))
            for site, action in actions.items():
                if action.kind is Kind.FULL and site.module == self.shape.score_source(site.stack, str(score)):
                    later.discard((site.stack, site.layer))
        return tuple(reversed(per_step)) or (frozenset(),) * len(self.steps)

    def flops(self, accounting: Accounting = "post-projection") -> float:
        """FLOPs of the run's transformer calls, scores not included. `pre-projection` is the ToCa repository's way."""
        return sum(self.step_flops(step, accounting) for step in self.steps)

    def step_flops(self, step: Step, accounting: Accounting = "post-projection") -> float:
        sites = sum(self._site_flops(site, action, accounting) for site, action in step.items())
        return sites + self.shape.step_flops()

    def _site_flops(self, site: Site, action: Action, accounting: Accounting) -> float:
        if action.merged:
            return self.shape.merged_flops(site, self.merged_modules(site), action.merged)
        return self.shape.flops(site, action.kind, action.tokens, accounting)

    def merged_modules(self, site: Site) -> frozenset[str]:
        """What a site that merges tokens computes on the merged ones: of `attn`, `cross_attn` and `mlp`."""
        return self.merging.modules_at(site, self.shape) if self.merging is not None else frozenset()

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
        return sum(self.matched_flops(blocks) for blocks in self.matched)

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
        for step in self.steps:
            for site, action in step.items():
                if action.merged and self.merging is not None:
                    cells = self.shape.cells(site.stack, self.merging.stride)
                    merged, total = merged + action.merged, total + cells.tokens * cells.sequences
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
        rescored = self.method.rescores(self.shape)
        for s, step in enumerate(self.steps):
            scoring = {
                (stack, layer)
                for stack in self.shape.stacks
                for layer in range(self.shape.depth(stack))
                if self._coming[s] and self.scores_at(s, stack, layer, score)
            }
            for site, action in step.items():
                if (site.stack, site.layer) in scoring:
                    total += self.shape.score_flops(site, score)
                elif rescored and action.kind is Kind.PARTIAL:
                    total += self.shape.score_flops(site, score, action.tokens)
        return total

    @property
    def cache_bytes(self) -> int:
        """Bytes of stored features and of selected token numbers, at most, while the plan runs."""
        kinds: dict[Site, set[Kind]] = {site: set() for site in self.shape.sites()}
        for step in self.steps:
            for site, action in step.items():
                kinds[site].add(action.kind)
        features = {site: self.shape.feature_bytes(site, frozenset(kinds[site])) for site in kinds}
        index_bytes = self._live_index_bytes() if self.method.selects_live(self.shape) else self._queue_bytes()
        score_bytes = self._score_bytes() if self.method.keeps_scores(self.shape) else 0
        held = []
        kept = (self._matching_bytes(groups) for groups in self.matchings_kept)
        for step, coming, index, matchings in zip(self.steps, self._coming, index_bytes, kept, strict=True):
            stored = {site for site, action in step.items() if action.kind is not Kind.FULL} | set(coming)
            held.append(sum(features[site] for site in stored) + bool(stored) * score_bytes + index + matchings)
        return max(held)

    def _matching_bytes(self, groups: frozenset[Block]) -> int:
        """Bytes of the matchings of `groups`: token numbers in 8 bytes, sizes in 4."""
        if self.merging is None:
            return 0
        total = 0
        for stack, _ in groups:
            cells = self.shape.cells(stack, self.merging.stride)
            merged = cells.tokens - cells.removed(self.merging.ratio)
            total += (16 * cells.tokens + 4 * merged) * cells.sequences
        return total * self.shape.rows * self.shape.branches

    def _queue_bytes(self) -> list[int]:
        """After each step: the token numbers of the cached steps to come."""
        return [8 * sum(map(sum, coming.values())) * self.shape.rows for coming in self._coming]

    def _score_bytes(self) -> int:
        """One number a token in each block."""
        score = getattr(self.method, "score", "")
        sources = ((stack, self.shape.score_source(stack, score)) for stack in self.shape.stacks)
        numbers = sum(self.shape.tokens(module) * self.shape.depth(stack) for stack, module in sources)
        return 4 * numbers * self.shape.rows

    def _live_index_bytes(self) -> list[int]:
        """In each step: its own token numbers, and the ages of all tokens."""
        choosing = self.shape.batch if self.method.shares_halves(self.shape) else self.shape.rows
        aged: set[Site] = set()
        held = []
        for step in self.steps:
            partial = {site: action.tokens for site, action in step.items() if action.kind is Kind.PARTIAL}
            aged = {site for site in aged if step[site].kind is not Kind.FULL} | set(partial)
            ages = sum(4 * self.shape.tokens(site.module) for site in aged) * choosing
            held.append(8 * sum(partial.values()) * self.shape.rows + ages)
        return held

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

        F full, M full on merged tokens, f full in some layers only, p partial, . reuse.
        """
        lines = []
        modules = dict.fromkeys((site.stack, site.module) for site in self.shape.sites())
        order = list(_LETTERS)
        for stack, module in modules:
            row = ""
            for step in self.steps:
                actions = [a for site, a in step.items() if (site.stack, site.module) == (stack, module)]
                kinds = {action.kind for action in actions}
                merged = any(action.merged for action in actions)
                letter = "M" if merged else _LETTERS[min(kinds, key=order.index)]
                row += letter if len(kinds) == 1 else letter.lower()
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
            "step_kinds": "".join(_LETTERS[kind] for kind in self.kinds),
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
        }
