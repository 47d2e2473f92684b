"""The programmes find what trying all schedules finds."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dita.tuning.gram import forecast_error, gram_matrix, integrated_error, lagrange_weights
from dita.tuning.programme import GramGaps, MeasuredGaps, Mode, best_full_steps, best_within, gap_errors
from dita.tuning.schedules import even

STEPS = 8
schedules_of = {n: [(0, *rest) for rest in itertools.combinations(range(1, STEPS), n - 1)] for n in range(1, STEPS + 1)}


def curve(seed: int, steps: int = STEPS, size: int = 24) -> np.ndarray:
    """Smooth outputs with a part that moves abruptly, so that schedules matter."""
    draw = np.random.default_rng(seed)
    times = np.linspace(0, 1, steps)[:, None]
    smooth = np.sin(times * draw.uniform(0.5, 4, size) + draw.uniform(0, 6, size)) * draw.normal(size=size)
    return smooth + draw.normal(size=size) * np.exp(-((times - draw.uniform()) ** 2) / 0.02) * 0.3


def along_of(kind: str, steps: int = STEPS) -> np.ndarray | None:
    return None if kind == "steps" else np.linspace(1, 0.05, steps) ** 1.7


def slow_error(gram: np.ndarray, along: np.ndarray, order: int, c: np.ndarray | None, full: tuple[int, ...]) -> list:
    """The errors of gaps, one target after the other."""
    errors = []
    for number, (last, end) in enumerate(itertools.pairwise((*full, len(gram)))):
        history = list(full[max(0, number - order) : number + 1])
        targets = list(range(last + 1, end))
        weights = lagrange_weights(along[history], along[targets]) if targets else np.empty((0, len(history)))
        if c is not None:
            errors.append(integrated_error(gram, c, weights, history, targets))
        else:
            errors.append(sum(forecast_error(gram, w, history, t) for w, t in zip(weights, targets, strict=True)))
    return errors


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kind", ["steps", "sigma"])
@pytest.mark.parametrize("integrated", [False, True])
@settings(max_examples=15)
@given(seed=st.integers(0, 999), later=st.frozensets(st.integers(1, 14)))
def test_errors_of_gaps_are_those_of_their_forecasts(order: int, kind: str, integrated: bool, seed: int, later) -> None:
    gram = gram_matrix(curve(seed, 15))
    along = along_of(kind, 15)
    c = np.random.default_rng(seed).normal(size=15) if integrated else None
    full = (0, *sorted(later))
    expected = slow_error(gram, np.arange(15.0) if along is None else along, order, c, full)
    found = gap_errors(GramGaps(gram, order, along, c), full)
    # weights grow with the distance, and with them what rounding leaves
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9 * (1 + max(expected)))


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("integrated", [False, True])
@settings(max_examples=10)
@given(
    seed=st.integers(0, 999),
    gamma=st.sampled_from([1.0, 2.0, 4.0, math.inf]),
    kind=st.sampled_from(["steps", "sigma"]),
)
def test_no_schedule_is_better_than_the_found_one(order: int, integrated: bool, seed: int, gamma: float, kind) -> None:
    c = np.random.default_rng(seed).uniform(0.5, 2, STEPS) if integrated else None
    gaps = GramGaps(gram_matrix(curve(seed)), order, along_of(kind), c)
    found = best_full_steps(gaps, gamma=gamma)
    assert set(found) == set(schedules_of)
    for number, every in schedules_of.items():
        least = min(cost(gap_errors(gaps, full), gamma) for full in every)
        one = found[number]
        assert len(one.full_steps) == number
        assert one.cost == pytest.approx(least, rel=1e-9, abs=1e-15)
        assert one.cost == pytest.approx(cost(gap_errors(gaps, one.full_steps), gamma), rel=1e-9, abs=1e-15)
        assert one.error == pytest.approx(sum(gap_errors(gaps, one.full_steps)))
    assert found[STEPS].cost == 0


def cost(errors: list[float], gamma: float) -> float:
    return max(errors) if math.isinf(gamma) else sum(error**gamma for error in errors)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), gamma=st.sampled_from([1.0, 4.0]))
def test_order_2_has_the_cost_that_it_states_and_little_more_than_the_least(seed: int, gamma: float) -> None:
    gaps = GramGaps(gram_matrix(curve(seed)), 2)
    line = best_full_steps(GramGaps(gram_matrix(curve(seed)), 1), gamma=gamma)
    for number, one in best_full_steps(gaps, gamma=gamma).items():
        least = min(cost(gap_errors(gaps, full), gamma) for full in schedules_of[number])
        assert len(one.full_steps) == number
        assert one.cost == pytest.approx(cost(gap_errors(gaps, one.full_steps), gamma), rel=1e-9, abs=1e-15)
        assert one.cost >= least * (1 - 1e-9) - 1e-15
        if number <= 3:  # as many states as schedules, but for the last step
            assert one.cost == pytest.approx(least, rel=1e-9, abs=1e-15)
    assert line[1].cost == pytest.approx(best_full_steps(gaps, 1, gamma=gamma)[1].cost)


def test_a_straight_line_needs_two_full_steps_and_a_parabola_three() -> None:
    times = np.arange(9.0)[:, None]
    line, parabola = 1 + times * np.array([1.0, -2.0]), times**2 * np.array([1.0, 0.5]) - times
    found = best_full_steps(GramGaps(gram_matrix(line), 1), 3)
    assert found[1].error > 1 and found[2].error == pytest.approx(0, abs=1e-9)
    assert found[2].full_steps == (0, 1)
    two = best_full_steps(GramGaps(gram_matrix(parabola), 2), 3)
    assert two[2].error > 1 and two[3].error == pytest.approx(0, abs=1e-9)
    along = (9 - times[:, 0]) ** 2  # a line in another coordinate
    assert best_full_steps(GramGaps(gram_matrix(along[:, None] * [1.0, 3.0]), 1, along), 2)[2].error < 1e-6


def test_the_largest_gap_is_what_infinity_looks_at() -> None:
    table = np.full((4, 5), 9.0)
    for start, end, error in [(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0), (0, 2, 1), (2, 4, 5), (0, 3, 4), (1, 4, 4)]:
        table[start, end] = error
    table[1, 3] = 4
    gaps = MeasuredGaps(table)
    assert best_full_steps(gaps, 2)[2].full_steps == (0, 1)  # 0 + 4
    table[1, 4], table[0, 3] = 5.5, 5.2
    assert best_full_steps(MeasuredGaps(table), 2)[2].full_steps == (0, 3)  # 5.2 + 0 against 1 + 5
    smallest = best_full_steps(MeasuredGaps(table), 2, gamma=math.inf)[2]
    assert (smallest.full_steps, smallest.cost, smallest.error) == ((0, 2), 5, 6)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 999), forced=st.frozensets(st.integers(0, STEPS - 1), max_size=4), longest=st.integers(2, STEPS)
)
def test_forced_steps_are_full_and_no_gap_is_too_long(seed: int, forced: frozenset[int], longest: int) -> None:
    for order in (0, 1, 2):
        gaps = GramGaps(gram_matrix(curve(seed)), order)
        found = best_full_steps(gaps, forced=forced, longest=longest)
        for number, every in schedules_of.items():
            allowed = [
                full
                for full in every
                if forced <= set(full) and all(b - a <= longest for a, b in itertools.pairwise((*full, STEPS)))
            ]
            assert (number in found) == bool(allowed)
            if allowed:
                assert found[number].full_steps in allowed
                least = min(sum(gap_errors(gaps, full)) for full in allowed)
                assert found[number].cost >= least * (1 - 1e-9) - 1e-15
                if order < 2:
                    assert found[number].cost == pytest.approx(least, rel=1e-9, abs=1e-15)


def test_chosen_steps_beat_even_ones() -> None:
    times = np.linspace(0, 1, 28)[:, None]
    outputs = np.exp(-times * np.linspace(4, 12, 20))  # most of it happens early
    gaps = GramGaps(gram_matrix(outputs), 1)
    found = best_full_steps(gaps, 14)
    for number in (4, 7, 10, 14):
        assert found[number].error < 0.3 * sum(gap_errors(gaps, even(28, number)))
        assert sum(step < 14 for step in found[number].full_steps) > number / 2 + 0.9


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("integrated", [False, True])
def test_a_fine_grid_takes_no_time(order: int, integrated: bool) -> None:
    steps = 84
    gram = gram_matrix(curve(1, steps, 200))
    begin = time.process_time()
    found = best_full_steps(GramGaps(gram, order, None, np.ones(steps) if integrated else None), 40, gamma=4)
    assert time.process_time() - begin < 10  # two at most on one core of its own
    assert len(found[40].full_steps) == 40


# --- seconds


def test_one_mode_takes_as_many_full_steps_as_the_budget_has() -> None:
    gaps = GramGaps(gram_matrix(curve(5)), 1)
    every = best_full_steps(gaps)
    for number in range(1, STEPS + 1):
        budget = number * 1.0 + (STEPS - number) * 0.1
        for extra in (0.0, 0.5):
            found = best_within([Mode(gaps, 0.1)], 1.0, budget + extra)
            assert found.full_steps == every[number].full_steps
            assert found.seconds == pytest.approx(budget) and set(found.modes) == {0}
            assert (found.cost, found.error) == (every[number].cost, every[number].error)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 999),
    budget=st.floats(2.0, 8.5),
    gamma=st.sampled_from([1.0, 3.0]),
    dear=st.floats(0.1, 0.6),
)
def test_modes_and_full_steps_are_the_best_within_the_budget(
    seed: int, budget: float, gamma: float, dear: float
) -> None:
    gram = gram_matrix(curve(seed))
    modes = [Mode(GramGaps(gram, 0), 0.02), Mode(GramGaps(gram, 1), dear)]
    found = best_within(modes, 1.0, budget, gamma=gamma)
    assert found.seconds <= budget * (1 + 1e-9)
    lengths = [b - a - 1 for a, b in itertools.pairwise((*found.full_steps, STEPS))]
    spent = sum(1.0 + n * modes[m].seconds for n, m in zip(lengths, found.modes, strict=True))
    assert found.seconds == pytest.approx(spent)
    errors = [[gap_errors(mode.gaps, found.full_steps)[i] for mode in modes] for i in range(len(lengths))]
    assert found.cost == pytest.approx(sum(e[m] ** gamma for e, m in zip(errors, found.modes, strict=True)), rel=1e-9)
    assert found.error == pytest.approx(sum(e[m] for e, m in zip(errors, found.modes, strict=True)), rel=1e-9)
    assert found.cost >= brute(modes, budget, gamma) * (1 - 1e-9) - 1e-15
    assert found.cost <= brute(modes, budget * 0.97, gamma) * (1 + 1e-9) + 1e-15, "bins cost 3 % at most"


def brute(modes: list[Mode], budget: float, gamma: float) -> float:
    least = math.inf
    for full in itertools.chain.from_iterable(schedules_of.values()):
        lengths = [b - a - 1 for a, b in itertools.pairwise((*full, STEPS))]
        errors = [gap_errors(mode.gaps, full) for mode in modes]
        for chosen in itertools.product(range(len(modes)), repeat=len(full)):
            seconds = sum(1.0 + n * modes[m].seconds for n, m in zip(lengths, chosen, strict=True))
            if seconds <= budget:
                least = min(least, sum(errors[m][i] ** gamma for i, m in enumerate(chosen)))
    return least


def test_a_budget_that_no_run_keeps_is_refused_with_the_least() -> None:
    gaps = GramGaps(gram_matrix(curve(5)), 1)
    for modes in ([Mode(gaps, 0.1)], [Mode(gaps, 0.1), Mode(GramGaps(gram_matrix(curve(5)), 0), 0.2)]):
        with pytest.raises(ValueError, match=r"no run takes 1.5 s or less: the shortest takes 1.7 s"):
            best_within(modes, 1.0, 1.5)
        with pytest.raises(ValueError, match=r"the shortest takes 4.4 s"):  # 0, 3, 4, 7, say
            best_within(modes, 1.0, 3.0, forced=(4,), longest=3)
        with pytest.raises(ValueError, match="budget must be a number of seconds above 0, got nan"):
            best_within(modes, 1.0, math.nan)


# --- bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda gram: GramGaps(gram, 3), "order must be 0 to 2, got 3"),
        (lambda gram: GramGaps(gram, 1, np.ones(STEPS)), "along must rise, or fall"),
        (lambda gram: GramGaps(gram, 1, np.arange(3)), r"along must be a finite number for each of the 8 steps"),
        (lambda gram: GramGaps(gram, 1, None, [np.nan] * STEPS), "sensitivities must be a finite number for each"),
        (lambda gram: best_full_steps(GramGaps(gram), 0), "most must be from 1 to the 8 steps of the run, got 0"),
        (lambda gram: best_full_steps(GramGaps(gram), 9), "most must be from 1 to the 8 steps of the run, got 9"),
        (lambda gram: best_full_steps(GramGaps(gram), gamma=0.5), "gamma must be at least 1, or infinity, got 0.5"),
        (lambda gram: best_full_steps(GramGaps(gram), gamma=math.nan), "gamma must be at least 1"),
        (lambda gram: best_full_steps(GramGaps(gram), forced=(8,)), "forced steps must be from 0 to 7, got"),
        (lambda gram: best_full_steps(GramGaps(gram), longest=0), "longest must be at least 1, got 0"),
        (lambda gram: MeasuredGaps(np.ones((3, 3))), r"the shape \(T, T \+ 1\), got \(3, 3\)"),
        (lambda gram: MeasuredGaps(-np.ones((3, 4))), "errors of gaps must be numbers, at least 0"),
        (lambda gram: best_within([], 1.0, 5.0), "modes must be at least one"),
        (lambda gram: best_within([Mode(GramGaps(gram), 1.0)], 1.0, 5.0), "a full step must take some seconds"),
        (lambda gram: best_within([Mode(GramGaps(gram, 2), 0.1)] * 2, 1.0, 5.0), "one full step before the last"),
    ],
)
def test_bad_input_is_refused(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(gram_matrix(curve(0)))


def test_a_run_of_one_step() -> None:
    gaps = GramGaps([[1.0]], 2, None, [1.0])
    assert best_full_steps(gaps)[1].full_steps == (0,)
    assert best_full_steps(gaps)[1].cost == 0


def test_tuning_imports_no_torch() -> None:
    names = ", ".join(f"dita.tuning.{name}" for name in ("gram", "programme", "schedules", "climbing", "ratios"))
    code = f"import sys, {names}\nprint(*sorted({{'torch', 'diffusers', 'scipy'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr
