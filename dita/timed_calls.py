"""One pipeline call of a comparison: how long it took, its pictures, and what the engine counted meanwhile."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import dita
from dita.asking import asking
from dita.caching.broken import BrokenNumbersWarning, watching
from dita.caching.sampled import sampled_as
from dita.methods import FewerSteps, Method, Plain
from dita.metrics.efficiency import Meter
from dita.stores import Store

ENGINE_FREE = (Plain, FewerSteps)  # timed with nothing attached to the pipeline
WARM_UP = -1
"""The `repeat` of a call that only warms up."""


@dataclass(frozen=True)
class Timing:
    """One timed pipeline call: wall-clock `seconds` for `images` pictures, as number `position` in its round.

    `peak_bytes` and `joules` are those of `dita.metrics.efficiency.Meter`, None where nothing reports them. `run`
    counts the runs of a comparison that was interrupted, from 0 on: calls of one repeat and batch are all of one run.
    """

    repeat: int
    batch: int
    position: int
    images: int
    seconds: float
    peak_bytes: int | None = None
    joules: float | None = None
    run: int = 0


@dataclass(frozen=True)
class Counted:
    """What of a call's `dita.summary` a comparison reports, as data for JSON; `seconds` of the transformer calls are by
    kind of step."""

    kinds: tuple[str, ...]
    flops: float
    score_flops: float
    matching_flops: float
    cache_bytes: int
    token_share: float
    seconds: dict[str, list[float]]

    @classmethod
    def of(cls, summary: Any) -> Counted:
        """Of a summary of the engine."""
        seconds = {kind.value: list(times) for kind, times in summary.seconds.items()}
        kinds = tuple(kind.value for kind in summary.kinds)
        same = ("flops", "score_flops", "matching_flops", "cache_bytes", "token_share")
        return cls(kinds=kinds, seconds=seconds, **{name: getattr(summary, name) for name in same})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counted:
        """What `dataclasses.asdict` made of one."""
        return cls(**{**data, "kinds": tuple(data["kinds"])})


@dataclass(frozen=True)
class Call:
    """A call that was made: its `pictures` as uint8 (H, W, 3), or clips (T, H, W, 3), in the first timed repeat, and
    what was `counted` where the engine was attached. `broken` are the numbers, within the call, of the pictures that
    were made of NaN or infinity."""

    timing: Timing
    pictures: list[np.ndarray]
    counted: Counted | None
    broken: tuple[int, ...] = ()


@dataclass(frozen=True)
class Calls:
    """The pipeline calls of one comparison: batches of its prompts, with what is the same in all calls."""

    pipe: Any
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    batch: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    store: Store | None = None

    @property
    def batches(self) -> list[slice]:
        """The numbers of the prompts in each call."""
        return [slice(i, min(i + self.batch, len(self.prompts))) for i in range(0, len(self.prompts), self.batch)]

    def timed(self, method: Method, timing: Timing, clock: Callable[[], float], *, attach: bool) -> Call:
        """Makes the call of `timing.batch` with `method`; the pipeline is plain afterwards.

        attach: attach the engine, also to methods that need none, so that it counts.
        """
        chosen = self.batches[timing.batch]
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in self.seeds[chosen]]
        stock = isinstance(method, ENGINE_FREE)
        if attach:
            dita.enable(self.pipe, Plain() if stock else method, store=self.store, on_nan="warn")
        try:
            with (
                sampled_as(self.pipe, method),
                Meter(getattr(self.pipe, "_execution_device", "cpu")) as meter,
                watching(self.pipe) as seen,
                _said_in_the_report(),
            ):
                _synchronise()
                start = clock()
                made = self.pipe(
                    **asking(self.pipe, list(self.prompts[chosen])),
                    num_inference_steps=method.grid_steps(self.steps) if stock else self.steps,
                    generator=generators,
                    output_type="pil",
                    **self.arguments,
                )
                _synchronise()
                seconds = clock() - start
            counted = Counted.of(dita.summary(self.pipe, show=False)) if attach else None
        finally:
            if attach:
                dita.disable(self.pipe)
        pictures = _arrays(made)
        timing = dataclasses.replace(
            timing, images=len(pictures), seconds=seconds, peak_bytes=meter.peak_bytes, joules=meter.joules
        )
        broken = tuple(number for number, one in enumerate(seen.broken(len(pictures))) if one)
        return Call(timing, pictures if timing.repeat == 0 else [], counted, broken)


@contextmanager
def _said_in_the_report() -> Iterator[None]:
    """Without warnings of broken numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BrokenNumbersWarning)
        warnings.filterwarnings("ignore", "invalid value encountered in cast")
        yield


def _arrays(made: Any) -> list[np.ndarray]:
    """The pictures or clips of a pipeline's output."""
    if hasattr(made, "images"):
        return [np.asarray(image.convert("RGB")) for image in made.images]
    return [np.stack([np.asarray(frame.convert("RGB")) for frame in clip]) for clip in made.frames]


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
