"""T-GATE: cross-attention that ends when it has said what it has to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from dita.methods.method import Method, checked_run
from dita.methods.parameters import Count, StepNumber
from dita.plan import Action, Plan, full_step
from dita.shapes import Kind, Shape


class _Settings(NamedTuple):
    gate: float  # as a share of the steps
    warmup: int
    interval: int
    after: int


_PUBLISHED = {
    "pixart": _Settings(15 / 25, 2, 3, 1),
    "opensora": _Settings(13 / 30, 0, 2, 1),
}


@dataclass(frozen=True)
class TGate(Method):
    """Cross-attention is reused from the gate on (T-GATE, arXiv 2404.02747).

    Before the gate, self-attention is reused in most steps instead. On PixArt guidance ends at the gate, as published:
    both halves go on as one, whose stored outputs are the mean of theirs. Open-Sora keeps its guidance, as in PAB's
    comparison.

    Fields:
        gate: m, the first step that reuses cross-attention; at most the number of steps. None is 15 of 25 on PixArt, 13
            of 30 on Open-Sora.
        warmup: w, the step before which self-attention is always computed; None is 2 on PixArt, 0 on Open-Sora.
        interval: p, before the gate self-attention is computed in the steps that p divides; None is 3 on PixArt, 2 on
            Open-Sora.
        after: f, from the gate on self-attention is computed in the steps that f divides; 1 computes it always.
        cross_interval: Open-Sora: cross-attention is computed again in the steps that it divides; None is never. 12 is
            the setting of the published FLOPs, which the released code does not reach.
        strict: reproduce the reference on Open-Sora, whose stored self-attention keeps the gate of the step that
            computed it, in place of today's.
    """

    name: ClassVar[str] = "tgate"
    positional: ClassVar[tuple[str, ...]] = ("gate",)
    paper: ClassVar[str] = "Liu et al., Faster Diffusion via Temporal Attention Decomposition, arXiv 2404.02747"
    families: ClassVar[tuple[str, ...]] = ("pixart", "opensora")
    why_not: ClassVar[str] = "it gates cross-attention, and that family has none"

    gate: Count | None = None
    warmup: StepNumber | None = None
    interval: Count | None = None
    after: Count | None = None
    cross_interval: Count | None = None
    strict: bool = False

    def keeps_gates(self, shape: Shape) -> bool:
        return self.strict and shape.family == "opensora"

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        self.check_family(shape.family)
        published = _PUBLISHED[shape.family]
        gate = self.gate or max(1, round(published.gate * steps))
        if gate > steps:
            raise ValueError(f"gate must be at most the number of steps, {steps}, got {gate}")
        # the part of perturbed attention is no guidance by text: it goes on, and so do the others
        joins = shape.family == "pixart" and getattr(shape, "guided", False) and not getattr(shape, "perturbed", False)
        if self.cross_interval is not None and shape.family == "pixart":
            raise ValueError(
                f"cross_interval={self.cross_interval} is for opensora: on pixart guidance ends at the gate, and"
                " there is no text to attend to any more"
            )
        warmup = published.warmup if self.warmup is None else self.warmup
        interval, after = self.interval or published.interval, self.after or published.after

        def computes(module: str, s: int) -> bool:
            if module == "cross_attn":
                return s < gate or (self.cross_interval is not None and s % self.cross_interval == 0)
            if module != "attn" or s <= warmup or s == gate - 1:
                return True
            return s % (interval if s < gate else after) == 0

        taken = tuple(
            {
                site: action if computes(site.module, s) else Action(Kind.REUSE, 0)
                for site, action in full_step(shape).items()
            }
            for s in range(steps)
        )
        return Plan(self, shape, taken, steps, joined=gate if joins and gate < steps else None)
