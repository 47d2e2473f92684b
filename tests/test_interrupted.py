"""Evaluations, judgements and benchmarks that are interrupted: the second run goes on, and ends with the same bytes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from dita import cli, evaluation_checkpoint, measurement, models
from dita.bench import job as bench_job
from dita.bench.roofline import Peak
from dita.evaluate import evaluate
from dita.interrupted import Kept, file_facts, remove
from dita.judge import judge_model
from dita.methods import Plain
from dita.metrics.catalogue import parse
from dita.metrics.picture_sets import open_pictures
from tests.test_evaluate import QUIET, folders, save, tiny  # noqa: F401  (fixtures)
from tests.test_judge import Painter

NAMES = "fid,kid,clip,image-reward,psnr,ssim"


def after(number, work):
    """`work`, which is interrupted when it is called for the `number`th time, and each time after."""
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) >= number:
            raise KeyboardInterrupt
        return work(*args, **kwargs)

    return interrupted


# ------------------------------------------------------------------------------------------------ what is kept


def test_parts_come_back_as_they_were_until_the_work_is_done(tmp_path) -> None:
    told: list[str] = []
    output = tmp_path / "out.json"
    kept = Kept(output, {"a": 1}, told.append)
    assert not kept.folder.exists() and kept.read("one") is None
    kept.keep("one", {"x": [1, None, float("inf")]}, {"values": np.arange(3.0)})
    again = Kept(output, {"a": 1}, told.append)
    data, arrays = again.read("one")
    assert data == {"x": [1, None, float("inf")]} and arrays["values"].tolist() == [0, 1, 2]
    assert not told
    remove(output)
    assert not kept.folder.exists()


@pytest.mark.parametrize("damage", ["other settings", "no json", "half a part"])
def test_what_cannot_be_used_is_said_in_a_line_and_dropped(tmp_path, damage) -> None:
    told: list[str] = []
    output = tmp_path / "out.json"
    kept = Kept(output, {"a": 1}, told.append)
    kept.keep("one", {"x": 1})
    if damage == "no json":
        (kept.folder / "settings.json").write_text("{")
    if damage == "half a part":
        path = kept.folder / "one.npz"
        path.write_bytes(path.read_bytes()[:50])
    again = Kept(output, {"a": 2 if damage == "other settings" else 1}, told.append)
    assert again.read("one") is None
    (line,) = told
    assert {"other settings": "other settings; starting over", "no json": "starting over"}.get(damage, "again") in line


def test_files_of_others_beside_the_output_stay(tmp_path) -> None:
    output = tmp_path / "out.json"
    kept = Kept(output, {}, print)
    kept.keep("one", {})
    (kept.folder / "letter.txt").write_text("dear")
    remove(output)
    assert [path.name for path in kept.folder.iterdir()] == ["letter.txt"]


def test_a_file_is_known_by_its_size_and_time(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    before = file_facts(path)
    path.write_bytes(b"22")
    assert file_facts(path) != before and file_facts(tmp_path)[1] == [file_facts(path)]
    assert file_facts("no/such/file") == ["no/such/file"]


# ------------------------------------------------------------------------------------------------ evaluate


@pytest.fixture
def by_twos(monkeypatch):
    """Portions of one batch, which is two pictures."""
    monkeypatch.setattr(evaluation_checkpoint, "BATCHES", 1)


def evaluated(folders, tiny, out, **changes):  # noqa: F811
    options = {"reference": folders.real, "plain": open_pictures(folders.plain), "batch": 2, "keep_beside": out}
    found = evaluate(open_pictures(folders.fast), parse(NAMES), tiny, console=QUIET, **(options | changes))
    return json.dumps(dataclasses.replace(found, started="").as_json())


@pytest.mark.parametrize("number", [1, 2, 5, 12, 15, 20])
@pytest.mark.parametrize("kind", ["pictures", "pairs"])
def test_an_evaluation_goes_on_with_the_same_bytes(
    folders,  # noqa: F811
    tiny,  # noqa: F811
    tmp_path,
    monkeypatch,
    by_twos,
    number,
    kind,
) -> None:
    whole = evaluated(folders, tiny, tmp_path / "whole.json")
    out = tmp_path / "out.json"
    name = "_measure_share" if kind == "pictures" else "_measure_pairs_share"
    work, calls = getattr(measurement, name), []
    with monkeypatch.context() as patch:
        patch.setattr(measurement, name, after(number, work))
        stopped = kind == "pictures" or number <= 6
        if stopped:
            with pytest.raises(KeyboardInterrupt):
                evaluated(folders, tiny, out)
        else:
            evaluated(folders, tiny, out)
    with monkeypatch.context() as patch:
        patch.setattr(measurement, name, lambda *a: calls.append(1) or work(*a))
        assert evaluated(folders, tiny, out) == whole
    everything = 10 + 6 + 6 if kind == "pictures" else 6
    assert len(calls) == (everything - number + 1 if stopped else 0)
    remove(out)
    assert not out.with_name("out.json.unfinished").exists()


@pytest.mark.parametrize("change", ["picture", "metrics", "batch"])
def test_an_evaluation_of_something_else_starts_over(
    folders,  # noqa: F811
    tiny,  # noqa: F811
    tmp_path,
    monkeypatch,
    by_twos,
    change,
) -> None:
    out = tmp_path / "out.json"
    with monkeypatch.context() as patch:
        patch.setattr(measurement, "_measure_share", after(4, measurement._measure_share))
        with pytest.raises(KeyboardInterrupt):
            evaluated(folders, tiny, out)
    options = {"batch": 3} if change == "batch" else {}
    if change == "picture":
        first = sorted(folders.fast.glob("*.png"))[0]
        first.write_bytes(sorted(folders.plain.glob("*.png"))[3].read_bytes())
    if change == "metrics":
        monkeypatch.setattr("tests.test_interrupted.NAMES", "fid,psnr")
    fresh = evaluated(folders, tiny, tmp_path / "fresh.json", **options)
    assert evaluated(folders, tiny, out, **options) == fresh


# ------------------------------------------------------------------------------------------------ judge


def judged(tmp_path, pipe=None, **changes):
    options = {"prompts": 12, "batch": 4, "steps": 3, "keep_beside": tmp_path / "out.json"}
    return judge_model(pipe or Painter(), Plain(), console=QUIET, name="painter", **(options | changes))


class Tired(Painter):
    """Interrupted in its `number`th call."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def __call__(self, prompt, **how):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().__call__(prompt, **how)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_judgement_goes_on_after_its_last_call(tmp_path, number) -> None:
    whole = judged(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        judged(tmp_path, Tired(number))
    second, told = Tired(0), []
    assert judged(tmp_path, second, tell=told.append).as_json() == whole.as_json()
    assert -second.left == 3 - (number - 1)
    assert bool(told) == (number > 1) and all("going on after" in line for line in told)
    again = []
    judged(tmp_path, steps=4, tell=again.append)
    assert "other settings; starting over" in again[0]


def test_the_command_of_a_judgement_leaves_its_file_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dita.cli.libraries.silence", lambda: None)
    out = tmp_path / "verdicts.json"

    def run(pipe):
        monkeypatch.setattr(models, "load", lambda *a, **k: (pipe, {"num_inference_steps": 28}))
        arguments = ["judge", "--prompts", "12", "--batch", "4", "--steps", "3", "--json", str(out)]
        return CliRunner().invoke(cli.app, arguments)

    assert run(Tired(3)).exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.json.unfinished"]
    done = run(Painter())
    assert done.exit_code == 0 and "going on after 8 of 12 pictures" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.json"]


# ------------------------------------------------------------------------------------------------ bench


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_benchmark_goes_on_after_its_last_round(tmp_path, monkeypatch, number) -> None:
    monkeypatch.setattr(bench_job, "measured_peak", lambda *_: Peak(1e9, 1e9))
    monkeypatch.setattr(bench_job, "keep_freed_memory", lambda: False)
    out = tmp_path / "bench.json"

    def run():
        arguments = ["bench", "--scale", "0.05", "--steps", "3", "--repeats", "3", "--methods", "fora:3"]
        return CliRunner().invoke(cli.app, [*arguments, "--no-controls", "--threads", "1", "--save", str(out)])

    clean = bench_job._clean
    with monkeypatch.context() as patch:
        patch.setattr(bench_job, "_clean", after(2 + 2 * number, clean))  # two warm up, two make a round
        assert run().exit_code == 130
    calls = []
    monkeypatch.setattr(bench_job, "_clean", lambda *a: calls.append(1) or clean(*a))
    done = run()
    assert done.exit_code == 0, done.output
    assert len(calls) == 2 + 2 * (3 - (number - 1))
    data = json.loads(out.read_text())
    assert data["earlier_rounds"] == number - 1 and data["repeats"] == 3
    assert all(len(row["seconds"]) == 3 for row in data["rows"])
    said = f"{number - 1} of 3 rounds are of a run that was interrupted"
    assert (said in " ".join(done.stdout.split())) == (number > 1)
    assert not out.with_name("bench.json.unfinished").exists()
