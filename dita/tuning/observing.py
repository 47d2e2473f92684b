"""A sampling run, watched from outside: what the scheduler gets in each step, and what comes out at the end."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dita.caching.noise_levels import NoiseLevel, coordinate, noise_levels, prediction, space_map
from dita.caching.whole_call import step_arguments


@dataclass
class Observed:
    """What the scheduler got in each step of one run, and what it needs to be run again.

    Attributes:
        outputs, samples: of each step, on the CPU in 32 bits: the model's output after guidance, and the latents.
        arguments: of `set_timesteps`.
        levels: the noise level of each step, as the scheduler held them in that run.
    """

    scheduler: Any
    outputs: list[Tensor] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    levels: Sequence[NoiseLevel] | None = None

    @property
    def steps(self) -> int:
        return len(self.outputs)

    def _levels(self) -> Sequence[NoiseLevel]:
        """Raises `ValueError` for a scheduler whose noise levels are not known."""
        if self.levels is None:
            raise ValueError(f"noise levels of {type(self.scheduler).__name__} are not known")
        return self.levels

    def values(self, space: str) -> NDArray[np.float32]:
        """What a forecast in `space` continues, of each step: (steps, numbers)."""
        predicted = prediction(self.scheduler)
        maps = [space_map(space, predicted, level) for level in self._levels()]
        mapped = [
            to.forward(sample, output).flatten().numpy()
            for to, sample, output in zip(maps, self.samples, self.outputs, strict=True)
        ]
        return np.stack(mapped)

    def gram(self, space: str) -> NDArray[np.float64]:
        """Mean products of each two steps' values: (steps, steps)."""
        values = self.values(space).astype(np.float64)
        found: NDArray[np.float64] = values @ values.T / values.shape[1]
        return found

    def coordinates(self, along: str) -> tuple[float, ...]:
        """Where each step lies along step numbers, noise levels or log-SNR."""
        return coordinate(along, self._levels())

    def sensitivities(self, space: str) -> NDArray[np.float64]:
        """How far the final latents move for each unit of a step's value, where no later step corrects it."""
        scheduler = copy.deepcopy(self.scheduler)
        args, kwargs = self.arguments
        scheduler.set_timesteps(*args, **kwargs)
        levels, predicted = self._levels(), prediction(self.scheduler)
        sample = torch.zeros(self.steps, 1, 1, 1)
        for step, time in enumerate(scheduler.timesteps):
            impulse = torch.zeros_like(sample)
            impulse[step] = 1 / space_map(space, predicted, levels[step]).of_output
            sample = scheduler.step(impulse, time, sample, return_dict=False)[0]
        moved: NDArray[np.float64] = sample.flatten().double().numpy()
        return moved


@contextmanager
def observed(pipe: Any) -> Iterator[Observed]:
    """Within it, the next run of `pipe` is watched. Works beside whatever is enabled on it, and changes nothing."""
    scheduler = pipe.scheduler
    seen = Observed(scheduler)
    stock_step, stock_set = scheduler.step, scheduler.set_timesteps

    @functools.wraps(stock_step)
    def step(*args: Any, **kwargs: Any) -> Any:
        output, sample = step_arguments(args, kwargs)
        seen.outputs.append(output.detach().float().cpu().clone())
        seen.samples.append(sample.detach().float().cpu().clone())
        return stock_step(*args, **kwargs)

    @functools.wraps(stock_set)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        seen.arguments = (args, kwargs)
        return stock_set(*args, **kwargs)

    scheduler.__dict__["step"], scheduler.__dict__["set_timesteps"] = step, set_timesteps
    try:
        yield seen
        with suppress(ValueError):  # of a scheduler that does not tell its noise levels
            seen.levels = noise_levels(scheduler)  # now: the next run may take other steps
    finally:
        del scheduler.__dict__["step"], scheduler.__dict__["set_timesteps"]
