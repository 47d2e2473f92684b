"""The time that a benchmark may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Clock = Callable[[], float]


class OutOfTime(RuntimeError):
    """The time is too short for what must be measured; the message says how long that would take."""


class Budget:
    """Seconds that run from now on, without end where there are none. `clock` tells the time in seconds."""

    def __init__(self, seconds: float | None = None, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds

    @property
    def limited(self) -> bool:
        """Whether it ends."""
        return self._end < math.inf

    def now(self) -> float:
        """The clock's time."""
        return self._clock()

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 once they are spent."""
        return self._end - self._clock()

    def too_short_for(self, seconds: float) -> str:
        """What to say where `seconds` do not fit."""
        return f"no time: about {seconds:.0f} s would be needed, {max(self.left, 0):.0f} s are left"
