"""A whole benchmark, small: what it measures, in which order, and what it says."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from dita import cli
from dita.bench import job, table
from dita.bench.job import bench, settings
from dita.bench.rivals import MagCache, TaylorSeer
from dita.bench.roofline import Peak
from dita.bench.workloads import workload
from dita.methods import parse
from tests.plans import on_a_cpu

STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def quick_peak():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "measured_peak", lambda *_: Peak(1e9, 1e9))
        patch.setattr(job, "keep_freed_memory", lambda: False)  # it is for the whole process, and lasts
        yield


@pytest.fixture(scope="module")
def result():
    methods = [parse("toca:3:0.7"), parse("fora:3"), parse("steps:0.5")]
    return bench(workload("cpu-flux", scale=0.05), methods, rivals=[MagCache], steps=STEPS, repeats=2)


def test_plain_controls_methods_and_rivals_each_have_a_row(result) -> None:
    assert [(row.label, row.role) for row in result.rows] == [
        ("plain", "plain"),
        ("attached, N = 1", "control"),
        ("disabled", "control"),
        ("toca:3:0.7", "method"),
        ("fora", "method"),
        ("steps", "method"),
        ("diffusers:magcache @4", "rival"),
        ("diffusers:magcache @2", "rival"),
    ]
    assert result.refused == ()


def test_every_row_was_run_as_often_and_says_what_a_step_cost(result) -> None:
    for row in result.rows:
        assert len(row.seconds) == 2 and min(row.seconds) > 0
        assert sum(time.count for time in row.steps.values()) == len(row.step_kinds)
        assert set(row.steps) == set(row.step_kinds) == set(row.operations)
        assert row.efficiency == pytest.approx(row.seconds_ratio / row.flops_ratio)
        assert row.peak_bytes > 0 and row.over_roofline > 0 and row.roofline_seconds > 0


def test_controls_compute_exactly_what_plain_does(result) -> None:
    plain, attached, disabled = result.rows[:3]
    for row in (attached, disabled):
        assert row.error == 0.0 and row.flops_ratio == 1.0
        assert row.executed == plain.executed == {"attn": 1.0, "mlp": 1.0}
    assert disabled.operations == plain.operations, "not one operation more"
    more = STEPS * (attached.operations["full"] - plain.operations["full"])
    looked = 6  # operations that tell whether a tensor holds broken numbers
    assert more <= looked * (1 + STEPS), "the latents are looked over once in a run, and each step's output"


def test_a_method_is_counted_by_its_plan_and_errs(result) -> None:
    row = result.row("toca:3:0.7")
    plan = parse("toca:3:0.7").plan(workload("cpu-flux", scale=0.05).shape, STEPS)
    assert row.flops == plan.flops() and row.flops_ratio == plan.flops_ratio()
    assert row.counted_flops == pytest.approx(plan.flops() + plan.score_flops, rel=1e-2)
    assert row.cache_bytes == on_a_cpu(plan).cache_bytes
    assert row.step_kinds == tuple(kind.value for kind in plan.kinds)
    assert 0 < row.error < 1
    assert 0 < row.executed["mlp"] < 1


def test_fewer_steps_take_fewer(result) -> None:
    row = result.row("steps")
    assert len(row.step_kinds) == 3 and row.flops_ratio == 2


def test_runs_are_interleaved_and_the_order_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    stock = job.sample

    def noting(work, contender, inputs):
        order.append(contender.label)
        return stock(work, contender, inputs)

    monkeypatch.setattr(job, "_clean", noting)
    bench(workload("cpu-flux", scale=0.05), [parse("fora:3")], steps=4, repeats=2)
    rounds = [order[start : start + 4] for start in range(0, len(order), 4)]
    assert len(rounds) == 3, "one of them the warm-up"
    assert len({tuple(one) for one in rounds}) == 3 and len({frozenset(one) for one in rounds}) == 1


def test_rivals_match_each_number_of_full_steps_once() -> None:
    shape = workload("cpu-flux", scale=0.05)
    methods = [parse(text) for text in ("plain", "toca:3:0.7", "fora:3", "toca:3:0.9", "taylorseer:3:2", "steps:0.5")]
    found = settings(shape, methods, 10)
    counts = [len(setting.full_steps) for setting in found]
    assert len(counts) == len(set(counts)) and all(setting.order == 2 for setting in found)
    assert found[0].full_steps == methods[1].plan(shape.shape, 10).full_steps


def test_a_rival_that_cannot_is_named_with_its_reason() -> None:
    result = bench(workload("cpu-opensora", scale=0.12), [parse("fora:3")], rivals=[TaylorSeer], steps=6, repeats=1)
    assert result.refused == (("diffusers:taylorseer @4", "it finds no module of this model to hook"),)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps and repeats must be at least 1, got 0 and 1"),
        ({"repeats": 0}, "got 6 and 0"),
        ({"compile": "all"}, "unknown compile 'all'; known: none, blocks, model"),
    ],
)
def test_bad_arguments(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench(workload("cpu-flux", scale=0.05), [], **({"steps": 6, "repeats": 1} | changed))


def test_the_table_has_a_line_for_each_and_json_reads_back(result) -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table.table(result))
    shown = captured.get()
    assert all(row.label in shown for row in result.rows)
    data = json.loads(json.dumps(table.as_json(result)))
    assert data["rows"][3]["efficiency"] == result.rows[3].efficiency
    assert data["versions"]["torch"] == torch.__version__
    assert set(data["rows"][0]) == {field.name for field in dataclasses.fields(result.rows[0])}
    assert "1 + 1 layers of 64, 49 image tokens" in table.heading(result)


def test_the_command_prints_a_table_or_json() -> None:
    arguments = ["bench", "--scale", "0.05", "--steps", "4", "--repeats", "1", "--methods", "fora:3", "--threads", "1"]
    told = CliRunner().invoke(cli.app, [*arguments, "--rivals", "diffusers:magcache"])
    assert told.exit_code == 0, told.output
    assert "fora" in told.stdout and "diffusers:magcache @2" in told.stdout and "efficiency" in told.stdout
    data = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert [row["label"] for row in data["rows"]] == ["plain", "attached, N = 1", "disabled", "fora"]
    data = json.loads(CliRunner().invoke(cli.app, [*arguments, "--no-controls", "--json"]).stdout)
    assert [row["label"] for row in data["rows"]] == ["plain", "fora"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "sdxl"], "unknown shape 'sdxl'"),
        (["--rivals", "teacache"], "unknown rival 'teacache'"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--threads", "0"], "threads must be at least 1"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(arguments: list[str], message: str) -> None:
    told = CliRunner().invoke(cli.app, ["bench", "--scale", "0.05", *arguments])
    assert told.exit_code == cli.BAD_INPUT and message in told.stderr
