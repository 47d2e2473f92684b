"""The plan of one sampling run: what happens at every (step, layer, module), as plain Python data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from dita.shapes import Accounting, Kind, Shape, Site

if TYPE_CHECKING:
    from dita.methods import Method

_LETTERS = {Kind.FULL: "F", Kind.PARTIAL: "p", Kind.REUSE: "."}


class Action(NamedTuple):
    """What one site does in one step, and how many tokens of a sample it computes."""

    kind: Kind
    tokens: int


Step = Mapping[Site, Action]


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

    `requested_steps` is the number of steps that the plain pipeline would take; `steps` may hold fewer.
    """

    method: Method
    shape: Shape
    steps: tuple[Step, ...]
    requested_steps: int

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
        """Tokens to select in the cached steps that follow the full step `step`, until the next full one."""
        counts = []
        for later in self.steps[step + 1 :]:
            if later[site].kind is Kind.FULL:
                break
            counts.append(later[site].tokens)
        return tuple(counts)

    def flops(self, accounting: Accounting = "post-projection") -> float:
        """FLOPs of the run's transformer calls, scores not included. `pre-projection` is the ToCa repository's way."""
        return sum(self.step_flops(step, accounting) for step in self.steps)

    def step_flops(self, step: Step, accounting: Accounting = "post-projection") -> float:
        sites = sum(self.shape.flops(site, *action, accounting) for site, action in step.items())
        return sites + self.shape.step_flops()

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
        return sum(
            self.shape.score_flops(site, score)
            for s in range(len(self.steps))
            for site in self.kept[s]
            if any(self.cycle_tokens(s, site))
        )

    @property
    def cache_bytes(self) -> int:
        """Bytes of stored features and of selected token numbers, at most, while the plan runs."""
        cached: dict[Site, set[Kind]] = {site: set() for site in self.shape.sites()}
        for step in self.steps:
            for site, action in step.items():
                cached[site].add(action.kind)
        features = sum(self.shape.feature_bytes(site, frozenset(kinds)) for site, kinds in cached.items())
        return features + max(map(self._index_bytes, range(len(self.steps))), default=0)

    def _index_bytes(self, step: int) -> int:
        counts = {site: self.cycle_tokens(step, site) for site in self.kept[step]}
        if getattr(self.method, "selects_live", False):  # one step's rows, and the ages of all tokens, at a time
            live = [8 * max(c) + 4 * self.shape.tokens(site.module) for site, c in counts.items() if any(c)]
            return sum(live) * self.shape.batch
        return 8 * sum(map(sum, counts.values())) * self.shape.batch

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
        """Tokens per layer for each selecting module, at the first cached step that computes any."""
        cached = [step for step, kind in zip(self.steps, self.kinds, strict=True) if kind is not Kind.FULL]
        step = next((step for step in cached if any(a.tokens for a in step.values())), cached[0] if cached else {})
        counts: dict[str, list[int]] = {}
        for site, action in step.items():
            if self.shape.selects(site.module):
                counts.setdefault(site.module, []).append(action.tokens)
        return counts

    def map(self) -> list[str]:
        """A picture of the plan: one line for each stack and module, one character a step.

        F full, p partial, . reuse; layers that differ within a line show as the kind that computes most.
        """
        lines = []
        modules = dict.fromkeys((site.stack, site.module) for site in self.shape.sites())
        order = list(_LETTERS)
        for stack, module in modules:
            row = ""
            for step in self.steps:
                kinds = {a.kind for site, a in step.items() if (site.stack, site.module) == (stack, module)}
                row += _LETTERS[min(kinds, key=order.index)]
            label = module if stack == module else f"{stack}.{module}"
            lines.append(f"{label:<16} x{self.shape.depth(stack):<3} {row}")
        return lines

    def as_json(self, accounting: Accounting = "post-projection") -> dict[str, Any]:
        """The plan's facts for other programs: FLOPs in units of 10^12, sizes in bytes, steps from 0."""
        return {
            "model": self.shape.name,
            "method": self.method.as_json(),
            "steps": self.requested_steps,
            "full_steps": list(self.full_steps),
            "step_kinds": "".join(_LETTERS[kind] for kind in self.kinds),
            "tokens": self.tokens(),
            "token_share": self.token_share(),
            "accounting": accounting,
            "tflops": self.flops(accounting) / 1e12,
            "tflops_pre_projection": self.flops("pre-projection") / 1e12,
            "tflops_scores": self.score_flops / 1e12,
            "tflops_plain": self.plain_flops / 1e12,
            "flops_ratio": self.flops_ratio(accounting),
            "cache_bytes": self.cache_bytes,
        }
