"""The accelerations by name: each method is one frozen dataclass that turns a model's shape into a plan."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

from dita.families import FAMILIES, Phase
from dita.plan import Action, Plan, Step, full_step
from dita.schedules import RATIO_SCHEDULES, RatioSchedule, fresh_share, fresh_tokens, layer_position
from dita.shapes import Kind, Shape, Site

Score = Literal[
    "attention-sampled", "attention", "k-norm", "v-norm", "kv-norm", "norm", "similarity", "random", "uniform"
]
SCORES: tuple[Score, ...] = get_args(Score)
LIVE_SCORES: tuple[Score, ...] = ("norm", "similarity")
"""Scores that need the tokens of the cached step itself: all others are known at the full step."""
PROBED_SCORES: tuple[Score, ...] = ("attention-sampled", "attention", "k-norm", "v-norm", "kv-norm")
"""Scores that are collected inside the attention of a full step."""
ATTENTION_SCORES: tuple[Score, ...] = ("attention-sampled", "attention")
"""s1, attention received, or s2, entropy of the attention to the text, by family (`Family.attention_score`)."""


class NothingToSkipWarning(UserWarning):
    """The method's cycle is so long, or the run so short, that every step is computed in full."""


@dataclass(frozen=True)
class Method:
    """A named acceleration with its parameters."""

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()  # fields in the order in which `parse` reads them

    def plan(self, shape: Shape, steps: int) -> Plan:
        """All actions of a run of `steps` denoising steps. Raises `ValueError` for `steps` below 1."""
        raise NotImplementedError

    def run_steps(self, steps: int) -> int:
        """How many steps the sampler takes when the plain pipeline would take `steps`."""
        return steps

    def selects_live(self, shape: Shape) -> bool:
        """Whether tokens are selected in each cached step, not for a whole cycle at its full step."""
        return False

    def rescores(self, shape: Shape) -> bool:
        """Whether tokens that a cached step computes are scored again there."""
        return False

    def keeps_scores(self, shape: Shape) -> bool:
        """Whether collected scores are needed beyond the selection that follows them."""
        return False

    def shares_halves(self, shape: Shape) -> bool:
        """Whether the two halves of a guided call compute the same tokens."""
        return False

    def as_json(self) -> dict[str, Any]:
        """The method as JSON-ready data; `from_json` reads it back."""
        return {"method": self.name, **dataclasses.asdict(self)}

    def label(self) -> str:
        """The short form that `parse` reads back: the name and whatever differs from the defaults."""
        parts = [self.name]
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        changed = {f: v for f in defaults if (v := getattr(self, f)) != defaults[f] or f in self.positional}
        last = max((self.positional.index(f) for f in changed if f in self.positional), default=-1)
        while last >= 0 and getattr(self, self.positional[last]) == defaults[self.positional[last]]:
            last -= 1
        parts += [str(getattr(self, f)) for f in self.positional[: last + 1]]
        parts += [f"{f}={json.dumps(v).strip(chr(34))}" for f, v in changed.items() if f not in self.positional]
        return ":".join(parts)


@dataclass(frozen=True)
class Plain(Method):
    """The pipeline as it is: every step in full."""

    name: ClassVar[str] = "plain"

    def plan(self, shape: Shape, steps: int) -> Plan:
        _check_steps(steps)
        return Plan(self, shape, (full_step(shape),) * steps, steps)


@dataclass(frozen=True)
class FewerSteps(Method):
    """The honest rival of every cache: the same sampler with a `fraction` of the steps, spaced anew by itself.

    `fraction` in (0, 1]; the number of steps is rounded, and at least 1.
    """

    name: ClassVar[str] = "steps"
    positional: ClassVar[tuple[str, ...]] = ("fraction",)

    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")

    def run_steps(self, steps: int) -> int:
        return max(1, round(steps * self.fraction))

    def plan(self, shape: Shape, steps: int) -> Plan:
        _check_steps(steps)
        return Plan(self, shape, (full_step(shape),) * self.run_steps(steps), steps)


@dataclass(frozen=True)
class FORA(Method):
    """Whole-step caching (FORA, arXiv 2407.01425): a full step, then `cycle` - 1 that reuse every module's output.

    The first step is full, on Open-Sora the first three. FLUX counts from the last full step; the others take the
    steps whose number is a multiple of `cycle`, DiT counting down to 0, so that its last step is full.
    """

    name: ClassVar[str] = "fora"
    positional: ClassVar[tuple[str, ...]] = ("cycle",)

    cycle: int = 3

    def __post_init__(self) -> None:
        _check_count("cycle", self.cycle, "1 is the plain pipeline")

    def plan(self, shape: Shape, steps: int) -> Plan:
        full = full_step(shape)
        reuse: Step = {site: Action(Kind.REUSE, 0) for site in full}
        _check_steps(steps)
        settings = FAMILIES[shape.family]
        warmup = settings.reuse_warmup
        phases = settings.phases(steps, self.cycle, warmup=warmup, varying=False, strict=False)
        plan = Plan(self, shape, tuple(full if phase is Phase.FULL else reuse for phase in phases), steps)
        _warn_of_a_plan_that_saves_nothing(plan, self.cycle, warmup)
        return plan


