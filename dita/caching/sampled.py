"""Fewer steps: another sampler in a pipeline for a while, or chosen steps of its sampler's own grid."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dita.methods import FewerSteps, Method
from dita.samplers import build


@contextmanager
def sampled_as(pipe: Any, method: Method) -> Iterator[None]:
    """Within it `pipe` samples as `method` says, if that is `FewerSteps`, called with its `grid_steps`.

    Afterwards, also after an error, the pipeline has its own scheduler, as it was.
    """
    with other_sampler(pipe, method), chosen_steps(pipe, method):
        yield


@contextmanager
def other_sampler(pipe: Any, method: Method) -> Iterator[None]:
    """Within it `pipe` has a fresh scheduler of the method's sampler, where it names one."""
    if not isinstance(method, FewerSteps) or method.sampler is None:
        yield
        return
    own = pipe.scheduler
    pipe.__dict__["scheduler"] = build(method.sampler, own)  # past `register_modules`, which would note another class
    try:
        yield
    finally:
        pipe.__dict__["scheduler"] = own


@contextmanager
def chosen_steps(pipe: Any, method: Method) -> Iterator[None]:
    """Within it the scheduler of `pipe` takes the steps of its grid that the method has chosen, where it has.

    Setting timesteps raises `ValueError` where the scheduler's steps are not given by noise levels.
    """
    if not isinstance(method, FewerSteps) or method.full_steps is None:
        yield
        return
    scheduler = pipe.scheduler
    stock, earlier = scheduler.set_timesteps, scheduler.__dict__.get("set_timesteps")

    @functools.wraps(stock)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        stock(*args, **kwargs)
        times = torch.as_tensor(scheduler.timesteps).tolist()
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is None or len(sigmas) != len(times) + 1:
            raise ValueError(
                f"{type(scheduler).__name__} takes no chosen steps, as its steps are not given by noise levels; with"
                f" the same ones, call:order=0:full=... reuses the output of whole calls"
            )
        kept = list(method.steps_of_grid(times))
        scheduler.sigmas = sigmas[[*kept, len(times)]]
        scheduler.timesteps = scheduler.timesteps[kept]
        scheduler.num_inference_steps = len(kept)

    scheduler.__dict__["set_timesteps"] = set_timesteps
    try:
        yield
    finally:
        if earlier is None:
            del scheduler.__dict__["set_timesteps"]
        else:
            scheduler.__dict__["set_timesteps"] = earlier
