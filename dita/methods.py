"""The accelerations by name: each method is one frozen dataclass that turns a model's shape into a plan."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

from dita.families import FAMILIES, Phase
from dita.merges import MACHINES, MachineName, joined, matching_seconds, merging_seconds
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


class MergingRefusedWarning(UserWarning):
    """Tokens are not merged, because matching them is expected to take longer than it saves."""


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

    @property
    def caching(self) -> Method:
        """The part that says what each site does in each step: the method itself, but for compositions."""
        return self

    @property
    def merging(self) -> ToMe | None:
        """The part that merges tokens, if any."""
        return None

    def on(self, device: str) -> Method:
        """The method as it is for a run on a device of this kind (`cpu`, `cuda` ...)."""
        return self

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
        fields = dataclasses.asdict(self).items()
        return {"method": self.name, **{f: list(v) if isinstance(v, tuple) else v for f, v in fields}}

    def label(self) -> str:
        """The short form that `parse` reads back: the name and whatever differs from the defaults."""
        parts = [self.name]
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        changed = {f: v for f in defaults if (v := getattr(self, f)) != defaults[f] or f in self.positional}
        last = max((self.positional.index(f) for f in changed if f in self.positional), default=-1)
        while last >= 0 and getattr(self, self.positional[last]) == defaults[self.positional[last]]:
            last -= 1
        parts += [str(getattr(self, f)) for f in self.positional[: last + 1]]
        parts += [f"{f}={short(v)}" for f, v in changed.items() if f not in self.positional]
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


@dataclass(frozen=True)
class ToMe(Method):
    """Token merging (ToMe for Stable Diffusion, arXiv 2303.17604): image tokens that are alike are computed as one.

    In each block, one token of each cell of the grid is a destination, and every other token finds the destination that
    it is most like. The `ratio` of the tokens that are most like theirs are averaged into them before a module, behind
    its norm and modulation, and get a copy of its output. Text is never merged. Beside a caching method, full steps
    merge: `[ToMe(), ToCa()]`, or `tome+toca` in short.

    Fields:
        ratio: share of the image tokens that is merged away, in [0, 1 - 1 / (tokens of a cell)].
        stride: a cell's (height, width) in image tokens, 2x2 in short. Videos are merged frame by frame; with a third
            number in front, (frames, height, width), the temporal blocks of Open-Sora merge along time, and their
            self-attention does so too.
        modules: what runs on merged tokens: `attn` (self-attention), `cross_attn`, `mlp`; attn/mlp in short. In FLUX's
            single-stream blocks attention and MLP stand side by side: either, or both and their common projection.
        reuse_steps: a matching serves this many steps, the one that computes it included.
        reuse_layers: neighbouring blocks of a stack that share one matching.
        proportional: a merged token counts in self-attention as often as it stands for tokens (arXiv 2210.09461,
            section 3), by an additive mask, which some attention backends do not take.
        random: a cell's destination is drawn anew for each matching; false takes the first of the cell.
        seed: of the draws, which all pictures of a batch share.
        force: merge also where the cost model says that it takes longer.
        machine: whose speed the cost model assumes: accelerator or cpu; by default that of the run, and an accelerator
            in a plan without one.
    """

    name: ClassVar[str] = "tome"
    positional: ClassVar[tuple[str, ...]] = ("ratio",)

    ratio: float = 0.5
    stride: tuple[int, ...] = (2, 2)
    modules: tuple[str, ...] = ("attn",)
    reuse_steps: int = 1
    reuse_layers: int = 1
    proportional: bool = False
    random: bool = True
    seed: int = 0
    force: bool = False
    machine: MachineName | None = None

    def __post_init__(self) -> None:
        for field in ("stride", "modules"):  # lists are as good, but have no hash
            if isinstance(getattr(self, field), list):
                object.__setattr__(self, field, tuple(getattr(self, field)))
        if not isinstance(self.stride, tuple) or len(self.stride) not in (2, 3):
            raise ValueError(f"stride must be (height, width) or (frames, height, width) of a cell, got {self.stride}")
        for size in self.stride:
            _check_count("each number of stride", size)
        cell = math.prod(self.stride)
        if not 0 <= self.ratio <= 1 - 1 / cell:
            raise ValueError(
                f"ratio must be in [0, {1 - 1 / cell:.4g}], as one of the {joined(self.stride)} tokens of a cell stays,"
                f" got {self.ratio}"
            )
        if not isinstance(self.modules, tuple) or not self.modules:
            raise ValueError(f"modules must be at least one of {', '.join(MERGED_MODULES)}, got {self.modules!r}")
        for module in self.modules:
            _check_choice("module to merge", module, MERGED_MODULES)
        _check_count("reuse_steps", self.reuse_steps, "1 matches in every step")
        _check_count("reuse_layers", self.reuse_layers, "1 matches in every block")
        _check_choice("machine", self.machine, (None, *MACHINES))

    @property
    def caching(self) -> Method:
        return Plain()

    @property
    def merging(self) -> ToMe | None:
        return self

    def on(self, device: str) -> ToMe:
        if self.machine is not None:
            return self
        return dataclasses.replace(self, machine="cpu" if device == "cpu" else "accelerator")

    def beside(self, method: Method) -> Method:
        """Both as one method."""
        return self if method == Plain() else Composition((self, method))

    def modules_at(self, site: Site, shape: Shape) -> frozenset[str]:
        """What of `modules` the site `site` computes, and can compute on merged tokens."""
        return shape.mergeable(site, self.stride) & set(self.modules)

    def plan(self, shape: Shape, steps: int) -> Plan:
        return self.merged(Plain().plan(shape, steps))

    def merged(self, plan: Plan) -> Plan:
        """`plan` with tokens merged at its full sites, where that pays or is forced.

        Raises `ValueError` for a module that the family does not have, and for a grid that the stride does not fit.
        """
        shape = plan.shape
        present = {site.module for site in shape.sites()} - {"single", "text_mlp"}
        for module in self.modules:
            if module not in present:
                has = ", ".join(known for known in MERGED_MODULES if known in present)
                raise ValueError(f"{self.label()} merges {module}, which {shape.family} does not have; it has {has}")
        merged = self._merged_in(plan, shape.stacks)
        if self.force:
            return merged
        costs = {stack: self._seconds(merged, stack) for stack in shape.stacks}
        refused = [stack for stack, (saved, cost, count) in costs.items() if count and cost >= saved]
        if refused:
            _warn_of_refused_merging(merged, {stack: costs[stack] for stack in refused})
        return self._merged_in(plan, tuple(stack for stack in shape.stacks if stack not in refused))

    def _merged_in(self, plan: Plan, stacks: Sequence[str]) -> Plan:
        shape = plan.shape
        cells = {stack: shape.cells(stack, self.stride) for stack in shape.stacks}
        removed = {
            site: cells[site.stack].removed(self.ratio) * cells[site.stack].sequences
            for site in shape.sites()
            if site.stack in stacks and self.modules_at(site, shape)
        }
        changed: dict[int, Step] = {}  # many steps of a plan are one object
        for step in plan.steps:
            if id(step) not in changed:
                changed[id(step)] = {
                    site: action._replace(merged=removed.get(site, 0)) if action.kind is Kind.FULL else action
                    for site, action in step.items()
                }
        return dataclasses.replace(plan, steps=tuple(changed[id(step)] for step in plan.steps), merging=self)

    def _seconds(self, plan: Plan, stack: str) -> tuple[float, float, int]:
        """Of merging in the blocks of `stack`: seconds that it saves in a run, seconds that it takes, and how many
        blocks merge."""
        shape, cells = plan.shape, plan.shape.cells(stack, self.stride)
        machine = MACHINES[self.machine or "accelerator"]
        matching = matching_seconds(
            cells, rows=shape.rows, width=shape.width, element_bytes=shape.element_bytes, machine=machine
        )
        merging = merging_seconds(
            cells,
            cells.removed(self.ratio),
            rows=shape.rows,
            width=shape.width,
            element_bytes=shape.element_bytes,
            machine=machine,
        )
        saved, sites, blocks = 0.0, 0, set()
        for s, step in enumerate(plan.steps):
            for site, action in step.items():
                if site.stack == stack and action.merged:
                    less = shape.flops(site, Kind.FULL, action.tokens)
                    less -= shape.merged_flops(site, plan.merged_modules(site), action.merged)
                    saved += machine.seconds(flops=less)
                    sites += 1
                    blocks.add((s, site.layer))
        matchings = sum(matched == stack for of_step in plan.matched for matched, _ in of_step)
        return saved, (matching * matchings + merging * sites) * shape.branches, len(blocks)


MERGED_MODULES = ("attn", "cross_attn", "mlp")
"""What `ToMe` can merge tokens in front of."""


@dataclass(frozen=True)
class Composition(Method):
    """Token merging beside a caching method: merged where a step computes in full, cached between.

    `methods`: one `ToMe`, and one method of another kind. Raises `ValueError` for two that claim the same sites.
    """

    name: ClassVar[str] = "composition"

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        merging = [method for method in self.methods if isinstance(method, ToMe)]
        others = [method for method in self.methods if not isinstance(method, ToMe)]
        for claimed, rivals in (("every block's modules", others), ("the merging of tokens", merging)):
            if len(rivals) > 1:
                first, second = (method.label() for method in rivals[:2])
                raise ValueError(
                    f"{first} and {second} both claim {claimed}: a composition takes one tome and one other method"
                )
        if not (merging and others):
            raise ValueError(f"a composition takes one tome and one other method, got {self.label() or 'none'}")
        object.__setattr__(self, "methods", (*merging, *others))

    @property
    def caching(self) -> Method:
        return self.methods[1]

    @property
    def merging(self) -> ToMe | None:
        return self.methods[0].merging

    def on(self, device: str) -> Method:
        return Composition(tuple(method.on(device) for method in self.methods))

    def run_steps(self, steps: int) -> int:
        return self.caching.run_steps(steps)

    def plan(self, shape: Shape, steps: int) -> Plan:
        assert self.merging is not None
        return self.merging.merged(self.caching.plan(shape, steps))

    def as_json(self) -> dict[str, Any]:
        return {"method": self.name, "methods": [method.as_json() for method in self.methods]}

    def label(self) -> str:
        return "+".join(method.label() for method in self.methods)


METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (Plain, FewerSteps, FORA, ToCa, ToMe)}
"""Every method by the name that the command line and JSON use."""

MethodLike: TypeAlias = Method | str | Sequence[Method | str]
"""A method, its short form, or several that work together."""


def as_method(given: MethodLike) -> Method:
    """The method that `given` stands for. Raises `ValueError` where it is none, or several that cannot be together."""
    if isinstance(given, Method):
        return given
    if isinstance(given, str):
        return parse(given)
    if not isinstance(given, Sequence):
        raise ValueError(f"method must be a dita method or its short form such as 'toca:4:0.9', got {given!r}")
    methods = tuple(method for method in map(as_method, given) if method != Plain())
    return methods[0] if len(methods) == 1 else Composition(methods)


def from_json(data: dict[str, Any]) -> Method:
    """The method that `Method.as_json` wrote. Raises `ValueError` for unknown names, fields or values."""
    fields = dict(data)
    if fields.get("method") == Composition.name:
        return Composition(tuple(from_json(part) for part in fields.get("methods", ())))
    return _build(fields.pop("method", None), fields)


def parse(text: str) -> Method:
    """A method from its short form: `plain`, `steps:0.5`, `fora:3`, `toca:4:0.9:random`, `toca:cycle=4:score=norm`.

    `tome:0.5+toca:4:0.9` are two that work together. Raises `ValueError` that names what is wrong and what is allowed.
    """
    together = re.split(r"\+(?=[a-z])", text)
    if len(together) > 1:
        return as_method(together)
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
    if annotation.startswith("tuple"):
        return _listed(name, key, value, whole="int" in annotation)
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


def _listed(name: str | None, key: str, value: Any, whole: bool) -> tuple[Any, ...]:
    """Whole numbers (`2x2` in short) or names (`attn/mlp` in short)."""
    parts = value.split("x" if whole else "/") if isinstance(value, str) else value
    if isinstance(parts, (list, tuple)):
        items = [_literal(part) if whole and isinstance(part, str) else part for part in parts]
        if all(isinstance(item, int if whole else str) and not isinstance(item, bool) for item in items):
            return tuple(items)
    kind = "whole numbers such as 2x2" if whole else "names such as attn/mlp"
    raise ValueError(f"parameter {key!r} of method {name!r} must be {kind}, got {value!r}")


def short(value: Any) -> str:
    """A parameter as `parse` reads it."""
    if isinstance(value, tuple):
        return joined(value) if all(isinstance(item, int) for item in value) else "/".join(value)
    return json.dumps(value).strip('"')


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


def _warn_of_refused_merging(plan: Plan, costs: dict[str, tuple[float, float, int]]) -> None:
    """`costs`: by stack, seconds saved and taken in a run, and the number of blocks that would merge in it."""
    assert plan.merging is not None
    machine, several = plan.merging.machine or "accelerator", len(plan.shape.stacks) > 1
    numbers = [
        f"{cost / count * 1e3:.3g} ms to save {saved / count * 1e3:.3g} ms in a {f'{stack} ' if several else ''}block"
        for stack, (saved, cost, count) in costs.items()
    ]
    warnings.warn(
        f"{plan.merging.label()} does not merge tokens of {plan.shape.name}, batch {plan.shape.batch}: matching and"
        f" merging would take {' and '.join(numbers)} (estimated, machine={machine!r}); larger reuse_steps and"
        " reuse_layers match less often, and force=True merges all the same",
        MergingRefusedWarning,
        stacklevel=4,
    )


def _warn_of_a_plan_that_saves_nothing(plan: Plan, cycle: int, warmup: int) -> None:
    if cycle > 1 and set(plan.kinds) == {Kind.FULL}:
        steps = len(plan.steps)
        warnings.warn(
            f"{plan.method.label()} saves nothing in {steps} steps: the first {min(warmup, steps)} are full;"
            " take more steps, or a smaller warmup",
            NothingToSkipWarning,
            stacklevel=4,
        )
