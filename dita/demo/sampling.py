"""One picture with one method: timed without its previews, seen step by step, stopped at any step."""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import dita
from dita.caching.broken import BrokenNumbersWarning, watching
from dita.caching.broken import Made as Numbers
from dita.caching.sampled import sampled_as
from dita.caching.summary import Summary
from dita.comparison import numbered_label
from dita.demo.loaded import Loaded
from dita.demo.previews import clean_latents, decoded
from dita.demo.request import Request
from dita.methods import FewerSteps, Method, Plain

ENGINE_FREE = (Plain, FewerSteps)  # timed with nothing attached to the pipeline
PREVIEWS = 14  # of one picture, at most

Frames = NDArray[np.uint8]
"""(F, H, W, 3): the frames of a video, or one picture."""


class Stopped(Exception):  # no error: the visitor wished it
    """The visitor stopped the run."""


@dataclass(frozen=True)
class Seen:
    """A step was taken: its number from 1 on, of how many, and a preview (H, W, 3) where one was decoded."""

    step: int
    steps: int
    preview: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Made:
    """A finished picture or video.

    Attributes:
        seconds: of the pipeline call: text encoding, denoising and decoding, without previews.
        steps: that the sampler took.
        summary: what was executed; None for the plain pipeline and for fewer steps, which run without dita.
        broken: whether it was made of NaN or infinity.
    """

    method: Method
    frames: Frames
    seconds: float
    steps: int
    summary: Summary | None
    broken: bool = False


Watch = Callable[[Seen], None]


def sample(
    loaded: Loaded,
    request: Request,
    method: Method,
    watch: Watch,
    stop: threading.Event,
    *,
    record: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Made:
    """Makes the picture of `request` with `method`; the pipeline is plain before and afterwards, whatever happens.

    record: keep which tokens were computed (`summary.tokens`); it takes memory, and a little time.
    Raises `Stopped` at the first step after `stop` is set, and whatever the pipeline raises.
    """
    pipe = loaded.pipe
    stock = isinstance(method, ENGINE_FREE)
    free = stock and not record
    steps = method.grid_steps(request.steps) if stock else request.steps
    if method.run_steps(request.steps) < loaded.least_steps:
        raise ValueError(
            f"{numbered_label(method)} leaves 1 step, and {loaded.name} takes at least {loaded.least_steps}"
        )
    if not free:
        dita.enable(pipe, Plain() if stock else method, record=record, on_nan="warn")
    try:
        with (
            warnings.catch_warnings(),
            sampled_as(pipe, method),
            watching(pipe) as numbers,
            _watched(loaded, request, watch, stop, clock, numbers) as watched,
        ):
            warnings.simplefilter("ignore", BrokenNumbersWarning)  # the page says it
            _synchronise()
            start = clock()
            made = pipe(
                **request.call(loaded),
                num_inference_steps=steps,
                generator=[torch.Generator("cpu").manual_seed(request.seed)],
                output_type="pil",
            )
            _synchronise()
            seconds = clock() - start - watched.seconds
        summary = None if free else dita.summary(pipe, show=False)
    finally:
        dita.disable(pipe)
    pictures = made.images if hasattr(made, "images") else made.frames[0]
    return Made(method, _stacked(pictures), seconds, watched.step, summary, numbers.broken(1)[0])


@dataclass
class _Watching:
    """How many steps were taken, and the seconds that looking at them took."""

    step: int = 0
    seconds: float = 0.0


@contextmanager
def _watched(
    loaded: Loaded,
    request: Request,
    watch: Watch,
    stop: threading.Event,
    clock: Callable[[], float],
    numbers: Numbers,
) -> Iterator[_Watching]:
    """While inside, every step of the pipeline's scheduler is reported, and `numbers` told what it returns.

    It is the scheduler that is watched, because pipelines report their steps in three ways, and DiT's in none.
    """
    scheduler: Any = loaded.pipe.scheduler
    watching = _Watching()
    stock_step = scheduler.step

    @functools.wraps(stock_step)  # pipelines look at its signature
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if stop.is_set():
            raise Stopped
        result = stock_step(model_output, timestep, sample, *args, **kwargs)
        numbers.stepped(result)
        _synchronise()
        start = clock()
        watching.step += 1
        steps = len(scheduler.timesteps)
        preview = None
        if watching.step < steps and (watching.step - 1) % -(-steps // PREVIEWS) == 0:
            latents = clean_latents(scheduler, model_output, sample, result)
            preview = decoded(loaded, latents, request.height, request.width)
        watch(Seen(watching.step, steps, preview))
        _synchronise()
        watching.seconds += clock() - start
        if stop.is_set():
            raise Stopped
        return result

    scheduler.__dict__["step"] = step
    try:
        yield watching
    finally:
        scheduler.__dict__.pop("step", None)  # gone already where dita was enabled: it puts the stock step back


def frames_per_second(count: int) -> float:
    """At which a video of `count` frames is played: it takes two seconds, where that is neither slow nor fast."""
    return min(24.0, max(8.0, count / 2))


def _stacked(pictures: list[Image.Image]) -> Frames:
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
