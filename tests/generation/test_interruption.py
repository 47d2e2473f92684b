"""A job that is killed, interrupted, or out of disk at any moment: nothing that was drawn is lost, and the second run
ends with the bytes of one that nothing happened to."""

import gc
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import dita.generation
from dita.generation import runner
from dita.generation.progress import Progress
from tests.generation.stand_in import StandIn, loading, same_pictures, settings, some_items
from tests.launched import FORK

COUNT, BATCH = 9, 2
MOMENTS = 10
FULL = 28  # exit code of a child without room on the disk
SOURCES = os.path.dirname(dita.generation.__file__)


class Noting(StandIn):
    """Notes in a file what it has drawn, a line for each call."""

    def __init__(self, file: Path):
        super().__init__()
        self.file = file

    def __call__(self, prompt, **call):
        made = super().__call__(prompt, **call)
        with self.file.open("a") as file:
            file.write(json.dumps(prompt) + "\n")
        return made

    def drawn(self) -> list[list[str]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []


def run(out: Path, pipe=None):
    return runner.run(
        settings(),
        some_items(COUNT),
        out,
        batch_size=BATCH,
        progress=Progress(quiet=True),
        load=loading(pipe or StandIn()),
    )


def listed(out: Path) -> list[dict]:
    """Whole lines of the manifest, without what takes another time in every run."""
    file = out / "manifest.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def at_line(number: int, act) -> list[int]:
    """Calls `act` when this many lines of the job's code have run, in any of its threads; gives the count so far."""
    count = [0]

    def line(frame, event, _):
        if event == "line":
            count[0] += 1
            if count[0] == number:
                act()
        return line

    def tracer(frame, event, _):
        return line if frame.f_code.co_filename.startswith(SOURCES) else None

    threading.settrace(tracer)
    sys.settrace(tracer)
    return count


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "job"
    run(out)
    return out


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """How many lines of the job's code run."""
    before = sys.gettrace(), threading.gettrace()
    count = at_line(0, None)
    try:
        run(tmp_path_factory.mktemp("lines") / "job")
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])
    return count[0]


def child(out: Path, pipe: StandIn, before) -> int:
    """The exit code of a process that calls `before` and runs the job."""

    def job():
        gc.callbacks.clear()  # an interrupt that falls in a callback of the test tools would be swallowed
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        try:
            run(out, pipe)
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError:
            sys.exit(FULL)

    process = FORK.Process(target=job)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def goes_on(out: Path, reference: Path) -> runner.Outcome:
    """The outcome of the second run, whose result is that of an uninterrupted one."""
    kept = listed(out)
    files = {path.name: path.read_bytes() for path in (out / "images").glob("*.png")}
    outcome = run(out)
    assert outcome.made + outcome.found == COUNT and not outcome.failures
    assert outcome.found >= len({entry["id"] for entry in kept}), "what was listed is kept"
    assert all((out / "images" / name).read_bytes() == data for name, data in files.items()), "no file was half written"
    assert same_pictures(out / "images", reference / "images")
    by_id = {entry["id"]: entry for entry in listed(out)}
    assert by_id == {entry["id"]: entry for entry in listed(reference)}
    assert len(by_id) == len(listed(out))
    assert {path.name for path in out.iterdir()} == {path.name for path in reference.iterdir()}
    return outcome


