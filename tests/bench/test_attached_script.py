"""benchmarks/attached.py: what it times, and the interval that it gives a median."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tests.bench.scripts import script


@pytest.fixture(scope="module")
def attached() -> ModuleType:
    return script("attached")


def test_the_interval_holds_the_median_and_narrows_with_more_rounds(attached: ModuleType) -> None:
    torch.manual_seed(0)
    ratios = 1 + 0.01 * torch.randn(400, dtype=torch.float64)
    few, many = attached.interval(ratios[:25]), attached.interval(ratios)
    assert few[0] <= float(ratios[:25].median()) <= few[1]
    assert many[0] <= float(ratios.median()) <= many[1]
    assert many[1] - many[0] < few[1] - few[0]
    assert attached.interval(ratios) == many, "the same rounds, the same interval"


def test_ratios_are_taken_within_a_round(attached: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gets slower all the time costs every contender alike: with a clock that says so, and steps that
    take no other time, no ratio strays far from 1."""
    ticks = iter(range(1, 100_000))
    monkeypatch.setattr(attached, "time", SimpleNamespace(perf_counter=lambda: 1e-3 * next(ticks) ** 1.5))
    costs = attached.measured("cpu-flux", 0.05, rounds=12)
    assert [cost.label for cost in costs] == ["plain", "plain again", "attached, N = 1", "disabled"]
    plain, *others = costs
    assert (plain.ratio, plain.low, plain.high) == (1, 1, 1)
    for cost in others:
        assert cost.low <= cost.ratio <= cost.high
        assert cost.ratio == pytest.approx(1, abs=0.1) and cost.seconds > 0


def test_all_three_shapes_by_default(attached: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["attached.py", "--scale", "0.05", "--rounds", "2", "--json"])
    attached.main()
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["steps"]) == ["cpu-flux", "cpu-pixart", "cpu-opensora"]
    for costs in printed["steps"].values():
        assert len(costs) == 4 and all(cost["seconds"] > 0 for cost in costs)