@dataclass(frozen=True)
class ToCa(Method):
    """Token-wise feature caching (ToCa, ICLR 2025, arXiv 2410.05317).

    A full step, then `cycle` - 1 cached ones: self-attention is reused whole; cross-attention and MLP compute the
    tokens with the highest scores and reuse their stored output for the others. Each module selects for itself.

    Fields:
        cycle: N, full steps are N apart (at least 1; 1 is the plain pipeline). On PixArt and DiT it is the N that the
            papers' N(s) varies over the run.
        ratio: R, the caching ratio in [0, 1]: 0.9 computes 10 % of the tokens on a cached step, before `schedule`.
        score: what makes a token worth computing (section 3.2). `attention`: the attention it receives, exact,
            by a second pass, and on PixArt and Open-Sora the entropy of its attention to the text; `attention-sampled`:
            the same from 256 queries (the entropy is exact); `k-norm`, `v-norm`: large keys, values; `kv-norm`: small
            values; `norm`: large hidden states; `similarity`: least like the stored output; `random`; `uniform`: spread
            evenly over the grid, and over the frames of a video, another offset each time.
        schedule: how the share of computed tokens varies over steps, layers and modules; `toca`
            is the paper's for each family, on DiT that for 50 DDIM steps or, beyond 100 steps, for 250 DDPM steps.
        age_weight: lambda_3 (section 3.2, s3): added to a score for each `cycle` steps that the token was not computed.
        spatial_bonus, spatial_grid: s4: in each cell of grid x grid image tokens, of each frame, the best one's score
            is multiplied by 1 + bonus. None is the paper's setting: none on FLUX and Open-Sora, 0.4 and 4 on PixArt,
            0.6 and 2 on DiT. 0 turns it off.
        warmup: full steps at the start; None is the reference's: 3 on FLUX (1 where no token is ever computed, R = 1)
            and on Open-Sora, else 1.
        cross_cycle: N of cross-attention; None is the reference's: twice `cycle` on Open-Sora, else `cycle`.
        seed: of the random and uniform scores.
        strict: reproduce the quirks of the reference code, for parity: the layer divisor 27 at every depth; on PixArt
            and DiT steps that are full in the first layer only; on PixArt tokens scored anew in cached steps; where
            the score is not the entropy, each half of a guided call selects for itself.
    """

    name: ClassVar[str] = "toca"
    positional: ClassVar[tuple[str, ...]] = ("cycle", "ratio", "score")

    cycle: int = 4
    ratio: float = 0.9
    score: Score = "attention-sampled"
    schedule: RatioSchedule = "toca"
    age_weight: float = 0.25
    spatial_bonus: float | None = None
    spatial_grid: int | None = None
    warmup: int | None = None
    cross_cycle: int | None = None
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        _check_count("cycle", self.cycle, "1 is the plain pipeline")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio must be in [0, 1] (0.9 computes 10 % of the tokens), got {self.ratio}")
        _check_choice("score", self.score, SCORES)
        _check_choice("schedule", self.schedule, RATIO_SCHEDULES)
        _check_weight("age_weight", self.age_weight)
        if self.spatial_bonus is not None:
            _check_weight("spatial_bonus", self.spatial_bonus)
        if self.spatial_grid is not None:
            _check_count("spatial_grid", self.spatial_grid)
        if self.warmup is not None:
            _check_count("warmup", self.warmup, "the first step is always full")
        if self.cross_cycle is not None:
            _check_count("cross_cycle", self.cross_cycle)

    @property
    def fresh_ratio(self) -> float:
        """r = 1 - R, without the rounding noise of the subtraction."""
        return round(1 - self.ratio, 12)

    def spatial(self, family: str) -> tuple[float, int]:
        """(bonus, cell) of s4 for a family: the given ones, else the paper's."""
        settings = FAMILIES[family]
        bonus = settings.bonus if self.spatial_bonus is None else self.spatial_bonus
        return bonus, settings.cell if self.spatial_grid is None else self.spatial_grid

    def scores_entropy(self, shape: Shape) -> bool:
        """Whether the score is s2, the entropy of a token's attention to the text."""
        return self.score in ATTENTION_SCORES and FAMILIES[shape.family].attention_score == "entropy"

    def selects_live(self, shape: Shape) -> bool:
        return self.score in LIVE_SCORES or self.rescores(shape)

    def rescores(self, shape: Shape) -> bool:
        return self.strict and self.scores_entropy(shape)

    def keeps_scores(self, shape: Shape) -> bool:
        other_cycle = len(set(self.cycles(shape).values())) > 1
        return self.score in PROBED_SCORES and (other_cycle or self.rescores(shape))

    def shares_halves(self, shape: Shape) -> bool:
        return shape.rows > shape.batch and (not self.strict or self.scores_entropy(shape))

    def cycles(self, shape: Shape) -> dict[str, int]:
        """N of every module."""
        cycles = {site.module: self.cycle for site in shape.sites()}
        if "cross_attn" in cycles:
            published = self.cycle * FAMILIES[shape.family].cross_cycles if self.cycle > 1 else 1
            cycles["cross_attn"] = self.cross_cycle or published
        return cycles

    def plan(self, shape: Shape, steps: int) -> Plan:
        _check_steps(steps)
        settings = FAMILIES[shape.family]
        warmup = self.warmup or (settings.warmup if self.fresh_ratio else settings.reuse_warmup)
        cycles = self.cycles(shape)
        phases = {
            cycle: settings.phases(steps, cycle, warmup=warmup, varying=self.fresh_ratio > 0, strict=self.strict)
            for cycle in cycles.values()
        }
        full = full_step(shape)
        taken: list[Step] = []
        for s in range(steps):
            now = {module: phases[cycle][s] for module, cycle in cycles.items()}
            if set(now.values()) == {Phase.FULL}:
                taken.append(full)
                continue
            cached = self._cached_step(shape, s, steps)
            taken.append({site: full[site] if _is_full(site, now[site.module]) else cached[site] for site in full})
        plan = Plan(self, shape, tuple(taken), steps)
        _warn_of_a_plan_that_saves_nothing(plan, self.cycle, warmup)
        return plan

    def _cached_step(self, shape: Shape, step: int, steps: int) -> Step:
        actions = {}
        for site in shape.sites():
            tokens = 0
            if shape.selects(site.module):
                share = fresh_share(
                    self.schedule,
                    self.fresh_ratio,
                    family=shape.family,
                    module=site.module,
                    position=layer_position(shape.family, site.stack, site.layer, shape.depth(site.stack), self.strict),
                    step=step,
                    steps=steps,
                    cycle=self.cycle,
                )
                tokens = fresh_tokens(share, shape.tokens(site.module))
            actions[site] = Action(Kind.PARTIAL if tokens else Kind.REUSE, tokens)
        return actions


METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (Plain, FewerSteps, FORA, ToCa)}
"""Every method by the name that the command line and JSON use."""


def from_json(data: dict[str, Any]) -> Method:
    """The method that `Method.as_json` wrote. Raises `ValueError` for unknown names, fields or values."""
    fields = dict(data)
    return _build(fields.pop("method", None), fields)


def parse(text: str) -> Method:
    """A method from its short form: `plain`, `steps:0.5`, `fora:3`, `toca:4:0.9:random`, `toca:cycle=4:score=norm`.

    Raises `ValueError` that names what is wrong and what is allowed.
    """
    name, *parts = text.strip().split(":")
    cls = METHODS.get(name)
    if cls is None:
        raise _unknown_method(name)
    values: dict[str, Any] = {}
    for position, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            if position >= len(cls.positional):
                form = ":".join((name, *cls.positional))
                raise ValueError(f"method {text!r} has too many values; its form is {form!r}")
            key, value = cls.positional[position], part
        values[key] = _literal(value)
    return _build(name, values)


def _build(name: str | None, fields: dict[str, Any]) -> Method:
    cls = METHODS.get(name or "")
    if cls is None:
        raise _unknown_method(name)
    types = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    for key, value in fields.items():
        if key not in types:
            raise ValueError(f"method {name!r} has no parameter {key!r}; it has: {', '.join(types) or 'none'}")
        fields[key] = _checked(name, key, value, types[key])
    return cls(**fields)


def _checked(name: str | None, key: str, value: Any, annotation: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if annotation.startswith("float") and number:
        return float(value)
    matches = {
        "float": False,
        "float | None": value is None,
        "int": number and value == int(value),
        "int | None": value is None or (number and value == int(value)),
        "bool": isinstance(value, bool),
    }.get(annotation, True)  # a choice, which the method checks itself
    if not matches:
        kind = {"float": "a number", "float | None": "a number", "bool": "true or false"}.get(
            annotation, "a whole number"
        )
        raise ValueError(f"parameter {key!r} of method {name!r} must be {kind}, got {value!r}")
    return int(value) if annotation.startswith("int") and value is not None else value


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _unknown_method(name: str | None) -> ValueError:
    return ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {steps}")


def _check_count(field_name: str, value: object, why: str = "") -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{field_name} must be a whole number, at least 1{f' ({why})' if why else ''}, got {value}")


def _check_weight(field_name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{field_name} must be a finite number, at least 0, got {value}")


_T = TypeVar("_T")


def _check_choice(field_name: str, value: _T, allowed: tuple[_T, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {field_name} {value!r}; known: {', '.join(map(str, allowed))}")


def _is_full(site: Site, phase: Phase) -> bool:
    return phase is Phase.FULL or (phase is Phase.FIRST_LAYER and site.layer == 0)


def _warn_of_a_plan_that_saves_nothing(plan: Plan, cycle: int, warmup: int) -> None:
    if cycle > 1 and set(plan.kinds) == {Kind.FULL}:
        steps = len(plan.steps)
        warnings.warn(
            f"{plan.method.label()} saves nothing in {steps} steps: the first {min(warmup, steps)} are full;"
            " take more steps, or a smaller warmup",
            NothingToSkipWarning,
            stacklevel=4,
        )
