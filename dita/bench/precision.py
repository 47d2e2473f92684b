"""How far runs in a narrow type end from the same runs in a wide one: the same weights, input and, where they can be,
computed tokens."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import dita
from dita.bench.budget import Budget, Clock, OutOfTime
from dita.bench.contenders import Contender, twin
from dita.bench.job import step_seconds
from dita.bench.sampling import sample
from dita.bench.workloads import Inputs, Workload
from dita.methods import Method, Plain

Selections = Mapping[Any, Tensor]
"""(step, site) -> the chosen token numbers of each sample, (B, k)."""


@dataclass(frozen=True)
class Deviation:
    """What the narrow type changed in one run.

    Attributes:
        label: of the method, or `plain`.
        error: distance of the final latents to those in the wide type, over the way of the latter from the noise (L2).
        over_plain: this over plain's.
        same_tokens: share of the tokens that the run in the wide type chose and the other one too; None where none are
            chosen. Scores are rounded as well; a method with score `random` or `uniform` chooses the same.
    """

    label: str
    error: float
    over_plain: float
    same_tokens: float | None


@torch.no_grad()
def precision(
    workload: Workload,
    methods: Sequence[Method],
    *,
    steps: int,
    dtype: torch.dtype = torch.bfloat16,
    wide: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float | None = None,
    clock: Clock = time.monotonic,
) -> list[Deviation]:
    """Plain's deviation, and that of each of `methods`. The weights are drawn in `dtype`, so that both types hold them.

    Raises `ValueError` for steps below 1, for the same type twice, and a method that the family does not have; and
    `OutOfTime` where it would take more than `seconds`.
    """
    if dtype == wide:
        raise ValueError(f"there is nothing between {dtype} and itself: choose a wider type")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for method in methods:
        method.check_family(workload.shape.family)
    budget = Budget(seconds, clock)
    model, inputs = workload.build(dtype, device), workload.inputs(dtype, device)
    exact_model = nn.Module.to(copy.deepcopy(model), wide)
    exact_inputs = {name: _widened(value, dtype, wide) for name, value in inputs.items()}
    if budget.limited:
        both = step_seconds(workload, model, inputs) + step_seconds(workload, exact_model, exact_inputs)
        needed = (1 + len(methods)) * steps * both  # each as long as plain, at most
        if needed > budget.left:
            raise OutOfTime(budget.too_short_for(needed))
    noise = exact_inputs["hidden_states"]
    found: list[Deviation] = []
    for method in (Plain(), *(method for method in methods if not isinstance(method, Plain))):
        exact, exact_tokens = _run(workload, exact_model, exact_inputs, method, steps)
        latents, tokens = _run(workload, model, inputs, method, steps)
        error = float((latents.to(wide) - exact).norm() / (exact - noise).norm())
        plain = found[0].error if found else error
        found.append(Deviation(method.label(), error, error / plain, same_tokens(tokens, exact_tokens)))
    return found


def same_tokens(tokens: Selections, others: Selections) -> float | None:
    """The share of the tokens in `others` that `tokens` has at the same place; None where there are none."""
    chosen = sum(index.numel() for index in others.values())
    if not chosen:
        return None
    shared = 0
    for place, index in others.items():
        for mine, theirs in zip(tokens[place], index, strict=True):
            shared += int(torch.isin(theirs, mine).sum())
    return shared / chosen


def _run(workload: Workload, model: nn.Module, inputs: Inputs, method: Method, steps: int) -> tuple[Tensor, Selections]:
    """The final latents, and the chosen tokens."""
    module = twin(model)
    if isinstance(method, Plain):
        return sample(workload, Contender("plain", module, steps), inputs).latents, {}
    dita.enable(module, method, steps=steps, record=True, guided_halves=getattr(workload.shape, "guided", False))
    latents = sample(workload, Contender(method.label(), module, method.run_steps(steps)), inputs).latents
    return latents, dita.summary(module, show=False).selections


def _widened(value: Any, narrow: torch.dtype, wide: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _widened(entry, narrow, wide) for name, entry in value.items()}
    return value.to(wide) if isinstance(value, Tensor) and value.dtype == narrow else value
