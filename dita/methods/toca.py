"""ToCa: cached steps that compute some of the tokens; and the scores that choose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, get_args

from dita.families import FAMILIES, Phase
from dita.methods.full_steps import ChosenSteps, chosen_positions, first_difference
from dita.methods.method import (
    checked_run,
    warn_of_a_plan_that_saves_nothing,
)
from dita.methods.parameters import Count, Cycle, Order, Range, Scale, Seed, Warmup, Weight
from dita.methods.taylorseer import formed
from dita.plan import Action, Basis, Forecast, Plan, Step, full_step
from dita.schedules import RatioSchedule, fresh_share, fresh_tokens, layer_position, varies_by_step
from dita.shapes import Kind, Shape, Site

Score = Literal[
    "attention-sampled",
    "attention",
    "k-norm",
    "v-norm",
    "kv-norm",
    "norm",
    "similarity",
    "random",
    "uniform",
    "cluster",
    "duplication",
    "frame-uniqueness",
]
SCORES: tuple[Score, ...] = get_args(Score)
LIVE_SCORES: tuple[Score, ...] = ("norm", "similarity")
"""Scores that need the tokens of the cached step itself: all others are known at the full step."""
PROBED_SCORES: tuple[Score, ...] = ("attention-sampled", "attention", "k-norm", "v-norm", "kv-norm")
"""Scores that are collected inside the attention of a full step."""
FEATURE_SCORES: tuple[Score, ...] = ("cluster", "duplication", "frame-uniqueness")
"""Scores of what a module put out in the full step."""
ATTENTION_SCORES: tuple[Score, ...] = ("attention-sampled", "attention")
"""s1, attention received, or s2, entropy of the attention to the text, by family (`Family.attention_score`)."""
_RATIO = Range(0, 1, why="0.9 computes 10 % of the tokens")


@dataclass(frozen=True)
class ToCa(ChosenSteps):
    """Token-wise feature caching (ToCa, ICLR 2025, arXiv 2410.05317).

    A full step, then `cycle` - 1 cached ones: self-attention is reused whole; cross-attention and MLP compute the
    tokens with the highest scores and reuse their stored output for the others. Each module selects for itself.

    Fields:
        cycle: N, full steps are N apart (at least 1; 1 is the plain pipeline). On PixArt and DiT it is the N that the
            papers' N(s) varies over the run.
        ratio: R, the caching ratio in [0, 1]: 0.9 computes 10 % of the tokens on a cached step, before `schedule`.
        score: what makes a token worth computing (section 3.2). `attention`: the attention it receives, exact,
            by a second pass, and on PixArt and Open-Sora the entropy of its attention to the text; `attention-sampled`:
            the same from 32 to 128 queries (the entropy is exact); `k-norm`, `v-norm`: large keys, values; `kv-norm`:
            small values; `norm`: large hidden states; `similarity`: least like the stored output; `random`; `uniform`:
            spread evenly over the grid, and over the frames of a video, another offset each time; `cluster`: one of
            each of 16 clusters of the module's output, then a second of each; `duplication`: least like 8 tokens
            spread evenly; `frame-uniqueness`: videos only, least like the mean of their frame and of the video.
        schedule: how the share of computed tokens varies over steps, layers and modules; `toca`
            is the paper's for each family, on DiT that for 50 DDIM steps or, beyond 100 steps, for 250 DDPM steps.
        age_weight: lambda_3 (section 3.2, s3): added to a score for each `cycle` steps that the token was not computed.
        spatial_bonus: s4: in each cell of image tokens, of each frame, the best one's score is multiplied by 1 + bonus.
            None is the paper's: none on FLUX and Open-Sora, 0.4 on PixArt, 0.6 on DiT. 0 turns it off.
        spatial_grid: side of the cells of `spatial_bonus`, in image tokens. None is the paper's: 4 on PixArt, 2 on the
            others.
        warmup: full steps at the start; None is the reference's: 3 on FLUX (1 where no token is ever computed, R = 1)
            and on Open-Sora, else 1.
        cross_cycle: N of cross-attention; None is the reference's: twice `cycle` on Open-Sora, else `cycle`. Where
            `full_steps` are chosen, None is all of them; a number leaves out those that come too soon for it.
        forecast: order of the forecast that stands in for what is not computed, as TaylorSeer's: 0 is the paper's plain
            reuse. Tokens that are computed correct their own forecasts to come.
        basis: of the forecast: `taylor` is x^i, `hermite` the scaled Hermite polynomials, as TaylorSeer's.
        scale: of `hermite`, in (0, 1]: c of c^i H_i(c x).
        seed: of the random and uniform scores.
        ratios: R of each cached step, in order, in place of `ratio`; in short ratios=0.9/0.8/1.0. It needs
            `full_steps`, and has one R for each step that is not among these, of DuCa's aggressive steps too, where it
            decides nothing. `ratio` then counts in chosen steps that `cross_cycle` leaves out. In a run of another
            number of steps, a cached step takes the R of the one at the nearest noise level, aggressive ones left out.
        strict: reproduce the quirks of the reference code, for parity: the layer divisor 27 at every depth; on PixArt
            and DiT steps that are full in the first layer only; on PixArt tokens scored anew in cached steps; where
            the score is not the entropy, each half of a guided call selects for itself.
    """

    name: ClassVar[str] = "toca"
    positional: ClassVar[tuple[str, ...]] = ("cycle", "ratio", "score")
    paper: ClassVar[str] = "Zou et al., Accelerating Diffusion Transformers with Token-wise Feature Caching, ICLR 2025"

    cycle: Cycle = 4
    ratio: Annotated[float, _RATIO] = 0.9
    score: Score = "attention-sampled"
    schedule: RatioSchedule = "toca"
    age_weight: Weight = 0.25
    spatial_bonus: Weight | None = None
    spatial_grid: Count | None = None
    warmup: Warmup | None = None
    cross_cycle: Count | None = None
    forecast: Order = 0
    basis: Basis = "taylor"
    scale: Scale = 0.5
    seed: Seed = 0
    strict: bool = False
    full_steps: tuple[int, ...] | None = field(default=None, kw_only=True)
    full_of: int | None = field(default=None, kw_only=True)
    ratios: Annotated[tuple[float, ...], _RATIO] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_full_steps()
        self._check_ratios()

    def _check_ratios(self) -> None:
        if self.ratios is None:
            return
        if self.full_steps is None:
            raise ValueError("ratios are those of the steps between full_steps: give both, got ratios alone")
        if not self.ratios:
            raise ValueError("ratios must be one for each cached step, such as 0.9/0.8, got none")
        if self.full_of is not None:
            self._check_count_of_ratios(self.full_of)

    def _check_count_of_ratios(self, steps: int) -> None:
        """Raises `ValueError` unless there is one ratio for each cached step of the run of full_steps."""
        full, given = len(self.full_steps or ()), len(self.ratios or ())
        if given != steps - full:
            raise ValueError(
                f"ratios must be one for each of the {steps - full} cached steps of {steps} steps with {full}"
                f" full_steps, got {given}"
            )

    @property
    def fresh_ratio(self) -> float:
        """r = 1 - R, without the rounding noise of the subtraction."""
        return _fresh(self.ratio)

    @property
    def computes_tokens(self) -> bool:
        """Whether any cached step computes tokens, whatever its schedule."""
        return any(_fresh(ratio) > 0 for ratio in ((self.ratio,) if self.ratios is None else self.ratios))

    def spatial(self, family: str) -> tuple[float, int]:
        """(bonus, cell) of s4 for a family: the given ones, else the paper's."""
        settings = FAMILIES[family]
        bonus = settings.bonus if self.spatial_bonus is None else self.spatial_bonus
        return bonus, settings.cell if self.spatial_grid is None else self.spatial_grid

    def scores_entropy(self, shape: Shape) -> bool:
        """Whether the score is s2, the entropy of a token's attention to the text."""
        return self.score in ATTENTION_SCORES and FAMILIES[shape.family].attention_score == "entropy"

    def check_family(self, family: str) -> None:
        super().check_family(family)
        if self.score == "frame-uniqueness" and family != "opensora":
            raise ValueError(f"score 'frame-uniqueness' compares the frames of a video, and {family} makes pictures")

    def selects_live(self, shape: Shape) -> bool:
        return self.score in LIVE_SCORES or self.rescores(shape)

    def rescores(self, shape: Shape) -> bool:
        return self.strict and self.scores_entropy(shape)

    def keeps_scores(self, shape: Shape) -> bool:
        other_cycle = len(set(self.cycles(shape).values())) > 1
        other_steps = self.full_steps is not None and self.cross_cycle is not None
        return self.score in PROBED_SCORES and (other_cycle or other_steps or self.rescores(shape))

    def shares_halves(self, shape: Shape) -> bool:
        return shape.rows > shape.batch and (not self.strict or self.scores_entropy(shape))

    def cycles(self, shape: Shape) -> dict[str, int]:
        """N of every module."""
        cycles = {site.module: self.cycle for site in shape.sites()}
        if "cross_attn" in cycles:
            apart = self.cycle > 1 and self.full_steps is None
            published = self.cycle * FAMILIES[shape.family].cross_cycles if apart else self.cycle
            cycles["cross_attn"] = self.cross_cycle or published
        return cycles

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        self.check_family(shape.family)
        chosen = self.chosen_steps(shape, steps, timesteps)
        return self.planned(shape, steps, chosen, self._fresh_ratios(shape, steps, timesteps, chosen))

    def _fresh_ratios(
        self, shape: Shape, steps: int, timesteps: Sequence[float] | None, chosen: tuple[int, ...] | None
    ) -> list[float]:
        """r of every step of a run."""
        fresh = [self.fresh_ratio] * steps
        if self.ratios is None or chosen is None:
            return fresh
        if self.full_of is None:
            self._check_count_of_ratios(steps)
        of = self.full_of or steps
        full = set(self.full_steps or ())
        given = dict(zip((step for step in range(of) if step not in full), self.ratios, strict=True))
        among = self.token_steps(shape.family, of) or tuple(given)
        nearest = self.nearest_steps(among, shape, steps, timesteps)
        for step in set(range(steps)) - set(chosen):
            fresh[step] = _fresh(given[nearest[step]])
        return fresh

    def token_steps(self, family: str, steps: int) -> tuple[int, ...]:
        """The cached steps between chosen ones, in the run of `steps` that these are for, that may compute tokens."""
        full = set(self.full_steps or ())
        return tuple(step for step in range(steps) if step not in full)

    def planned(self, shape: Shape, steps: int, chosen: tuple[int, ...] | None, fresh: Sequence[float]) -> Plan:
        """The plan with full steps that are `chosen` or, where that is None, those of the cycle.

        fresh: r of every step.
        """
        phases = self._phases(shape, steps, chosen)
        places = None if chosen is None else _places(self.positions(shape, steps, self.cycle, chosen))
        full, varies = full_step(shape), varies_by_step(self.schedule, shape.family, steps)
        taken: list[Step] = []
        same: dict[object, Step] = {}
        for s in range(steps):
            now = {module: of_module[s] for module, of_module in phases.items()}
            if set(now.values()) == {Phase.FULL}:
                taken.append(full)
                continue
            key = (*now.values(), fresh[s], s if varies else None)
            if key not in same:
                cached = self._cached_step(shape, s, steps, fresh[s], None if places is None else places[s])
                same[key] = {site: full[site] if _is_full(site, now[site.module]) else cached[site] for site in full}
            taken.append(same[key])
        warmup = self._warmup(shape.family)
        forecast = None
        if self.forecast:
            since = max(warmup - 1, 1) if chosen is None else first_difference(chosen, warmup)
            forecast = formed(Forecast(self.forecast, self.basis, self.scale, since), taken, self.label())
        plan = Plan(self, shape, tuple(taken), steps, forecast=forecast)
        warn_of_a_plan_that_saves_nothing(plan, self.cycle, warmup)
        return plan

    def _phases(self, shape: Shape, steps: int, chosen: tuple[int, ...] | None) -> dict[str, list[Phase]]:
        """What each step of a run is for each module."""
        cycles = self.cycles(shape)
        lists = {cycle: self.positions(shape, steps, cycle, chosen) for cycle in set(cycles.values())}
        phases = {module: [phase for phase, _ in lists[cycle]] for module, cycle in cycles.items()}
        if chosen is not None and self.cross_cycle is not None and "cross_attn" in phases:
            fewer = _in_time(chosen, self.cross_cycle, self._warmup(shape.family))
            phases["cross_attn"] = [phase for phase, _ in chosen_positions(fewer, steps)]
        return phases

    def varies_cycle(self, family: str) -> bool:
        """Whether the cycle follows the family's N(s), if it has one."""
        return self.computes_tokens

    def positions(
        self, shape: Shape, steps: int, cycle: int, chosen: tuple[int, ...] | None = None
    ) -> list[tuple[Phase, int]]:
        """What each step of a run is for the modules of one cycle, or between `chosen` steps; and its position."""
        settings = FAMILIES[shape.family]
        if chosen is not None:
            return chosen_positions(chosen, steps, settings.counts_down)
        return settings.positions(
            steps,
            cycle,
            warmup=self._warmup(shape.family),
            varying=self.varies_cycle(shape.family),
            strict=self.strict,
        )

    def _warmup(self, family: str) -> int:
        settings = FAMILIES[family]
        return self.warmup or (settings.warmup if self.computes_tokens else settings.reuse_warmup)

    def _cached_step(self, shape: Shape, step: int, steps: int, fresh: float, within: float | None) -> Step:
        actions = {}
        for site in shape.sites():
            tokens = 0
            if shape.selects(site.module):
                share = fresh_share(
                    self.schedule,
                    fresh,
                    family=shape.family,
                    module=site.module,
                    position=layer_position(shape.family, site.stack, site.layer, shape.depth(site.stack), self.strict),
                    step=step,
                    steps=steps,
                    cycle=self.cycle,
                    within=within,
                )
                tokens = fresh_tokens(share, shape.tokens(site.module))
            stored = Kind.FORECAST if self.forecast else Kind.REUSE
            actions[site] = Action(Kind.PARTIAL if tokens else stored, tokens)
        return actions


def _fresh(ratio: float) -> float:
    """r = 1 - R, without the rounding noise of the subtraction."""
    return round(1 - ratio, 12)


def _places(positions: Sequence[tuple[Phase, int]]) -> list[float]:
    """Where each step is between two full ones, from 0 to 1."""
    full = [s for s, (phase, _) in enumerate(positions) if phase is Phase.FULL]
    gaps = [end - start for start, end in pairwise((*full, len(positions))) for _ in range(start, end)]
    return [position / gap for (_, position), gap in zip(positions, gaps, strict=True)]


def _in_time(chosen: Sequence[int], cycle: int, warmup: int) -> tuple[int, ...]:
    """Those of the chosen steps that a module has which is full no more than once in `cycle` steps, after the start.

    They are the first at or behind each multiple of `cycle`.
    """
    return tuple(step for before, step in pairwise((-1, *chosen)) if step < warmup or step // cycle > before // cycle)


def _is_full(site: Site, phase: Phase) -> bool:
    return phase is Phase.FULL or (phase is Phase.FIRST_LAYER and site.layer == 0)
