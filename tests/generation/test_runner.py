import errno
import json
import os
import signal

import pytest

from dita.generation import files, folder, runner
from dita.generation.folder import OtherJobError
from dita.generation.job import Item
from dita.generation.progress import Progress
from dita.metrics.picture_sets import open_pictures
from tests.generation.stand_in import (
    LoadDyingOnce,
    StandIn,
    VideoStandIn,
    loading,
    same_pictures,
    settings,
    some_items,
)
from tests.launched import FORK, launched

QUIET = Progress(quiet=True)


def run(out, pipe=None, count=6, batch_size=2, **options):
    job = options.pop("settings", settings())
    some = options.pop("items", None) or some_items(count)
    load = options.pop("load", None) or loading(pipe or StandIn())
    return runner.run(job, some, out, batch_size=batch_size, progress=QUIET, load=load, **options)


def entries(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def complete(out, count=6):
    """No duplicates, no holes, no half-written files."""
    ids = [entry["id"] for entry in entries(out)]
    assert sorted(ids) == [f"p{i}" for i in range(count)]
    assert sorted(path.name for path in (out / "images").iterdir()) == [f"p{i}-s0.png" for i in range(count)]
    assert not list(out.glob(".*partial"))
    return True


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "job"
    run(out)
    return out


def test_every_item_has_a_picture_and_a_line(tmp_path):
    outcome = run(tmp_path / "out")
    assert (outcome.made, outcome.found, outcome.failures) == (6, 0, [])
    assert complete(tmp_path / "out")
    entry = entries(tmp_path / "out")[0]
    assert entry["prompt"] == "prompt 0"
    assert entry["method"] == {"method": "plain"}
    assert entry["noise_seed"] == Item("p0", "", 0).noise_seed
    assert entry["revision"].startswith("files-")
    assert {"seed", "sha256", "seconds", "versions", "model"} <= entry.keys()


def test_evaluation_reads_the_folder(tmp_path):
    run(tmp_path / "out")
    pictures = open_pictures(tmp_path / "out")
    assert [(entry.key, entry.prompt) for entry in pictures.entries][:2] == [
        (("p0", 0), "prompt 0"),
        (("p1", 0), "prompt 1"),
    ]
    assert pictures.entries[0].load().shape == (8, 8, 3)
    assert not pictures.problems


@pytest.mark.parametrize("size", [1, 4, 100])
def test_files_do_not_depend_on_the_size_of_batches(tmp_path, reference, size):
    run(tmp_path / "out", batch_size=size)
    assert same_pictures(tmp_path / "out" / "images", reference / "images")


def test_a_complete_job_loads_no_model(tmp_path):
    run(tmp_path / "out")
    outcome = run(tmp_path / "out", load=lambda *_, **__: pytest.fail("loaded"))
    assert (outcome.made, outcome.found) == (0, 6)


def test_more_prompts_and_seeds_may_join_a_job(tmp_path):
    run(tmp_path / "out", count=3)
    outcome = run(tmp_path / "out", count=5)
    assert (outcome.made, outcome.found) == (2, 3)


@pytest.mark.parametrize("prompt", ["prompt 0", "prompt 3", "prompt 5"])
def test_a_killed_job_goes_on_where_it_was(tmp_path, reference, prompt):
    load = LoadDyingOnce(tmp_path / "memory", prompt)
    process = FORK.Process(target=run, args=(tmp_path / "out",), kwargs={"load": load})
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    outcome = run(tmp_path / "out", load=load)
    assert outcome.made + outcome.found == 6
    assert complete(tmp_path / "out")
    assert same_pictures(tmp_path / "out" / "images", reference / "images")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_job_killed_while_writing_leaves_nothing_half_written(tmp_path, reference, call):
    def dies_at_the_third(real, seen=[]):  # noqa: B006 (a count for the child process)
        def wrapper(*args):
            seen.append(args)
            if len(seen) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return wrapper

    def child():
        if call == "fsync":
            os.fsync = dies_at_the_third(os.fsync)
        else:
            real = files.Path.replace
            seen = []

            def replace(self, target):
                seen.append(target)
                if len(seen) == 4:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(self, target)

            files.Path.replace = replace
        run(tmp_path / "out")

    process = FORK.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run(tmp_path / "out")
    assert complete(tmp_path / "out")
    assert same_pictures(tmp_path / "out" / "images", reference / "images")


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_cut_last_line_is_repaired(tmp_path, reference, cut):
    run(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-cut])
    outcome = run(tmp_path / "out")
    assert (outcome.made, outcome.found) == (1, 5)
    assert complete(tmp_path / "out")


def test_a_line_that_is_damaged_elsewhere_is_named(tmp_path):
    run(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([lines[0], "{broken\n", *lines[2:]]))
    with pytest.raises(ValueError, match="line 2: not an entry"):
        run(tmp_path / "out")


def test_lost_and_shortened_pictures_are_made_again(tmp_path, reference):
    run(tmp_path / "out")
    (tmp_path / "out" / "images" / "p1-s0.png").unlink()
    (tmp_path / "out" / "images" / "p2-s0.png").write_bytes(b"short")
    assert run(tmp_path / "out").made == 2
    assert complete(tmp_path / "out")
    assert same_pictures(tmp_path / "out" / "images", reference / "images")


def test_a_full_disk_ends_the_job_and_loses_nothing(tmp_path, reference, monkeypatch):
    real, seen = os.fsync, []

    def full(descriptor):
        seen.append(descriptor)
        if len(seen) > 14:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "out")
    monkeypatch.undo()
    outcome = run(tmp_path / "out")
    assert outcome.found > 0
    assert complete(tmp_path / "out")
    assert same_pictures(tmp_path / "out" / "images", reference / "images")


