"""DuCa: ToCa's partial steps in turn with steps that pass all blocks by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from dita.families import FAMILIES, Phase
from dita.methods.full_steps import chosen_positions
from dita.methods.parameters import Cycle
from dita.methods.toca import Score, ToCa
from dita.plan import Action, Plan, Span, Step, blocks_of
from dita.shapes import Kind, Shape

Aggressive = Literal["skip", "reuse"]
AGGRESSIVE: tuple[Aggressive, ...] = get_args(Aggressive)


@dataclass(frozen=True)
class DuCa(ToCa):
    """Dual caching (DuCa, arXiv 2412.18911): the cached steps of a cycle are aggressive and conservative in turn.

    A conservative step is ToCa's: some tokens are computed. An aggressive one skips all blocks, and the hidden state
    behind the last of them is that of the last step that ran them. FLUX begins a cycle with an aggressive step; on the
    others steps of an odd number in their cycle are conservative, where DiT counts down.

    Fields:
        cycle: N, full steps are N apart (at least 1). Constant on PixArt; on DiT the N that is varied over the run.
        ratio: R, the caching ratio of the conservative steps, in [0, 1], before `schedule`.
        score: as ToCa's. The default, `kv-norm`, prefers small values, and needs no attention map.
        aggressive: `skip` all blocks, or `reuse` the stored output of every module with today's gates.
        spatial_bonus: as ToCa's, but None is 0.8 on DiT.
        strict: reproduce the quirks of the reference code: ToCa's; on FLUX a skipping step leaves out the last block,
            for it stores what enters that; on PixArt `kv-norm` is averaged over the halves of a guided call.
    """

    name: ClassVar[str] = "duca"
    positional: ClassVar[tuple[str, ...]] = ("cycle", "ratio", "score")
    paper: ClassVar[str] = "Zou et al., Accelerating Diffusion Transformers with Dual Feature Caching, arXiv 2412.18911"

    cycle: Cycle = 5
    score: Score = "kv-norm"
    aggressive: Aggressive = "skip"

    def spatial(self, family: str) -> tuple[float, int]:
        bonus, cell = super().spatial(family)
        published = FAMILIES[family].duca_bonus
        return (published if self.spatial_bonus is None and published is not None else bonus), cell

    def varies_cycle(self, family: str) -> bool:
        return super().varies_cycle(family) and FAMILIES[family].duca_varies

    def shares_halves(self, shape: Shape) -> bool:
        averaged = shape.family == "pixart" and self.score == "kv-norm" and shape.rows > shape.batch
        return averaged or super().shares_halves(shape)

    def planned(self, shape: Shape, steps: int, chosen: tuple[int, ...] | None, fresh: Sequence[float]) -> Plan:
        plan = super().planned(shape, steps, chosen, fresh)
        blocks = blocks_of(shape)
        source = blocks[-2] if self.strict and shape.family == "flux" else None
        span = Span(blocks[0], blocks[-1], source=source)
        taken, skips = list(plan.steps), {}
        positions = self.positions(shape, steps, self.cycle, chosen)
        for s, (phase, position) in enumerate(positions):
            if phase is Phase.FULL or not self._is_aggressive(shape.family, position):
                continue
            taken[s] = self._aggressive_step(taken[s])
            if self.aggressive == "skip":
                skips[s] = replace(span, first=blocks[1]) if phase is Phase.FIRST_LAYER else span
        return replace(plan, steps=tuple(taken), skips=skips)

    def token_steps(self, family: str, steps: int) -> tuple[int, ...]:
        positions = chosen_positions(self.full_steps or (0,), steps, FAMILIES[family].counts_down)
        return tuple(
            step for step in super().token_steps(family, steps) if not self._is_aggressive(family, positions[step][1])
        )

    def _is_aggressive(self, family: str, position: int) -> bool:
        return position % 2 == (1 if FAMILIES[family].counter else 0)

    def _aggressive_step(self, step: Step) -> Step:
        kind = Kind.SKIP if self.aggressive == "skip" else Kind.FORECAST if self.forecast else Kind.REUSE
        first = next(iter(step))
        full_first = step[first].kind is Kind.FULL  # a step that is full in the first layer only
        return {
            site: action if full_first and site.layer == 0 and action.kind is Kind.FULL else Action(kind, 0)
            for site, action in step.items()
        }
