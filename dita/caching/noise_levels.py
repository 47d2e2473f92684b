"""Noise levels of a sampling run, and the linear maps between what a model predicts and what a forecast continues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dita.samplers import is_flow

LARGEST_LOG_SNR = 20.0
"""Where a step has no noise, or nothing but noise, its log-SNR is taken to be this, or minus this."""

Prediction = Literal["flow", "epsilon", "v_prediction", "sample"]


class NoiseLevel(NamedTuple):
    """The sample of one step is alpha x0 + sigma noise; `time` is its timestep."""

    time: float
    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """log(alpha / sigma), half of the logarithm of the signal-to-noise ratio."""
        if self.alpha <= 0 or self.sigma <= 0:
            return LARGEST_LOG_SNR if self.sigma <= 0 else -LARGEST_LOG_SNR
        return max(-LARGEST_LOG_SNR, min(LARGEST_LOG_SNR, math.log(self.alpha / self.sigma)))


@dataclass(frozen=True)
class Linear:
    """z = `of_sample` x + `of_output` y, with the scheduler's sample x and the model's output y."""

    of_sample: float
    of_output: float

    def forward(self, sample: Tensor, output: Tensor) -> Tensor:
        """z in 32 bits at least; the output itself where that is z."""
        if (self.of_sample, self.of_output) == (0.0, 1.0):
            return output
        wide = torch.promote_types(output.dtype, torch.float32)
        return self.of_output * output.to(wide) + self.of_sample * sample.to(wide)

    def back(self, sample: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
        """The output that has this `z`."""
        if (self.of_sample, self.of_output) == (0.0, 1.0):
            return z.to(dtype)
        return ((z - self.of_sample * sample.to(z.dtype)) / self.of_output).to(dtype)


OUTPUT = Linear(0.0, 1.0)


def prediction(scheduler: Any) -> Prediction:
    """What the model behind a scheduler predicts. Raises `ValueError` for what dita does not know."""
    if is_flow(scheduler):
        return "flow"
    found = scheduler.config.get("prediction_type", "epsilon")
    if found in ("epsilon", "v_prediction", "sample"):
        return found
    raise ValueError(f"{type(scheduler).__name__} with prediction_type={found!r} has no known map to x0 or velocity")


def noise_levels(scheduler: Any) -> list[NoiseLevel]:
    """Of each model evaluation that the scheduler's timesteps list.

    Read from the scheduler's noise levels where it has one for each, else from its table of all training timesteps.
    Raises `ValueError` where it has neither.
    """
    times = torch.as_tensor(scheduler.timesteps).double().cpu().tolist()
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) == len(times) + 1:
        values = torch.as_tensor(sigmas).double().cpu().tolist()[:-1]
        return [NoiseLevel(time, *_of_sigma(scheduler, sigma)) for time, sigma in zip(times, values, strict=True)]
    if is_flow(scheduler):
        scale = float(scheduler.config.get("num_train_timesteps", 1000))
        return [NoiseLevel(time, 1 - time / scale, time / scale) for time in times]
    cumulative = getattr(scheduler, "alphas_cumprod", None)
    if cumulative is None or max(times) > len(cumulative) - 1 or min(times) < 0:
        raise ValueError(f"{type(scheduler).__name__} does not tell the noise level of its steps")
    kept = [float(cumulative[round(time)]) for time in times]
    return [NoiseLevel(t, math.sqrt(a), math.sqrt(max(0.0, 1 - a))) for t, a in zip(times, kept, strict=True)]


def _of_sigma(scheduler: Any, sigma: float) -> tuple[float, float]:
    """alpha and sigma of the sample, from one entry of a scheduler's `sigmas`."""
    if is_flow(scheduler):
        return (sigma, 1 - sigma) if scheduler.config.get("invert_sigmas") else (1 - sigma, sigma)
    if float(torch.as_tensor(scheduler.init_noise_sigma)) != 1.0:  # Euler and its kin: x0 + sigma noise
        return 1.0, sigma
    alpha = 1 / math.sqrt(1 + sigma * sigma)
    return alpha, sigma * alpha


def space_map(space: str, predicted: Prediction, level: NoiseLevel) -> Linear:
    """How the clean sample `x0`, or the `velocity`, follows from sample and output at a noise level.

    Velocity is noise - x0 of flow matching, and alpha noise - sigma x0 elsewhere (arXiv 2202.00512, appendix D).
    """
    a, s = level.alpha, level.sigma
    norm = math.hypot(a, s)  # 1 but for samplers that scale the sample themselves, whose model sees x / norm
    if space == "output" or (space == "velocity" and predicted in ("flow", "v_prediction")):
        return OUTPUT
    if space == "x0" and predicted == "sample":
        return OUTPUT
    if predicted == "flow":
        return Linear(1.0, -s)
    clean = {
        "epsilon": (1 / a, -s / a),
        "v_prediction": (a / norm**2, -s / norm),
        "sample": (0.0, 1.0),
    }[predicted]
    if space == "x0":
        return Linear(*clean)
    # noise = (x - a x0) / s, and so norm v = a noise - s x0 = (a / s) x - (a a / s + s) x0
    of_clean = -(a * a / s + s) / norm
    return Linear(a / s / norm + of_clean * clean[0], of_clean * clean[1])


def coordinate(along: str, levels: Sequence[NoiseLevel]) -> tuple[float, ...]:
    """Where each step lies `along` step numbers, noise levels or log-SNR."""
    if along == "step":
        return tuple(map(float, range(len(levels))))
    return tuple(level.time if along == "noise" else level.log_snr for level in levels)
