"""Named ratio schedules of ToCa: what share of the tokens is computed at (step, layer, module)."""

from __future__ import annotations

import struct
from typing import Literal, get_args

RatioSchedule = Literal["toca", "constant", "linear", "exp", "linear-mode", "layerwise", "linear-layerwise"]
RATIO_SCHEDULES: tuple[RatioSchedule, ...] = get_args(RatioSchedule)

_WEIGHT = 0.9  # `w` of the ToCa repository
_REFERENCE_DEPTH = {("flux", "double"): 19, ("flux", "single"): 38}
_DIVISOR = 27  # the repository divides every layer number by 27, the last layer of DiT-XL/2


def layer_position(family: str, stack: str, layer: int, depth: int, strict: bool) -> float:
    """The `l / 27` of the schedules.

    The divisor is hard-coded in the reference, whatever the depth; `strict` keeps it. Otherwise the profile is
    stretched over the model's own depth, which changes nothing at the depths that the schedules were made for.
    """
    reference = _REFERENCE_DEPTH[family, stack]
    if strict or depth == reference:
        return layer / _DIVISOR
    return layer * (reference - 1) / ((depth - 1) or 1) / _DIVISOR


def fresh_share(
    schedule: RatioSchedule,
    fresh_ratio: float,
    *,
    family: str,
    stack: str,
    position: float,
    step: int,
    steps: int,
    cycle: int,
) -> float:
    """Share of tokens to compute, before clipping to [0, 1] (spec/methods.md 1.4 and 5.2).

    `fresh_ratio` is r = 1 - R, `position` what `layer_position` returns.
    """
    w, progress = _WEIGHT, step / steps
    if schedule == "constant":
        return fresh_ratio
    if schedule == "linear":
        return fresh_ratio * (1 + w - 2 * w * progress)
    if schedule == "exp":
        return fresh_ratio * w**progress
    if schedule == "linear-mode":
        return fresh_ratio * (1 + w - 2 * w * progress + 0.1 * ((step % cycle) / cycle - 0.5))
    if schedule == "layerwise":
        return fresh_ratio * (1 + w - 2 * w * position)
    if schedule == "linear-layerwise":
        return fresh_ratio * (1.6 - 1.2 * position) * (1.9 - 1.8 * progress) * 1.6
    return fresh_ratio * (1.5 - position) * (0.4 if stack == "double" else 1.6)


def fresh_tokens(share: float, tokens: int) -> int:
    """k = trunc(float32(share) * float32(tokens)), in single precision as the reference computes it."""
    clipped = _float32(min(max(_float32(share), 0.0), 1.0))
    return int(_float32(clipped * tokens))  # the product of two float32 is exact in a double before it is rounded


def _float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]