def moments(lines: int, seed: int) -> list[int]:
    return sorted(random.Random(seed).sample(range(1, lines * 9 // 10), MOMENTS))


def test_killed_at_any_moment(tmp_path, reference, lines):
    for moment in moments(lines, seed=1):
        out, pipe = tmp_path / str(moment), Noting(tmp_path / f"{moment}.txt")
        ended = child(out, pipe, lambda moment=moment: at_line(moment, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        assert ended == -signal.SIGKILL
        written = len(list((out / "images").glob("*.png"))) if out.exists() else 0
        assert written - goes_on(out, reference).found <= 1, "at most the file that was waiting for its line"


def test_interrupted_at_any_moment(tmp_path, reference, lines):
    for moment in moments(lines, seed=2):
        out, pipe = tmp_path / str(moment), Noting(tmp_path / f"{moment}.txt")
        ended = child(out, pipe, lambda moment=moment: at_line(moment, lambda: os.kill(os.getpid(), signal.SIGINT)))
        assert ended == 130
        outcome = goes_on(out, reference)
        finished = [prompt for call in pipe.drawn()[:-1] for prompt in call]
        assert outcome.found >= len(finished), "only the call that was under way may be lost"


def test_what_a_call_drew_is_written_though_the_job_is_interrupted_while_it_is_encoded(
    tmp_path, reference, monkeypatch
):
    encode, pipe = runner.encoded, StandIn()
    seen = []

    def encoded(*args):
        seen.append(args)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(runner, "encoded", encoded)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", pipe)
    assert [entry["prompt"] for entry in listed(tmp_path / "out")] == [prompt for call in pipe.calls for prompt in call]
    assert len(listed(tmp_path / "out")) == 4
    goes_on(tmp_path / "out", reference)


def test_what_a_call_drew_is_written_though_the_job_is_interrupted_while_it_is_handed_over(
    tmp_path, reference, monkeypatch
):
    put, pipe = runner.Writer.put, StandIn()
    seen = []

    def interrupted(self, file):
        seen.append(file)
        if len(seen) == 3:
            raise KeyboardInterrupt
        put(self, file)

    monkeypatch.setattr(runner.Writer, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", pipe)
    assert len(listed(tmp_path / "out")) == 4
    goes_on(tmp_path / "out", reference)


def test_what_waits_to_be_written_is_written_though_the_job_is_interrupted_while_it_waits(tmp_path, reference):
    out = tmp_path / "out"

    def before():
        real = runner.write_whole

        def interrupting(path, data):
            if path.name == "p7-s0.png":  # all is drawn, and the job waits for the last files
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
            real(path, data)

        runner.write_whole = interrupting

    assert child(out, StandIn(), before) == 130
    assert len(listed(out)) == COUNT
    assert goes_on(out, reference).made == 0


def test_files_that_cannot_grow_further(tmp_path, reference):
    """A limit of the process on the size of files writes as much as fits, as a full disk does."""
    sizes = [len(line) + 1 for line in (reference / "manifest.jsonl").read_bytes().splitlines()]
    described = (reference / "job.json").stat().st_size
    for limit in [10, *sorted(random.Random(3).sample(range(described + 1, sum(sizes) - 50), MOMENTS - 1))]:
        out = tmp_path / str(limit)
        no_more = (limit, resource.RLIM_INFINITY)
        ended = child(out, StandIn(), lambda no_more=no_more: resource.setrlimit(resource.RLIMIT_FSIZE, no_more))
        assert ended == FULL
        manifest = out / "manifest.jsonl"
        assert not manifest.exists() or manifest.read_bytes().endswith(b"\n") or not manifest.stat().st_size
        fitting = sum(end <= limit for end in itertools.accumulate(sizes))
        assert abs(goes_on(out, reference).found - fitting) <= 1, "seconds have more or fewer digits"


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of its own, and what sets its size in pages of 4 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def sized(pages: int, *more: str) -> bool:
        options = ",".join([*more, f"size={pages * 4}k"])
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True).returncode == 0

    try:
        mounted = sys.platform == "linux" and sized(1)
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount a small disk")
    yield disk, sized
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_at_any_moment(small_disk, reference):
    disk, sized = small_disk
    full = 0
    for pages in range(1, MOMENTS + 1):
        out = disk / "out"
        assert sized(pages, "remount")
        full += child(out, StandIn(), lambda: None) == FULL
        assert sized(100, "remount")
        goes_on(out, reference)
        subprocess.run(["rm", "-r", str(out)], check=True)
    assert full >= MOMENTS - 2


GIVEN = ["--steps", "4", "--batch-size", "1", "--method", "toca:2:0.5"]
PROMPTS = [part for name in ("circle", "square", "triangle", "star") for part in ("--prompt", f"a red {name}")]
COMMAND = [sys.executable, "-m", "dita", "generate", *GIVEN, *PROMPTS, "--out"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a command that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "job"
    subprocess.run([*COMMAND, str(out)], check=True, capture_output=True)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_command_goes_on_after_a_signal(tmp_path, whole, sent):
    out = tmp_path / "out"
    process = subprocess.Popen([*COMMAND, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not listed(out) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 130)
    kept = listed(out)
    assert kept
    again = subprocess.run([*COMMAND, str(out)], check=True, capture_output=True, text=True)
    assert f"{len(kept)} were there" in again.stdout
    assert same_pictures(out / "images", whole / "images")
    assert listed(out) == listed(whole)
