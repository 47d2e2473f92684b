"""The search measures what it tries once, ends with its budget, and goes on where it ended."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest

from dita.tuning.climbing import Trials, climb, trials_from_json
from dita.tuning.schedules import even, relocations, spaced

STEPS, TARGET = 20, (0, 2, 5, 9, 17)
near = partial(relocations, steps=STEPS)
STARTS = [even(STEPS, 5), spaced(STEPS, 5, 2.0)]


class Bowl:
    """An error without other minima than TARGET, which counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, full: tuple[int, ...]) -> float:
        self.calls.append(full)
        return float(sum((a - b) ** 2 for a, b in zip(full, TARGET, strict=True)))


def test_the_best_is_found_and_nothing_is_tried_twice() -> None:
    bowl = Bowl()
    found = climb(bowl, STARTS, near)
    assert found.best == TARGET and found.errors[TARGET] == 0
    assert len(bowl.calls) == len(set(bowl.calls)) == len(found.errors)
    assert bowl.calls[:2] == STARTS, "all starts first"
    assert set(near(TARGET)) <= set(found.errors), "no neighbour is better"


def test_a_budget_of_trials_counts_those_of_before_and_a_search_goes_on_where_it_ended() -> None:
    whole, parts = Bowl(), Bowl()
    climb(whole, STARTS, near, trials=60)
    state = climb(parts, STARTS, near, trials=25)
    assert len(parts.calls) == len(state.errors) == 25
    state = trials_from_json(json.loads(state.text()))
    assert climb(parts, STARTS, near, trials=25, state=state) is state
    assert len(parts.calls) == 25
    climb(parts, STARTS, near, trials=60, state=state)
    assert parts.calls == whole.calls, "as if it had not been interrupted"


def test_a_budget_of_seconds_ends_behind_the_trial_that_exceeds_it() -> None:
    times = iter(range(1000))
    found = climb(Bowl(), STARTS, near, seconds=5, clock=lambda: float(next(times)))  # a second for each trial
    assert (len(found.errors), found.seconds) == (5, 5.0)


def test_what_was_tried_survives_an_interruption_and_failed_measurements_are_worse_than_any() -> None:
    bowl, state, told = Bowl(), Trials(), []

    def evaluate(full: tuple[int, ...]) -> float:
        if len(bowl.calls) == 7:
            raise KeyboardInterrupt
        return math.nan if full == STARTS[0] and not bowl.calls.append(full) else bowl(full)

    with pytest.raises(KeyboardInterrupt):
        climb(evaluate, STARTS, near, state=state, tried=lambda now: told.append(len(now.errors)))
    assert len(state.errors) == 7 and told == list(range(1, 8))
    assert state.errors[STARTS[0]] == math.inf and state.best not in (None, STARTS[0])
    assert json.loads(state.text())["trials"][0]["error"] is None
    assert trials_from_json(state.as_json()).errors == state.errors


def test_without_a_trial_there_is_no_best() -> None:
    assert Trials().best is None
    assert climb(Bowl(), STARTS, near, trials=0).best is None
    assert climb(lambda full: math.nan, STARTS[:1], near, trials=9).best is None
    assert climb(Bowl(), [], near).errors == {}


def test_another_seed_tries_in_another_order() -> None:
    one, two = Bowl(), Bowl()
    climb(one, STARTS, near, seed=0)
    climb(two, STARTS, near, seed=1)
    assert one.calls != two.calls


@pytest.mark.parametrize("data", [[], {}, {"format": 1}, {"format": 1, "seconds": 0, "trials": [3]}, None, "x"])
def test_what_is_no_state_of_a_search(data) -> None:
    with pytest.raises(ValueError, match="no trials of a search"):
        trials_from_json(data)
    with pytest.raises(ValueError, match="trials have the format 1, got 2"):
        trials_from_json({"format": 2})
