"""What takes part in a benchmark: the plain transformer, dita's methods and its controls, and what each claims to skip.

Every contender has a twin of the model, modules of its own over the same weights, so that none can touch another.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

import dita
from dita.bench.counting import StepCount
from dita.caching.adapters import adapter_for
from dita.methods import Method
from dita.plan import Plan
from dita.shapes import Kind

Role = Literal["plain", "control", "method", "rival"]


class Refused(ValueError):
    """A contender cannot run on this model; the message says why."""


@dataclass(frozen=True)
class Claim:
    """What one step is said to execute: rows of each kind of layer, and the kind of step (`full`, `cached` ...)."""

    kind: str
    rows: Mapping[str, int]


def full_claim(plain: StepCount) -> Claim:
    """A step that executes what the plain transformer does."""
    return Claim("full", dict(plain.rows))


class Contender:
    """One row of a benchmark. See `sampling.Sampled` for what a run asks of it.

    Attributes:
        label: what the row is called.
        role: plain; control, which must cost what plain does; method of dita; rival.
        model: the transformer that is called, `module` without what compiled it around it.
        steps: transformer calls of a run.
        fullgraph: whether it should compile without a break.
    """

    role: Role = "plain"
    fullgraph = True

    def __init__(self, label: str, module: nn.Module, steps: int) -> None:
        self.label = label
        self.module = module
        self.model: Any = module
        self.steps = steps

    def reset(self) -> None:
        """Forgets what a run left."""

    def before_step(self, step: int) -> None:
        """Told the number of the coming step."""

    def context(self) -> AbstractContextManager[Any]:
        """What surrounds each transformer call."""
        return nullcontext()

    def claims(self, plain: StepCount, counted: Sequence[StepCount]) -> list[Claim]:
        """What each step of the run that was `counted` is said to execute, where the plain one executes `plain`."""
        return [full_claim(plain)] * self.steps


class Control(Contender):
    """dita without effect: attached with a method that skips nothing, or detached again."""

    role: Role = "control"

    def __init__(self, module: nn.Module, steps: int, *, attached: bool) -> None:
        super().__init__("attached, N = 1" if attached else "disabled", module, steps)
        dita.enable(module, dita.ToCa(1, 0.9), steps=steps)
        if not attached:
            dita.disable(module)


class Accelerated(Contender):
    """A method of dita."""

    role: Role = "method"

    def __init__(self, module: nn.Module, method: Method, plan: Plan, timesteps: Sequence[float]) -> None:
        super().__init__(method.label(), module, method.run_steps(len(timesteps)))
        self.method = method
        self.plan = plan
        halves = getattr(plan.shape, "guided", False)
        # a pipeline tells all of these itself
        dita.enable(module, method, steps=len(timesteps), timesteps=timesteps, guided_halves=halves)

    def claims(self, plain: StepCount, counted: Sequence[StepCount]) -> list[Claim]:
        return [_planned(self.plan, step) for step in range(self.steps)]


def _planned(plan: Plan, number: int) -> Claim:
    """The rows of one step of a plan, as hooks on the first linear layers of its modules count them."""
    rows: Counter[str] = Counter()
    shape = plan.shape
    share = shape.rows * plan.row_share(number)
    for site, action in plan.steps[number].items():
        short = plan.merged_modules(site) if action.merged else frozenset[str]()
        if site.module == "single" or site.module == "attn":
            attended = shape.tokens(site.module)
            if site.module == "attn" and shape.family == "flux":  # queries of the text have a layer of their own
                attended = shape.tokens("mlp")
            attended -= action.merged * ("attn" in short)
            rows["attn"] += round(share * attended * (action.kind is Kind.FULL))
        if site.module != "attn":
            kind = site.module if site.module == "cross_attn" else "mlp"
            merged = action.merged * (site.module != "single" or "mlp" in short)
            rows[kind] += round(share * (action.tokens - merged))
    return Claim(plan.kinds[number].value, dict(rows))


def twin(model: nn.Module) -> nn.Module:
    """Modules of their own over the same parameters and buffers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer in the order of execution."""
    return [block for _, _, block in adapter_for(model).blocks(model)]


def check(contender: Contender, plain: StepCount, counted: Sequence[StepCount]) -> list[Claim]:
    """The claims of a contender, once they are seen to be true. Raises `Refused` where a step did something else."""
    if len(counted) != contender.steps:
        raise Refused(f"it ran {len(counted)} steps, not {contender.steps}")
    claims = contender.claims(plain, counted)
    for step, (claim, count) in enumerate(zip(claims, counted, strict=True)):
        kinds = {**claim.rows, **count.rows}
        wrong = [kind for kind in kinds if claim.rows.get(kind, 0) != count.rows.get(kind, 0)]
        if wrong:
            told = ", ".join(f"{count.rows.get(k, 0)} rows of {k}, not {claim.rows.get(k, 0)}" for k in sorted(wrong))
            raise Refused(f"it does not do what it claims: step {step}, said to be {claim.kind}, executed {told}")
    return claims
