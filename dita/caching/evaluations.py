"""How often a pipeline call evaluates its model, counted from its scheduler's timesteps.

A scheduler lists a timestep for each evaluation. How many there are for a number of steps is its own affair: as many
(multistep solvers), two a step but for the last (Heun, DPM-2), one more or nine more (PNDM).
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import PixArtAlphaPipeline


class Evaluations:
    """Counts the evaluations of one pipeline call that takes `steps` steps where the plain one would take `plain`.

    Args:
        scheduler: the pipeline's; it is told of what is asked of it by `set_timesteps`.
        steps: of the call; None where it does not say.
        plain: None where the call is as the caller gave it.
        strength: of a call that starts from a picture; such a call leaves out the first steps.
        label: what took the place of the plain steps, for messages.
    """

    def __init__(
        self, scheduler: Any, steps: int | None = None, plain: int | None = None, strength: Any = None, label: str = ""
    ) -> None:
        self.scheduler = scheduler
        self.steps = steps
        self.plain = plain
        self.strength = strength
        self.label = label
        self._asked: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def set_timesteps(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`stock(...)`, the scheduler's own, as the call asks for its timesteps; notes what it asks for.

        Raises `ValueError` in words for a number of steps that the scheduler cannot take.
        """
        if self.plain is None and self.steps != 1:
            return stock(*args, **kwargs)
        self._asked = (args, kwargs)
        try:
            return stock(*args, **kwargs)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            run = "a run of 1 step" if self.steps == 1 else f"a run of {self.steps} steps"
            left = f", which method {self.label!r} leaves" if self.label else ""
            raise ValueError(f"{type(self.scheduler).__name__} cannot take {run}{left}: {error}") from error

    def ahead(self) -> tuple[int, int, list[float]]:
        """Evaluations from the scheduler's present position to the end; those of the plain call; and the timesteps of
        the former."""
        timesteps = torch.as_tensor(self.scheduler.timesteps).tolist()[self.begin :]
        return len(timesteps), self._plain(len(timesteps)), timesteps

    @property
    def begin(self) -> int:
        """The scheduler's present position."""
        return getattr(self.scheduler, "begin_index", None) or 0

    def _plain(self, taken: int) -> int:
        if self.plain is None or self._asked is None:
            return taken
        bare = copy.copy(self.scheduler)
        for name in ("step", "set_timesteps"):  # what watches this one
            bare.__dict__.pop(name, None)
        bare = copy.deepcopy(bare)
        args, kwargs = self._asked
        bare.set_timesteps(
            *(self._respaced(value) for value in args),
            **{name: self._respaced(value) if name != "mu" else value for name, value in kwargs.items()},
        )
        return max(1, len(bare.timesteps) - self._plain_begin())

    def _respaced(self, value: Any) -> Any:
        """An argument of `set_timesteps` as the plain run would have it: the number of steps, or one value for each."""
        assert self.steps is not None and self.plain is not None
        if isinstance(value, int) and not isinstance(value, bool) and value == self.steps:
            return self.plain
        if isinstance(value, (list, tuple, np.ndarray, torch.Tensor)) and len(value) == self.steps:
            given = np.asarray(value, dtype=float)
            spaced = np.interp(np.linspace(0, 1, self.plain), np.linspace(0, 1, self.steps), given)
            return spaced.tolist() if isinstance(value, (list, tuple)) else spaced
        return value

    def _plain_begin(self) -> int:
        """Evaluations that the plain call leaves out at its start."""
        assert self.steps is not None and self.plain is not None
        order = getattr(self.scheduler, "order", 1)
        if self.strength is not None and _left_out(self.steps, float(self.strength)) * order == self.begin:
            return _left_out(self.plain, float(self.strength)) * order
        return round(self.begin * self.plain / self.steps)


def check_one_step(pipe: Any, steps: int, label: str = "") -> None:
    """Raises `ValueError` where `steps` is 1 and `pipe` does not get what it wants of its scheduler then.

    PixArt-alpha's pipeline takes a run of one step to be a distilled model's, and asks for the clean latents.
    """
    if steps != 1 or not isinstance(pipe, PixArtAlphaPipeline):
        return
    scheduler = type(pipe.scheduler)
    returned = typing.get_type_hints(scheduler.step).get("return")
    outputs = [one for one in (typing.get_args(returned) or (returned,)) if dataclasses.is_dataclass(one)]
    if outputs and all(len(dataclasses.fields(one)) < 2 for one in outputs):
        leaves = f"method {label!r} leaves 1 step: " if label else ""
        raise ValueError(
            f"{leaves}{type(pipe).__name__} takes a run of 1 step for a distilled model's and asks its scheduler for"
            f" the clean latents, which {scheduler.__name__} does not give; take at least 2 steps, or another scheduler"
            " (DDPMScheduler)"
        )


def _left_out(steps: int, strength: float) -> int:
    """The steps that image-to-image leaves out (diffusers' `get_timesteps`)."""
    return int(max(steps - min(steps * strength, steps), 0))
