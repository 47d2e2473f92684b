"""The time of a benchmark: how much of it is left, and who stays outside where it is short."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from dita.bench import job, sampling
from dita.bench.budget import Budget, OutOfTime
from dita.bench.job import Benchmark, bench
from dita.bench.rivals import MagCache
from dita.bench.roofline import Peak
from dita.bench.workloads import workload
from dita.methods import parse

STEPS = 6
RUN = 10.0
"""Seconds of a run in these tests, whatever runs."""

LABELS = ["plain", "toca:3:0.7", "fora", "diffusers:magcache @4", "diffusers:magcache @2"]


class FakeClock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Nothing takes time but runs, and all runs alike."""
    fake, stock = FakeClock(), job.sample

    def sample(work, contender, inputs):
        timed = stock(work, contender, inputs)
        seconds = RUN * contender.steps / STEPS
        fake.time += seconds
        return dataclasses.replace(timed, seconds=seconds)

    monkeypatch.setattr(job, "sample", sample)
    monkeypatch.setattr(job, "measured_peak", lambda *_: Peak(1e9, 1e9))
    monkeypatch.setattr(job, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(sampling.gc, "collect", lambda: 0)  # of all that pytest holds, half a second each time
    return fake


def run(clock: FakeClock, seconds: float | None, methods=("toca:3:0.7", "fora:3"), **changed) -> Benchmark:
    asked = {"rivals": [MagCache], "steps": STEPS, "repeats": 3, "controls": False} | changed
    chosen = [parse(text) for text in methods]
    return bench(workload("cpu-flux", scale=0.05), chosen, seconds=seconds, clock=clock, **asked)


def test_what_is_left() -> None:
    clock = FakeClock()
    budget = Budget(5, clock)
    clock.time = 3
    assert budget.limited and budget.left == 2
    assert budget.too_short_for(7.4) == "no time: about 7 s would be needed, 2 s are left"
    clock.time = 9
    assert budget.left == -4 and "0 s are left" in budget.too_short_for(1)
    assert not Budget().limited and Budget().left == math.inf


@pytest.mark.parametrize("seconds", [None, 1000.0])
def test_with_time_enough_all_are_measured_as_often_as_asked(clock: FakeClock, seconds: float | None) -> None:
    result = run(clock, seconds)
    assert [row.label for row in result.rows] == LABELS
    assert result.refused == () and result.repeats == 3


def test_rivals_enter_as_long_as_all_repeats_of_all_fit(clock: FakeClock) -> None:
    # plain and methods: 3 counted runs, and 4 each to warm up and be timed; the first rival 10 and 40 more
    result = run(clock, 225)
    assert [row.label for row in result.rows] == LABELS[:4]
    ((label, reason),) = result.refused
    assert label == LABELS[4] and reason.startswith("no time: about ")
    assert result.repeats == 3 and clock.time <= 225


def test_repeats_are_fewer_where_methods_alone_do_not_fit(clock: FakeClock) -> None:
    result = run(clock, 125)
    assert [row.label for row in result.rows] == LABELS[:3]
    assert result.repeats == 2 and clock.time <= 125
    assert all(len(row.seconds) == 2 for row in result.rows)


def test_methods_behind_the_first_are_left_out_where_one_repeat_does_not_fit(clock: FakeClock) -> None:
    result = run(clock, 90, methods=["fora:3", "toca:3:0.7"])
    assert [row.label for row in result.rows] == ["plain", "fora"]
    assert result.refused[0][0] == "toca:3:0.7" and clock.time <= 90


def test_where_plain_and_the_first_method_do_not_fit_nothing_is_begun(clock: FakeClock) -> None:
    with pytest.raises(OutOfTime, match=r"no time: about \d+ s would be needed, \d+ s are left .* ms a plain step"):
        run(clock, 60)
    assert clock.time < RUN, "some steps only"


def test_controls_that_are_asked_for_must_fit_too(clock: FakeClock) -> None:
    with pytest.raises(OutOfTime):
        run(clock, 95, controls=True)


def test_who_would_be_compiled_too_late_is_left_out(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = job._clean
    compiled: set[str] = set()

    def slow_at_first(work, contender, inputs):
        if contender.label not in compiled:
            compiled.add(contender.label)
            clock.time += 100
        return stock(work, contender, inputs)

    monkeypatch.setattr(job, "_compile", lambda *_: None)
    monkeypatch.setattr(job, "_clean", slow_at_first)
    result = run(clock, 400, compile="blocks")
    assert [row.label for row in result.rows] == LABELS[:2]
    assert [label for label, _ in result.refused] == LABELS[2:]
    assert result.repeats == 3 and clock.time <= 400


def test_a_rival_that_fails_when_compiled_is_refused(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(contender, *_) -> None:
        if contender.role == "rival":
            contender.model = Breaking()

    class Breaking(nn.Module):
        def forward(self, **_: torch.Tensor) -> None:
            raise RuntimeError("no such graph")

    monkeypatch.setattr(job, "_compile", compile)
    result = run(clock, None, compile="blocks")
    assert [row.label for row in result.rows] == LABELS[:3]
    assert result.refused == tuple((label, "RuntimeError: no such graph") for label in LABELS[3:])


def test_each_contender_may_have_as_many_graphs_as_one_alone() -> None:
    """They run the same code, and torch.compile gives up after a few graphs of one code."""
    from torch._dynamo import config

    alone = config.recompile_limit
    with job._compiling("blocks", 4):
        assert config.recompile_limit == 4 * alone
    with job._compiling("none", 4):
        assert config.recompile_limit == alone
