"""What commands write is tried before they start, is whole, and is not all that is left of the result."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dita import cli, output_files
from dita.bench import job as bench_job
from dita.bench.roofline import Peak
from dita.output_files import CannotWriteError, in_words, try_files, try_folder, write_file


def test_nothing_stays_of_a_trial(tmp_path):
    try_files({"--json": tmp_path / "a" / "b" / "x.json", "--plot": None})
    try_folder("--out", tmp_path / "c" / "d")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.json").write_text("kept")
    try_files({"--json": tmp_path / "x.json"})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder; give a file"),
        ("file/x.json", "cannot be written: "),
        ("x" * 300, "cannot be written: File name too long"),
        ("x" * 250, "cannot be written: File name too long"),  # there is no room for what is written beside it
        ("circle", "cannot be written: "),
    ],
)
def test_paths_that_cannot_be_written_are_named_without_numbers_of_the_system(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as raised:
        try_files({"--json": tmp_path / name})
    assert str(raised.value).startswith("--json ") and "Errno" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_read_only_files_folders_and_full_disks_are_refused(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # the permissions do not bind root
        with pytest.raises(ValueError, match="it is read-only"):
            try_files({"--json": tmp_path / "x.json"})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    for trial in (lambda: try_files({"--json": tmp_path / "y" / "x"}), lambda: try_folder("--out", tmp_path / "y")):
        with pytest.raises(ValueError, match="cannot be written: No space left on device"):
            trial()
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_no_two_options_name_one_file_and_none_replaces_what_is_read(tmp_path):
    (tmp_path / "in.npz").write_text("")
    (tmp_path / "link.npz").symlink_to(tmp_path / "in.npz")
    for outputs, inputs in (
        ({"--a": tmp_path / "x", "--b": tmp_path / "y" / ".." / "x"}, {}),
        ({"--a": tmp_path / "link.npz"}, {"--reference": tmp_path / "in.npz"}),
        ({"--a": tmp_path / "x", "--b": tmp_path / "x" / "y"}, {}),
    ):
        with pytest.raises(ValueError, match=r"--a .*--|--b .*--a"):
            try_files(outputs, inputs)
    try_files({"--a": tmp_path / "x"}, {"PICTURES": tmp_path})


def test_files_are_written_whole_through_links_and_devices_are_written_into(tmp_path):
    write_file(tmp_path / "new" / "x", b"one")
    (tmp_path / "link").symlink_to(tmp_path / "new" / "x")
    write_file(tmp_path / "link", b"two")
    assert (tmp_path / "new" / "x").read_bytes() == b"two" and (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "pipe", b"three")
    assert os.read(reader, 9) == b"three"
    os.close(reader)
    if Path("/dev/full").exists():
        try_files({"--json": Path("/dev/full")})
        with pytest.raises(CannotWriteError, match=r"^cannot write '/dev/full': No space left on device$") as raised:
            write_file(Path("/dev/full"), b"x")
        assert raised.value.errno == errno.ENOSPC and in_words(raised.value) == str(raised.value)


def test_errors_of_the_system_are_told_in_words():
    assert in_words(PermissionError(13, "Permission denied", "/x")) == "'/x': Permission denied"
    assert in_words(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert in_words(FileNotFoundError("there is no folder")) == "there is no folder"


# ------------------------------------------------------------------------------------------------------ command line


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two folders of pictures, and a command line that must not get as far as computing anything."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OUTPUTS = {
    "plan": ["plan", "--model", "flux-dev", "--method", "fora", "--plot", "{}.png"],
    "judge": ["judge", "--prompts", "2", "--json", "{}"],
    "bench": ["bench", "--scale", "0.05", "--steps", "2", "--save", "{}"],
    "evaluate --json": ["evaluate", "a", "--plain", "b", "--metrics", "psnr", "--json", "{}"],
    "evaluate --save-statistics": ["evaluate", "a", "--reference", "b", "--metrics", "fid", "--save-statistics", "{}"],
    "compare": ["compare", "--prompts", "2", "--out", "{}"],
    "compare --pictures": ["compare", "--pictures", "a", "--pictures", "b", "--out", "{}"],
    "study": ["study", "selection", "--metrics", "psnr", "--out", "{}"],
    "convert-opensora": ["convert-opensora", "--out", "{}"],
}


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("path", ["file/x", "x" * 300])
def test_every_output_of_every_command_is_tried_before_anything_is_computed(here, monkeypatch, command, path):
    def compute(*_, **__):
        raise AssertionError("this is too late")

    for target in (
        "dita.models.load",
        "dita.models.shape",
        "dita.bench.job.bench",
        "dita.evaluate.evaluate",
        "dita.metrics.picture_sets.open_pictures",
        "dita.compare_folders.read_manifest",
        "dita.pipelines.opensora.OpenSoraPipeline.from_original",
    ):
        if not (command == "study" and target == "dita.models.shape"):
            monkeypatch.setattr(target, compute)
    before = sorted(here.rglob("*"))
    result = CliRunner().invoke(cli.app, [argument.format(path) for argument in OUTPUTS[command]])
    assert result.exit_code == cli.BAD_INPUT, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written" in line and "Errno" not in line
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", [name for name in OUTPUTS if "out" not in OUTPUTS[name][-2] and name != "plan"])
def test_a_folder_in_place_of_a_file_is_refused(here, command):
    result = CliRunner().invoke(cli.app, [argument.format("a") for argument in OUTPUTS[command]])
    assert result.exit_code == cli.BAD_INPUT and "'a' is a folder; give a file" in result.stderr


def test_evaluate_does_not_write_twice_into_one_file_or_over_its_reference(here):
    evaluate = ["evaluate", "a", "--reference", "real.npz", "--metrics", "fid", "--save-statistics"]
    result = CliRunner().invoke(cli.app, [*evaluate, "x.npz", "--json", "./x.npz"])
    assert result.exit_code == cli.BAD_INPUT and "names the same file as" in result.stderr
    result = CliRunner().invoke(cli.app, [*evaluate, "real.npz"])
    assert result.exit_code == cli.BAD_INPUT and "would replace what it reads as --reference" in result.stderr


@pytest.fixture
def full_disk(monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(output_files, "write_whole", full)


def is_one_line(result):
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return result.exit_code == cli.BAD_INPUT and "No space left on device" in line and "Errno" not in line


def test_a_full_disk_loses_no_figures_of_an_evaluation(here, full_disk):
    result = CliRunner().invoke(
        cli.app, ["evaluate", "a", "--plain", "b", "--metrics", "psnr", "--json", str(here / "new" / "x.json")]
    )
    assert is_one_line(result) and "PSNR" in result.stdout, result.output


def test_statistics_are_written_where_the_json_cannot_be(here, monkeypatch):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli.app,
        [*("evaluate", "a", "--reference", "b", "--metrics", "fid"), "--json", "/dev/full", "--save-statistics", "n/s"],
    )
    assert is_one_line(result) and "FID" in result.stdout, result.output
    assert np.load(here / "n" / "s")["mu"].ndim == 1


def test_a_full_disk_loses_no_verdicts(here, full_disk, monkeypatch):
    from dita import judge

    found = judge.Judgement("painter", "plain", 2, (), (), ())
    monkeypatch.setattr("dita.models.load", lambda *_, **__: (None, {}))
    monkeypatch.setattr("dita.judge.judge_model", lambda *_, **__: found)
    result = CliRunner().invoke(cli.app, ["judge", "--json", str(here / "x.json")])
    assert is_one_line(result) and "painter, plain" in result.stdout, result.output


def test_a_full_disk_loses_no_plan(here, full_disk):
    result = CliRunner().invoke(cli.app, ["plan", "--model", "flux-dev", "--method", "fora", "--plot", "x.svg"])
    assert is_one_line(result) and "TFLOPs" in result.stdout, result.output


def test_bench_keeps_every_round_as_it_comes_and_a_full_disk_does_not_end_it(here, monkeypatch):
    monkeypatch.setattr(bench_job, "measured_peak", lambda *_: Peak(1e9, 1e9))
    monkeypatch.setattr(bench_job, "keep_freed_memory", lambda: False)
    rounds, clean = [], bench_job._clean
    plain = SimpleNamespace(runs=0)

    def counted(workload, contender, inputs):
        file = here / "new" / "b.json"
        if contender.label == "plain":
            plain.runs += 1
            rounds.append(json.loads(file.read_text())["repeats"] if file.exists() else None)
        return clean(workload, contender, inputs)

    monkeypatch.setattr(bench_job, "_clean", counted)
    arguments = ["bench", "--scale", "0.05", "--steps", "2", "--repeats", "3", "--methods", "fora", "--save"]
    result = CliRunner().invoke(cli.app, [*arguments, str(here / "new" / "b.json")])
    assert result.exit_code == 0, result.output
    assert rounds == [None, None, 1, 2]  # the warm-up, and three rounds
    data = json.loads((here / "new" / "b.json").read_text())
    assert data["repeats"] == 3 and [len(row["seconds"]) for row in data["rows"]] == [3] * 4
    result = CliRunner().invoke(cli.app, [*arguments, "/dev/full"])
    assert is_one_line(result) and "fora" in result.stdout and "warning: cannot write '/dev/full'" in result.stderr
