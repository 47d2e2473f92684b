"""A search that measures what it tries: hill climbing whose trials are remembered, and may be taken up again."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dita.tuning.schedules import Schedule

FORMAT = 1


@dataclass
class Trials:
    """What a search has tried, for it to go on from there.

    Attributes:
        errors: of every schedule that was tried, in this order; infinite where it could not be measured.
        seconds: that the trials took.
    """

    errors: dict[Schedule, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def best(self) -> Schedule | None:
        """The schedule with the least error, the earlier one of equals; None before the first that is finite."""
        finite = [one for one, error in self.errors.items() if math.isfinite(error)]
        return min(finite, key=self.errors.__getitem__, default=None)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; `trials_from_json` reads it back."""
        tried = [
            {"full_steps": list(schedule), "error": error if math.isfinite(error) else None}
            for schedule, error in self.errors.items()
        ]
        return {"format": FORMAT, "seconds": self.seconds, "trials": tried}

    def text(self) -> str:
        """`as_json` as it is written into a file."""
        return json.dumps(self.as_json(), allow_nan=False) + "\n"


def trials_from_json(data: Any) -> Trials:
    """What `Trials.as_json` gave. Raises `ValueError` for anything else."""
    try:
        if data["format"] != FORMAT:
            raise ValueError(f"trials have the format {FORMAT}, got {data['format']!r}")
        errors = {
            tuple(int(step) for step in one["full_steps"]): math.inf if one["error"] is None else float(one["error"])
            for one in data["trials"]
        }
        return Trials(errors, float(data["seconds"]))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"these are no trials of a search: {error!r}") from None


def climb(
    evaluate: Callable[[Schedule], float],
    starts: Iterable[Schedule],
    moves: Callable[[Schedule], Sequence[Schedule]],
    *,
    trials: int | None = None,
    seconds: float | None = None,
    state: Trials | None = None,
    seed: int = 0,
    tried: Callable[[Trials], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trials:
    """Looks for the schedule with the least error, by measuring: all starts, then from each, the best first, by steps.

    Of the schedules that `moves` says are near, in an order that `seed` draws, the first that is better is taken, until
    none is. No schedule is evaluated twice. It is the second stage of BudCache (arXiv 2606.13496).

    Args:
        evaluate: the error of a schedule, which is not a number where it could not be measured.
        moves: what is near a schedule, such as `schedules.relocations`.
        trials, seconds: end the search, both counted over everything in `state`; a trial that has begun is finished.
            None is no bound.
        state: of an earlier search with the same arguments, which goes on where that ended; it is filled in place, so
            that it holds every trial that was finished if this is interrupted.
        tried: called after every trial, to save or to show it.
    """
    known = Trials() if state is None else state
    try:
        ranked = sorted(
            dict.fromkeys(starts), key=lambda one: _error(known, one, evaluate, trials, seconds, tried, clock)
        )
        for start in ranked:
            _climb_from(
                start, known, moves, seed, lambda one: _error(known, one, evaluate, trials, seconds, tried, clock)
            )
    except _Spent:
        pass
    return known


class _Spent(Exception):
    """The budget of a search is spent."""


def _climb_from(
    start: Schedule,
    known: Trials,
    moves: Callable[[Schedule], Sequence[Schedule]],
    seed: int,
    error: Callable[[Schedule], float],
) -> None:
    here: Schedule | None = start
    while here is not None:
        near = list(moves(here))
        random.Random(f"{seed}:{here}").shuffle(near)
        least = known.errors[here]
        here = next((one for one in near if error(one) < least), None)


def _error(
    known: Trials,
    schedule: Schedule,
    evaluate: Callable[[Schedule], float],
    trials: int | None,
    seconds: float | None,
    tried: Callable[[Trials], None] | None,
    clock: Callable[[], float],
) -> float:
    if schedule not in known.errors:
        if (trials is not None and len(known.errors) >= trials) or (seconds is not None and known.seconds >= seconds):
            raise _Spent
        begin = clock()
        error = float(evaluate(schedule))
        known.errors[schedule] = math.inf if math.isnan(error) else error
        known.seconds += clock() - begin
        if tried is not None:
            tried(known)
    return known.errors[schedule]
