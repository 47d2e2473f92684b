"""What a sampling run really did: actions, FLOPs, bytes and seconds, all from the executed steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

import torch
from torch import Tensor

from dita.caching.broken import steps_text
from dita.caching.token_record import TokenRecord
from dita.methods import Method
from dita.plan import LETTERS, Plan, letters
from dita.shapes import Kind, Shape, Site
from dita.stores import Store


@dataclass
class Executed:
    """One transformer call.

    Attributes:
        step, branch: denoising step, and which call of the step (1: the second one of true CFG).
        kind: what the step was.
        seconds: duration of the call.
        flops, plain_flops, score_flops: FLOPs of the call, of the same call in full, and added by scoring tokens.
        matching_flops: FLOPs added by matching tokens that are to be merged.
        tokens, all_tokens: computed, and present, in the modules that can select tokens, over all layers.
        merged_tokens, mergeable_tokens: merged away, and present, in the modules that merge tokens, over all layers.
    """

    step: int
    branch: int
    kind: Kind
    seconds: float
    flops: float
    plain_flops: float
    score_flops: float
    tokens: int
    all_tokens: int
    matching_flops: float = 0.0
    merged_tokens: int = 0
    mergeable_tokens: int = 0


@dataclass
class Summary:
    """What one sampling run executed.

    Attributes:
        method: the method that ran.
        shape: sizes of the model and of the first transformer call's input; None if nothing ran.
        plan: of the first transformer call, what was to be done; None if nothing ran.
        executed: every transformer call, in order.
        cache_bytes: peak bytes of stored features and selected token numbers, measured.
        store: how features were kept.
        dropped: sites that were computed in full to stay below the store's `max_cache_bytes`.
        repeats: steps of the plain pipeline for each step taken (2.0 for half of the steps).
        guarded: the steps that the drift guard had computed in full, where the plan had them cached; their FLOPs and
            seconds hold those of the cached call that was thrown away.
        broken: the steps in which the transformer put out NaN or infinity.
        departures: what ran otherwise than planned, a line a call: blocks that another cache or hook passed by, calls
            that the plan does not know. Empty, as it should be, where `ran_as_planned`.
        tokens: with `record=True`, which tokens were computed at each step and site, and which merged.
    """

    method: Method
    shape: Shape | None = None
    executed: list[Executed] = field(default_factory=list)
    cache_bytes: int = 0
    store: Store = field(default_factory=Store)
    dropped: int = 0
    repeats: float = 1.0
    tokens: TokenRecord | None = None
    plan: Plan | None = None
    guarded: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    departures: list[str] = field(default_factory=list)

    def after(self, earlier: Summary | None) -> Summary:
        """Both as one: what a call executed that samples several times. `tokens` and `plan` are of the last time."""
        if earlier is not None:
            taken = earlier.steps
            self.guarded = (*earlier.guarded, *(taken + step for step in self.guarded))
            self.broken = (*earlier.broken, *(taken + step for step in self.broken))
            self.executed = earlier.executed + self.executed
            self.cache_bytes = max(self.cache_bytes, earlier.cache_bytes)
            self.dropped = max(self.dropped, earlier.dropped)
            self.departures = earlier.departures + self.departures
        return self

    @cached_property
    def selections(self) -> dict[tuple[int, Site], Tensor]:
        """With `record=True`, (step, site) -> selected token numbers (B, k) on the CPU, ascending."""
        chosen = self.tokens.selections() if self.tokens is not None else ()
        return {(step, site): torch.from_numpy(index) for step, site, index in chosen}

    @property
    def steps(self) -> int:
        return len(self.kinds)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What each step was, in order."""
        return tuple(call.kind for call in self.executed if call.branch == 0)

    @property
    def ran_as_planned(self) -> bool:
        """Whether every call ran the blocks, and stored the outputs, that the plan says."""
        return not self.departures

    @property
    def said_departures(self) -> str:
        """What ran otherwise than planned, in a sentence; empty where nothing did."""
        if not self.departures:
            return ""
        others = f", and {len(self.departures) - 1} more" if len(self.departures) > 1 else ""
        return (
            f"{self.method.label()} did not run as planned ({self.departures[0]}{others}): something else decides what"
            " is computed, and the figures of this run are not the method's"
        )

    @property
    def flops(self) -> float:
        """FLOPs of the transformer calls, scores not included."""
        return sum(call.flops for call in self.executed)

    @property
    def plain_flops(self) -> float:
        """FLOPs that the plain pipeline would have taken for the same part of the schedule."""
        return sum(call.plain_flops for call in self.executed) * self.repeats

    @property
    def score_flops(self) -> float:
        """FLOPs that scoring tokens added."""
        return sum(call.score_flops for call in self.executed)

    @property
    def matching_flops(self) -> float:
        """FLOPs that matching tokens added, for merging."""
        return sum(call.matching_flops for call in self.executed)

    @property
    def merged_share(self) -> float:
        """Image tokens merged away, over all there, in the modules and steps that merge any."""
        present = sum(call.mergeable_tokens for call in self.executed)
        return sum(call.merged_tokens for call in self.executed) / present if present else 0.0

    @property
    def token_share(self) -> float:
        """Tokens computed on cached steps, over all tokens there, in the modules that can select; 1 without any."""
        cached = [call for call in self.executed if call.kind is not Kind.FULL]
        return sum(c.tokens for c in cached) / sum(c.all_tokens for c in cached) if cached else 1.0

    @property
    def seconds(self) -> dict[Kind, list[float]]:
        """Seconds of the transformer calls by kind of step."""
        by_kind: dict[Kind, list[float]] = {}
        for call in self.executed:
            by_kind.setdefault(call.kind, []).append(call.seconds)
        return by_kind

    def __repr__(self) -> str:
        """In one line; `str` has all of it."""
        if not self.executed:
            return f"<Summary of {self.method.label()}: nothing executed>"
        said = [f"{self.steps} steps {letters(self.kinds)}"]
        if self.flops:
            said.append(f"{self.plain_flops / self.flops:.2f} times fewer FLOPs")
        said.append(f"cache {self.cache_bytes / 2**20:.4g} MiB")
        said.append(f"{sum(call.seconds for call in self.executed):.3g} s in the transformer")
        if self.broken:
            said.append("BROKEN NUMBERS")
        if not self.ran_as_planned:
            said.append("NOT AS PLANNED")
        model = f" on {self.shape.name}" if self.shape else ""
        return f"<Summary of {self.method.label()}{model}: {', '.join(said)}>"

    def _repr_html_(self) -> str:
        from dita.plots.notebook import summary_html  # which draws: notebooks alone need it

        return summary_html(str(self), self.plan)

    def __str__(self) -> str:
        counts = Counter(self.kinds)
        lines = [
            f"{self.method.label()}: {self.steps} steps executed: "
            + ", ".join(f"{count} {kind.value}" for kind, count in counts.items()),
            f"  steps             {''.join(LETTERS[kind] for kind in self.kinds)}",
            f"  tokens computed   {self.token_share:.1%} of those that could be selected, on cached steps",
        ]
        if self.guarded:
            count = len(self.guarded)
            lines.append(f"  guarded           {count} cached by plan, computed in full: {steps_text(self.guarded)}")
        if self.broken:
            lines.append(f"  BROKEN NUMBERS    NaN or infinity put out in {steps_text(self.broken)}")
        if self.flops:
            lines.append(
                f"  FLOPs             {self.flops / 1e12:.4g} T (plain {self.plain_flops / 1e12:.4g} T, ratio"
                f" {self.plain_flops / self.flops:.2f}); scores add {self.score_flops / 1e12:.3g} T"
            )
        if self.merged_share:
            lines.append(
                f"  tokens merged     {self.merged_share:.1%} of the image tokens, where merged; matching adds"
                f" {self.matching_flops / 1e12:.3g} T"
            )
        kept = "" if self.store == Store() else f" ({self.store})"
        lines.append(f"  cache, peak       {self.cache_bytes / 2**20:.2f} MiB{kept}")
        if self.dropped and self.store.max_cache_bytes is not None:
            lines.append(
                f"  computed in full  {self.dropped} of {len(self.shape.sites()) if self.shape else 0} sites, to stay"
                f" below {self.store.max_cache_bytes / 2**20:.2f} MiB"
            )
        lines += [
            f"  {kind.value:<9} step    {median(times) * 1e3:.2f} ms (median of {len(times)} transformer calls)"
            for kind, times in self.seconds.items()
        ]
        if not self.ran_as_planned:
            lines.append(f"  NOT AS PLANNED    {self.said_departures}")
        return "\n".join(lines)