def test_failed_items_are_tried_again_and_then_listed(tmp_path):
    tries = {"prompt 1": 0, "prompt 4": 0}

    def trouble(prompts):
        for prompt in tries.keys() & set(prompts):
            tries[prompt] += 1
            if prompt == "prompt 4" or tries[prompt] < 3:
                raise RuntimeError(f"cannot draw {prompt}")

    out = tmp_path / "out"
    outcome = run(out, StandIn(trouble))
    assert outcome.made == 5
    assert [failure["id"] for failure in outcome.failures] == ["p4"]
    listed = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert listed[0]["error"] == "RuntimeError: cannot draw prompt 4"
    outcome = run(out)
    assert (outcome.made, outcome.failures) == (1, [])
    assert not (out / "failures.jsonl").exists()
    assert complete(out)


def test_a_job_where_nothing_succeeds_is_given_up(tmp_path):
    def trouble(prompts):
        raise RuntimeError("no such kernel")

    pipe = StandIn(trouble)
    with pytest.raises(runner.JobFailed, match="the first 8 items failed, 'p0' with: RuntimeError: no such kernel"):
        run(tmp_path / "out", pipe, count=100)
    assert len(pipe.calls) < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, "steps is 2 there and 3 here"),
        ({"method": {"method": "fora", "cycle": 3}}, "method is "),
        ({"call": {"height": 16}}, "call is "),
        ({"format": "webp"}, 'format is "png" there and "webp" here'),
    ],
)
def test_the_folder_of_another_job_is_refused(tmp_path, change, message):
    out = tmp_path / "out"
    run(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(OtherJobError, match=f"belongs to another job: {message}"):
        run(out, settings=settings(**change))
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_job_that_failed_before_its_first_picture_may_be_corrected(tmp_path):
    with pytest.raises(ValueError, match="takes no 'hight'"):
        run(tmp_path / "out", settings=settings(call={"hight": 8}))
    assert run(tmp_path / "out", settings=settings(call={"height": 8})).made == 6


def test_another_text_of_the_same_id_is_another_job(tmp_path):
    run(tmp_path / "out", count=2)
    with pytest.raises(OtherJobError, match="the prompt of id 'p1' is 'prompt 1' there and 'other' here"):
        run(tmp_path / "out", items=[Item("p1", "other", 0)])


def test_other_weights_are_another_job(tmp_path, monkeypatch):
    run(tmp_path / "out", count=2)
    monkeypatch.setattr(runner.models, "revision", lambda model: "files-other")
    with pytest.raises(OtherJobError, match="revision is"):
        run(tmp_path / "out", count=3)


def test_folders_of_other_things_and_files_are_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OtherJobError, match=r"holds other files and no job\.json"):
        run(tmp_path)
    with pytest.raises(NotADirectoryError):
        run(tmp_path / "letter.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_job_killed_before_it_described_itself_goes_on(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".job.json.17.partial").touch()
    assert run(tmp_path).made == 6
    assert complete(tmp_path)


def test_two_processes_do_not_work_on_one_folder(tmp_path):
    with folder.opened(tmp_path / "out", settings(), []), pytest.raises(OtherJobError, match="another process"):
        run(tmp_path / "out")


def test_webp_keeps_the_pixels(tmp_path, reference):
    run(tmp_path / "out", settings=settings(format="webp"))
    pairs = zip(open_pictures(tmp_path / "out").entries, open_pictures(reference).entries, strict=True)
    assert all((one.load() == other.load()).all() for one, other in pairs)


def test_videos_become_mp4(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v3 as imageio

    run(tmp_path / "out", VideoStandIn(), count=1, settings=settings(format="mp4", fps=8.0))
    assert imageio.imread(tmp_path / "out" / "images" / "p0-s0.mp4").shape == (4, 16, 16, 3)


def test_formats_must_fit_the_pipeline(tmp_path):
    with pytest.raises(ValueError, match="StandIn makes pictures: --format must be png or webp, got mp4"):
        run(tmp_path / "out", settings=settings(format="mp4"))
    with pytest.raises(ValueError, match="VideoStandIn makes videos: --format must be mp4, got png"):
        run(tmp_path / "video", VideoStandIn())


def group(out, **options):
    """The exit codes of two processes that torchrun would have started."""

    def job():
        try:
            run(out, **options)
        except OtherJobError:
            return 9

    return launched(job)


def test_two_processes_share_the_work(tmp_path, reference):
    assert group(tmp_path / "out", batch_size=1) == [0, 0]
    assert complete(tmp_path / "out")
    assert same_pictures(tmp_path / "out" / "images", reference / "images")
    assert not list((tmp_path / "out").glob("manifest.*.jsonl"))


def test_a_group_in_which_one_was_killed_loses_nothing(tmp_path, reference):
    load = LoadDyingOnce(tmp_path / "memory", "prompt 3")
    assert -signal.SIGKILL in group(tmp_path / "out", load=load, batch_size=1)
    assert group(tmp_path / "out", load=load, batch_size=1) == [0, 0]
    assert complete(tmp_path / "out")
    assert same_pictures(tmp_path / "out" / "images", reference / "images")


def test_bad_input_ends_every_process_of_a_group(tmp_path):
    run(tmp_path / "out")
    assert group(tmp_path / "out", settings=settings(steps=3)) == [9, 9]
