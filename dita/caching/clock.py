"""Seconds of transformer calls."""

from __future__ import annotations

import time
from typing import Any

import torch

from dita.caching.summary import Executed


class Clock:
    """Seconds of each transformer call. On CUDA, events are recorded and read at the end, so nothing waits."""

    def __init__(self) -> None:
        self._cuda = False
        self._started: Any = None
        self._events: list[tuple[Any, Any]] = []

    def start(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._started = self._now()

    def stop(self) -> float:
        """Seconds since `start`; 0 on CUDA, until `settle`."""
        if self._cuda:
            self._events.append((self._started, self._now()))
            return 0.0
        return self._now() - self._started

    def settle(self, executed: list[Executed]) -> None:
        for call, (start, stop) in zip(executed, self._events, strict=False):
            stop.synchronize()
            call.seconds = start.elapsed_time(stop) / 1000

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
