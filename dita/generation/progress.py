"""How far a job is, at which rate, and how long it will take: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

EVERY = 30.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Of the share of one process. `say` prints a remark without breaking the bar; a `quiet` one shows nothing."""

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True)
        self._quiet = quiet
        self._clock = clock
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._total = self._made = self._failed = 0
        self._started = self._told = 0.0
        self._name = ""

    def start(self, total: int, worker: int = 0, workers: int = 1) -> None:
        """Begins to count; the first worker of several shows its own share."""
        self._total, self._made, self._failed = total, 0, 0
        self._started = self._told = self._clock()
        self._name = f"worker 1 of {workers}" if workers > 1 else "generating"
        if worker != 0:
            self._quiet = True
        if not self._quiet and self.console.is_terminal:
            columns = (MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"))
            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn(), console=self.console
            )
            self._task = self._bar.add_task(self._name, total=total, rate="")
            self._bar.start()

    def advance(self, made: int = 0, failed: int = 0) -> None:
        """Counts items."""
        self._made += made
        self._failed += failed
        now = self._clock()
        if self._bar is not None:
            self._bar.update(self._task, advance=made + failed, rate=self._rate(now))
        elif now - self._told >= EVERY:
            self._told = now
            self.say(self.line())

    def stop(self) -> None:
        """Ends the count."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, remark: str) -> None:
        """Prints a line."""
        if not self._quiet:
            self.console.print(remark, highlight=False)

    def line(self) -> str:
        """How far it is, in words."""
        now = self._clock()
        done = self._made + self._failed
        left = (now - self._started) / done * (self._total - done) if done else 0.0
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._name}: {done} of {self._total}{failed}, {self._rate(now)}, {_duration(left)} left"

    def _rate(self, now: float) -> str:
        passed = now - self._started
        done = self._made + self._failed
        if not done or not passed:
            return ""
        return f"{done / passed:.2f} a second" if done >= passed else f"{passed / done:.1f} s each"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
