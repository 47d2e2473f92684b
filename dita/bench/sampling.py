"""One timed run of the sampling loop round a bare transformer, and what must hold for timings to mean something."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dita.bench.workloads import Inputs, Workload


class Sampled(Protocol):
    """What is run: a transformer, plain or under some cache."""

    model: Any
    steps: int

    def reset(self) -> None:
        """Forgets what a run left; called before and after each, not timed."""
        ...

    def before_step(self, step: int) -> None:
        """Told the number of the coming step."""
        ...

    def context(self) -> AbstractContextManager[Any]:
        """What surrounds each transformer call."""
        ...


@dataclass(frozen=True)
class Timed:
    """One run: seconds of the whole loop and of each of its steps, page faults meanwhile, and the latents at its end.

    `faults` is None where the system does not count them.
    """

    seconds: float
    step_seconds: tuple[float, ...]
    faults: int | None
    latents: Tensor


@contextmanager
def without_collector() -> Iterator[None]:
    """Keeps the collector of garbage out of what is timed: cycles that an earlier contender left would be collected in
    it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def sample(workload: Workload, sampled: Sampled, inputs: Inputs) -> Timed:
    """Runs the loop of `sampled.steps` transformer calls, each on the latents that the last one led to."""
    sampled.reset()
    inputs, steps = dict(inputs), sampled.steps
    device: torch.device = inputs["hidden_states"].device
    clock = _Clock(device)
    faults = _page_faults()
    clock.tick()
    for s in range(steps):
        sampled.before_step(s)
        with sampled.context():
            prediction = workload.predict(sampled.model, inputs, s / steps)
        inputs["hidden_states"] = inputs["hidden_states"] - prediction / steps
        clock.tick()
    seconds = clock.seconds()
    after = _page_faults()
    sampled.reset()  # what a cache still holds would be missing to the next
    found = after - faults if after is not None and faults is not None else None
    return Timed(sum(seconds), seconds, found, inputs["hidden_states"])


class _Clock:
    """Seconds between ticks. On CUDA, events are recorded and read at the end, so that no step waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._ticks: list[Any] = []
        if self._cuda:
            torch.cuda.synchronize(device)

    def tick(self) -> None:
        if not self._cuda:
            self._ticks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._ticks.append(event)

    def seconds(self) -> tuple[float, ...]:
        pairs = zip(self._ticks, self._ticks[1:], strict=False)
        if not self._cuda:
            return tuple(after - before for before, after in pairs)
        self._ticks[-1].synchronize()
        return tuple(before.elapsed_time(after) / 1000 for before, after in pairs)


def _page_faults() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
