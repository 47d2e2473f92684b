"""benchmarks/gpu.py: how it shares out its time, what it writes, and what happens to a part that cannot be measured."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from dita.bench import job
from dita.bench.budget import Budget, OutOfTime
from dita.bench.roofline import Peak
from dita.methods import parse
from tests.bench.scripts import script


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return script("gpu")


class FakeClock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@dataclass
class FakePart:
    """Takes `takes` seconds of the `clock`, which stands still otherwise, then does `what`."""

    legend: ClassVar[str] = "What it means."
    what: ClassVar[Callable[[], Any]] = staticmethod(lambda: None)
    clock: ClassVar[FakeClock] = FakeClock()

    name: str
    seconds: float
    takes: float = 0.0

    def about(self) -> str:
        return f"about {self.name}"

    def measure(self, place: Any, seconds: float, tell: Any) -> Any:
        self.clock.time += self.takes
        self.what()
        found = sys.modules["benchmarks_gpu"].Found
        return found({"allowed": seconds}, (("Heading", ("", "s"), [("plain", f"{seconds:.1f}")]),))


def doing(what: Callable[[], Any], name: str = "a") -> FakePart:
    part = FakePart(name, 1)
    part.what = what  # type: ignore[misc]
    return part


def raising(error: BaseException) -> Callable[[], None]:
    def what() -> None:
        raise error

    return what


@pytest.fixture
def run(gpu: ModuleType, tmp_path: Path):
    def run(*parts: FakePart, seconds: float = 100.0) -> dict[str, Any]:
        place, budget = gpu.Place("cpu", dry=True), Budget(seconds, FakePart.clock)
        return gpu.run(parts, place, tmp_path, seconds / 60, budget, lambda _: None)

    yield run
    gc.unfreeze()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "measured_peak", lambda *_: Peak(1e9, 1e9))
    monkeypatch.setattr(job, "keep_freed_memory", lambda: False)


def test_time_is_shared_out_anew_before_each_part(run) -> None:
    report = run(FakePart("a", 60, takes=50), FakePart("b", 10, takes=20), FakePart("c", 30, takes=5))
    # 60 of 100 at first; then 10 of 40 shares of the 50 that are left; then all 30
    assert [part["result"]["allowed"] for part in report["parts"]] == [60, 12.5, 30]
    assert [part["seconds"] for part in report["parts"]] == [50, 20, 5]
    assert [part["status"] for part in report["parts"]] == ["done"] * 3 and report["finished"]


def test_parts_that_no_time_is_left_for_are_named(run) -> None:
    report = run(FakePart("a", 60, takes=101), FakePart("b", 10), FakePart("c", 30))
    assert [(part["name"], part["status"], part["why"]) for part in report["parts"][1:]] == [
        ("b", "left out", "no time is left"),
        ("c", "left out", "no time is left"),
    ]


def test_a_part_that_foresees_to_be_too_long_says_how_long(run, tmp_path: Path) -> None:
    report = run(doing(raising(OutOfTime("no time: about 70 s would be needed"))), FakePart("b", 1))
    assert report["parts"][0]["status"] == "left out" and report["parts"][1]["status"] == "done"
    assert "left out: no time: about 70 s would be needed" in (tmp_path / "table.md").read_text()


def test_a_part_that_fails_is_recorded_and_the_others_go_on(run, tmp_path: Path) -> None:
    broken = doing(raising(RuntimeError("CUDA out of memory.\nTried to allocate 20 GiB")))
    report = run(broken, FakePart("b", 1, takes=1))
    first, second = report["parts"]
    assert first["status"] == "failed" and first["result"] is None
    assert first["why"] == "RuntimeError: CUDA out of memory.\nTried to allocate 20 GiB"
    assert second["status"] == "done" and second["result"] is not None
    assert "failed: RuntimeError: CUDA out of memory. Tried" in (tmp_path / "table.md").read_text()


def test_files_are_whole_after_each_part_so_that_a_kill_loses_one(run, tmp_path: Path) -> None:
    def look() -> None:
        report = json.loads((tmp_path / "results.json").read_text())
        assert [part["name"] for part in report["parts"]] == ["a"] and not report["finished"]
        assert "Not finished" in (tmp_path / "table.md").read_text()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(FakePart("a", 1), doing(look, "b"), FakePart("c", 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "table.md"]
    assert [part["name"] for part in json.loads((tmp_path / "results.json").read_text())["parts"]] == ["a"]


def test_a_part_that_does_not_end_is_stopped(gpu: ModuleType) -> None:
    part = doing(lambda: time.sleep(20))
    start = time.perf_counter()
    status, why, found = gpu.attempt(part, gpu.Place("cpu"), 0.1, 0.2, lambda _: None)
    assert (status, found) == ("stopped", None) and why == "after 0 s, when 0 s had been its share"
    assert time.perf_counter() - start < 10


def test_no_except_clause_on_its_way_catches_the_alarm(gpu: ModuleType) -> None:
    def stubborn() -> None:
        try:
            time.sleep(20)
        except Exception:
            time.sleep(20)

    assert gpu.attempt(doing(stubborn), gpu.Place("cpu"), 1, 0.1, print)[0] == "stopped"


def entry(gpu: ModuleType, how: str, plain: float, efficiency: float) -> dict[str, Any]:
    rows = [
        {"label": "plain", "seconds": [plain, 9 * plain, 0.1 * plain], "efficiency": 1.0},
        {"label": parse(gpu.BAR_METHOD).label(), "seconds": [1.0], "efficiency": efficiency},
    ]
    return {"name": gpu.BAR_PARTS[how], "result": {"rows": rows}}


@pytest.mark.parametrize(
    ("eager", "compiled", "judged", "reached"),
    [
        ((7.0, 0.95), (8.0, 0.5), "eager", True),
        ((7.0, 0.85), (8.0, 0.99), "eager", False),
        ((8.0, 0.5), (7.0, 0.9), "compiled", True),
    ],
)
def test_the_bar_is_judged_where_plain_is_faster(gpu: ModuleType, eager, compiled, judged, reached) -> None:
    found = gpu.verdict([entry(gpu, "eager", *eager), entry(gpu, "compiled", *compiled)], dry=False)
    assert found["judged"] == judged and found["reached"] is reached
    assert found["eager"] == {"plain_seconds": eager[0], "efficiency": eager[1]}
    assert f"Plain is faster {judged}: the bar of 0.9 is {'reached' if reached else 'not reached'}" in found["text"]


def test_the_bar_is_not_judged_by_halves_nor_by_a_dry_run(gpu: ModuleType) -> None:
    eager, compiled = entry(gpu, "eager", 7.0, 0.95), entry(gpu, "compiled", 8.0, 0.95)
    failed = {"name": gpu.BAR_PARTS["compiled"], "result": None}
    half = gpu.verdict([eager, failed], dry=False)
    assert half["reached"] is None and "for want of: compiled. Measured: eager 0.950 (plain 7.000 s)" in half["text"]
    assert gpu.verdict([], dry=False)["reached"] is None
    dry = gpu.verdict([eager, compiled], dry=True)
    assert dry["reached"] is None and "dry run" in dry["text"]


def test_numbers_that_json_lacks_are_null(gpu: ModuleType) -> None:
    assert gpu.finite({"a": [float("nan"), (1.5, float("inf"))], "b": "nan"}) == {"a": [None, [1.5, None]], "b": "nan"}


def test_a_library_that_is_absent_costs_its_rivals_only(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    found, absent = gpu.available(["diffusers:pab", "cache-dit:dbcache"])
    assert [rival.name for rival in found] == ["pab"]
    assert absent[0][0] == "cache-dit:dbcache" and "not installed" in absent[0][1]


def test_without_a_gpu_it_says_so_in_a_line(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("no GPU") and "--dry" in told.err and told.err.count("\n") == 1 and not told.out
    assert not (tmp_path / "out").exists()


def test_parts_are_listed_and_chosen_by_name(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [part.name for part in gpu.PARTS]
    assert [part.name for part in gpu.chosen(["pixart-256, flux-dev"])] == ["flux-dev", "pixart-256"]
    for arguments, message in (["--only", "sdxl"], "unknown part 'sdxl'"), (["--minutes", "0"], "must be above 0"):
        with pytest.raises(SystemExit) as stopped:
            gpu.main([*arguments, "--dry"])
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_the_parts_are_those_of_the_bar_first_and_fill_nine_minutes(gpu: ModuleType) -> None:
    assert [part.name for part in gpu.PARTS[:2]] == list(gpu.BAR_PARTS.values())
    assert all(gpu.BAR_METHOD in part.methods and part.steps == 50 for part in gpu.PARTS[:2])
    assert sum(part.seconds for part in gpu.PARTS) == 60 * gpu.MINUTES


def test_a_dry_run_measures_a_small_model_end_to_end(
    gpu: ModuleType, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu.main(["--dry", "--only", "pixart-256"]) == 0
    folder = tmp_path / "gpu-results"
    report = json.loads((folder / "results.json").read_text())
    assert report["dry"] and report["finished"] and report["machine"]["versions"]["torch"] == torch.__version__
    (part,) = report["parts"]
    labels = [row["label"] for row in part["result"]["rows"]]
    assert labels[:4] == ["plain", "toca:3:0.7", "fora", "taylorseer:3:1"]
    assert any(label.startswith("diffusers:pab @") for label in labels)
    assert part["result"]["sizes"]["batch"] == 2 and part["result"]["dtype"] == "bfloat16"
    document = (folder / "table.md").read_text()
    assert "these are no measurements" in document and "| plain |" in document
    assert all(f"\n| {label} |" in document for label in labels)
    assert "dry run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_of_what_is_compiled_and_of_what_is_rounded(gpu: ModuleType, quick: None, tmp_path: Path) -> None:
    assert gpu.main(["--dry", "--only", "flux-dev-compiled,correctness", "--out", str(tmp_path)]) == 0
    compiled, rounded = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert compiled["result"]["compile"] == "blocks" and len(compiled["result"]["rows"]) == 4
    assert [found[0]["label"] for found in rounded["result"].values()] == ["plain"] * 3
    assert all(
        one["same_tokens"] == 1 for found in rounded["result"].values() for one in found if "random" in one["label"]
    )
