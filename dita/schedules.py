"""Named ratio schedules of ToCa: what share of the tokens is computed at (step, layer, module)."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from dita.families import DDIM50, DDPM250, FAMILIES, float32

RatioSchedule = Literal[
    "toca",
    "constant",
    "linear",
    "exp",
    "linear-mode",
    "layerwise",
    "linear-layerwise",
    "toca-ddim50",
    "toca-ddpm250",
]
RATIO_SCHEDULES: tuple[RatioSchedule, ...] = get_args(RatioSchedule)

_WEIGHT = 0.9  # `w` of the ToCa repository
_DIVISOR = 27  # the repository divides every layer number by 27, the last layer of DiT-XL/2


def layer_position(family: str, stack: str, layer: int, depth: int, strict: bool) -> float:
    """The `l / 27` of the schedules.

    The divisor is hard-coded in the reference, whatever the depth; `strict` keeps it. Otherwise the profile is
    stretched over the model's own depth, which changes nothing at the depths that the schedules were made for.
    """
    reference = FAMILIES[family].depth[stack]
    if strict or depth == reference:
        return layer / _DIVISOR
    return layer * (reference - 1) / ((depth - 1) or 1) / _DIVISOR


def varies_by_step(schedule: RatioSchedule, family: str, steps: int) -> bool:
    """Whether `fresh_share` is another one from step to step."""
    settings = FAMILIES[family]
    profile = {"toca": settings.toca_profile(steps), "linear-layerwise": settings.linear_layerwise}.get(schedule)
    return profile.step[1] != 0 if profile is not None else schedule not in ("constant", "layerwise")


def fresh_share(
    schedule: RatioSchedule,
    fresh_ratio: float,
    *,
    family: str,
    module: str,
    position: float,
    step: int,
    steps: int,
    cycle: int,
    within: float | None = None,
) -> float:
    """Share of tokens to compute, before clipping to [0, 1] (the profiles of the ToCa repository).

    `fresh_ratio` is r = 1 - R, `position` what `layer_position` returns, `step` counts from 0 in execution order.
    `within`: the step's place in its cycle, from 0 to 1, where that is not the rest of its number divided by `cycle`.
    `toca` and `linear-layerwise` are products of a step's, a layer's and a module's share, which differ by family;
    `toca-ddim50` and `toca-ddpm250` name DiT's two profiles of steps and layers.
    """
    settings = FAMILIES[family]
    number = settings.number(step, steps)
    w, progress = _WEIGHT, number / steps
    if schedule == "constant":
        return fresh_ratio
    if schedule == "linear":
        return fresh_ratio * (1 + w - 2 * w * progress)
    if schedule == "exp":
        return fresh_ratio * w**progress
    if schedule == "linear-mode":
        place = (number % cycle) / cycle if within is None else within
        return fresh_ratio * (1 + w - 2 * w * progress + 0.1 * (place - 0.5))
    if schedule == "layerwise":
        return fresh_ratio * (1 + w - 2 * w * position)
    if schedule == "linear-layerwise":
        return fresh_ratio * settings.linear_layerwise.share(progress, position, module)
    if schedule == "toca":
        return fresh_ratio * settings.toca_profile(steps).share(progress, position, module)
    if not settings.counts_down:
        progress = 1 - progress  # DiT's profiles are written for steps that count down
    named = DDIM50 if schedule == "toca-ddim50" else DDPM250
    profile = dataclasses.replace(named, weights=settings.toca.weights)
    return fresh_ratio * profile.share(progress, position, module)


def fresh_tokens(share: float, tokens: int) -> int:
    """k = trunc(float32(share) * float32(tokens)), in single precision as the reference computes it."""
    clipped = float32(min(max(float32(share), 0.0), 1.0))
    return int(float32(clipped * tokens))  # the product of two float32 is exact in a double before it is rounded
