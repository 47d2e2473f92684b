"""A comparison that is stopped at any moment goes on: nothing that was drawn is lost, no ratio spans two runs."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import dita
from dita import cli, compare, models
from dita.call_arguments import for_json
from dita.comparison_journal import OtherComparisonError
from dita.methods import parse
from dita.metrics.picture_sets import open_pictures
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart

METHODS = ("plain", "steps:0.5", "toca:4:0.9")
PROMPTS = ("a", "b", "c")
MOMENTS = 10
TINY = {module.__name__.rpartition("_")[2]: module for module in (tiny_flux, tiny_pixart, tiny_dit, tiny_opensora)}


class Drawer:
    """Draws noise from its generators, of a shade for each method, and tells `event` when it begins and ends."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, event=lambda name: None):
        self.event, self.calls, self.attached = event, [], None

    def set_progress_bar_config(self, **config):
        pass

    def __call__(self, prompt, num_inference_steps, generator, output_type, **arguments):
        self.event("begin")
        self.calls.append(tuple(prompt))
        noise = [torch.randint(40, 200, (16, 16, 3), generator=g, dtype=torch.uint8) for g in generator]
        shade = num_inference_steps % 7 + 3 * isinstance(self.attached, dita.ToCa)
        self.event("end")
        return SimpleNamespace(images=[Image.fromarray((n + shade).numpy()) for n in noise])


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """For a `Drawer`, instead of the engine, what remembers the method; real pipelines have the real one."""
    stock = SimpleNamespace(enable=dita.enable, disable=dita.disable, summary=dita.summary)
    counted = SimpleNamespace(
        kinds=(), flops=1.0, score_flops=0.0, matching_flops=0.0, cache_bytes=0, token_share=1.0, seconds={}
    )

    def enable(pipe, method, store=None, on_nan="raise"):
        if not isinstance(pipe, Drawer):
            return stock.enable(pipe, method, store=store, on_nan=on_nan)
        pipe.attached = method

    def disable(pipe):
        if not isinstance(pipe, Drawer):
            return stock.disable(pipe)
        pipe.attached = None

    monkeypatch.setattr(dita, "enable", enable)
    monkeypatch.setattr(dita, "disable", disable)
    monkeypatch.setattr(
        dita, "summary", lambda pipe, show: counted if isinstance(pipe, Drawer) else stock.summary(pipe, show=show)
    )


def run(pipe, out, methods=METHODS, prompts=PROMPTS, **options):
    return compare.compare(
        pipe, methods, prompts, out=out, **({"batch": 1, "steps": 8, "console": Console(quiet=True)} | options)
    )


def files(folder):
    """Picture files by their names inside of the results or the journal, with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


class Moments:
    """Counts what happens in a comparison, call by call and write by write, and stops it at one of these moments."""

    def __init__(self, monkeypatch, stop_at=None, stop=None):
        self.count, self.stop_at, self.stop, self.names = 0, stop_at, stop, []
        for name in ("fsync", "replace", "link", "mkdir", "unlink"):
            self.patch(monkeypatch, os, name)
        self.patch(monkeypatch, shutil, "rmtree")

    def patch(self, monkeypatch, module, name):
        stock = getattr(module, name)

        def wrapped(*args, **kwargs):
            self(name)
            return stock(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapped)

    def __call__(self, name):
        self.names.append(name)
        self.count += 1
        if self.count == self.stop_at:
            self.stop()


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """The pictures of a comparison that nothing stops, and its moments."""
    with monkeypatch.context() as patch:
        moments = Moments(patch)
        run(Drawer(moments), tmp_path / "reference")
    return SimpleNamespace(files=files(tmp_path / "reference" / "images"), names=moments.names)


def ten(names, wanted, seed):
    chosen = [number for number, name in enumerate(names, 1) if wanted is None or name in wanted]
    return random.Random(seed).sample(chosen, min(MOMENTS, len(chosen)))


def goes_on(out, reference):
    """Runs the same again, and holds it against the comparison that nothing stopped."""
    unfinished = out / "unfinished"
    drawn = files(unfinished / "images") if unfinished.is_dir() else {}
    for name, content in drawn.items():  # whole, and the right ones, also in a round that was broken
        assert content == reference.files[name], name
    kept = {path.name: path.read_text() for path in unfinished.glob("round-*.json")}
    if not (unfinished / "job.json").is_file():  # it had not begun, or was complete and is being removed
        assert (out / "results.json").is_file() or not drawn
        kept = {}
    pipe = Drawer()
    comparison = run(pipe, out)
    assert files(out / "images") == reference.files
    timed = (len(PROMPTS) - len(kept)) * len(METHODS)
    assert len(pipe.calls) == (timed + len(METHODS) if timed else 0), "warm-ups, and what was missing"
    assert sorted(path.name for path in out.iterdir()) == ["images", "report.html", "report.md", "results.json"]
    assert {len(result.timings) for result in comparison.results} == {len(PROMPTS)}
    for text in kept.values():
        for label, call in json.loads(text).items():
            (result,) = [one for one in comparison.results if one.label == label]
            assert call["timing"]["seconds"] in [timing.seconds for timing in result.timings]
    assert bool(comparison.notes) == (0 < len(kept) < len(PROMPTS))
    return comparison


@pytest.mark.parametrize("seed", range(MOMENTS))
def test_stopped_by_ctrl_c_at_any_moment_it_goes_on(tmp_path, reference, monkeypatch, seed):
    def stop():
        raise KeyboardInterrupt

    moment = ten(reference.names, None, 0)[seed]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        run(Drawer(Moments(patch, moment, stop)), tmp_path / "out")
    goes_on(tmp_path / "out", reference)


@pytest.mark.parametrize("seed", range(MOMENTS))
def test_a_disk_that_is_full_at_any_moment_loses_nothing(tmp_path, reference, monkeypatch, seed):
    def stop():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = []
    moment = ten(reference.names, ("fsync",), 0)[seed]
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"^cannot write .*No space left on device$"):
        run(Drawer(Moments(patch, moment, stop)), tmp_path / "out", tell=told.append)
    last_call = max(i for i, name in enumerate(reference.names, 1) if name == "end")
    assert not told or moment > last_call, "told once all is measured, and before the report is written"
    goes_on(tmp_path / "out", reference)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
@pytest.mark.parametrize("seed", range(MOMENTS))
def test_killed_at_any_moment_it_goes_on(tmp_path, reference, monkeypatch, seed):
    moment = ten(reference.names, None, 1)[seed]
    child = os.fork()
    if not child:
        try:
            run(Drawer(Moments(monkeypatch, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))), tmp_path / "out")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    goes_on(tmp_path / "out", reference)


def broken_off(pipe, out, after, **options):
    """A comparison that is stopped in its call number `after`, counted from 1 on."""

    def event(name):
        if name == "begin" and len(pipe.calls) + 1 == after:
            raise KeyboardInterrupt

    pipe.event = event
    with pytest.raises(KeyboardInterrupt):
        run(pipe, out, **options)
    pipe.event = lambda name: None
    return pipe


def test_a_round_that_was_broken_is_timed_again_by_all_methods_in_one_run(tmp_path):
    broken_off(Drawer(), tmp_path, after=3 + 3 + 2)  # the warm-up, a round, and one method of the second
    assert len(files(tmp_path / "unfinished" / "images")) == 4, "pictures are there as soon as they are drawn"
    comparison = run(pipe := Drawer(), tmp_path)
    assert pipe.calls[3:] == [("b",)] * 3 + [("c",)] * 3
    runs = {
        (t.repeat, t.batch): {o.timings[i].run for o in comparison.results} for i, t in enumerate_timings(comparison)
    }
    assert runs == {(0, 0): {0}, (0, 1): {1}, (0, 2): {1}}
    (note,) = comparison.notes
    assert "interrupted and resumed: drawn in 2 runs" in note and comparison.started in note
    for name in ("report.md", "report.html"):
        assert "interrupted and resumed" in (tmp_path / name).read_text()
    assert compare.from_json(json.loads((tmp_path / "results.json").read_text())) == comparison


def enumerate_timings(comparison):
    return enumerate(comparison.results[0].timings)


def test_positions_in_a_round_are_what_they_would_have_been(tmp_path):
    whole = run(Drawer(), tmp_path / "whole", repeats=2)
    broken_off(Drawer(), tmp_path / "broken", after=3 + 3 * 4 + 1, repeats=2)
    resumed = run(Drawer(), tmp_path / "broken", repeats=2)
    places = [[(t.repeat, t.batch, t.position) for r in one.results for t in r.timings] for one in (whole, resumed)]
    assert places[0] == places[1]


CHANGES = {
    "steps": ({"steps": 9}, "steps is 8 there and 9 here"),
    "seeds": ({"seeds": 1}, "number 1 of seeds is 0 there and 1 here"),
    "batch": ({"batch": 2}, "batch is 1 there and 2 here"),
    "repeats": ({"repeats": 2}, "repeats is 1 there and 2 here"),
    "warmup": ({"warmup": 2}, "warmup is 1 there and 2 here"),
    "prompts": ({"prompts": ("a", "b", "d")}, 'number 3 of prompts is "c" there and "d" here'),
    "number of prompts": ({"prompts": ("a", "b")}, "there are 3 prompts there and 2 here"),
    "methods": ({"methods": ("steps:0.5", "toca:5:0.9")}, "number 3 of methods is"),
    "call": ({"call": {"guidance_scale": 2.0}}, "call: guidance_scale is null there and 2.0 here"),
    "model": ({"name": "another"}, 'model is "Drawer" there and "another" here'),
    "store": ({"store": dita.Store("fp16")}, "store is null there and {"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_refused_in_words_or_started_over(tmp_path, change):
    options, message = CHANGES[change]
    broken_off(Drawer(), tmp_path, after=3 + 3 + 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    pipe = Drawer()
    with pytest.raises(OtherComparisonError) as refused:
        run(pipe, tmp_path, **options)
    assert message in str(refused.value) and "--overwrite to start over" in str(refused.value)
    assert pipe.calls == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    count = len(options.get("prompts", PROMPTS))
    comparison = run(pipe, tmp_path, overwrite=True, **options)
    assert comparison.notes == () and len(pipe.calls) >= count and not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize("what", ["torch", "threads", "weights"])
def test_another_torch_machine_or_model_is_refused(tmp_path, monkeypatch, what):
    broken_off(Drawer(), tmp_path, after=3 + 3 + 2)
    if what == "weights":
        monkeypatch.setattr(models, "fingerprint", lambda pipe: "other")
    elif what == "torch":
        monkeypatch.setattr(compare, "_versions", lambda: {**VERSIONS, "torch": "1.0"})
    else:
        monkeypatch.setattr(compare, "_machine", lambda: {**MACHINE, "threads": 999})
    with pytest.raises(OtherComparisonError, match=f"{what}.* there and .* here"):
        run(Drawer(), tmp_path)


VERSIONS, MACHINE = compare._versions(), compare._machine()


def test_overwrite_goes_on_where_the_settings_are_the_same(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    broken_off(Drawer(), tmp_path, after=3 + 3 + 2, overwrite=True)
    run(pipe := Drawer(), tmp_path, overwrite=True)
    assert len(pipe.calls) == 3 + 6
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_finished_comparison_stays_until_the_next_one_is_complete(tmp_path):
    first = run(Drawer(), tmp_path)
    broken_off(Drawer(), tmp_path, after=3 + 3 + 2, seeds=5)
    assert compare.from_json(json.loads((tmp_path / "results.json").read_text())) == first
    assert len(open_pictures(tmp_path / "images" / "plain")) == 3
    assert run(Drawer(), tmp_path, seeds=5).seeds == (5, 6, 7)
    run(pipe := Drawer(), tmp_path, seeds=5)
    assert len(pipe.calls) == 12, "a finished one is drawn anew"


@pytest.mark.parametrize("damage", ["cut picture", "no picture", "cut round", "zeros", "no warm-ups", "partial files"])
def test_what_is_damaged_is_drawn_again(tmp_path, damage):
    run(Drawer(), tmp_path / "whole")
    out = tmp_path / "out"
    broken_off(Drawer(), out, after=3 + 3 + 3 + 2)
    journal = out / "unfinished"
    picture = journal / "images" / "plain" / "0001.png"
    lost = 1
    if damage == "cut picture":
        picture.write_bytes(picture.read_bytes()[:-20])
    elif damage == "no picture":
        picture.unlink()
    elif damage in ("cut round", "zeros"):
        text = (journal / "round-0-00001.json").read_bytes()
        (journal / "round-0-00001.json").write_bytes(text[:40] if damage == "cut round" else bytes(len(text)))
    elif damage == "no warm-ups":
        (journal / "warm-ups.json").unlink()
        lost = 0
    else:
        (journal / ".round-0-00002.json.7.partial").write_text("{")
        (picture.parent / ".0002.png.7.partial").write_text("")
        lost = 0
    run(pipe := Drawer(), out)
    assert len(pipe.calls) == 3 + 3 * (1 + lost)
    assert files(out / "images") == files(tmp_path / "whole" / "images")


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "symphony.ly").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'symphony.ly': it is not what an interrupted comparison leaves"):
        run(Drawer(), tmp_path, overwrite=True)
    assert [path.name for path in (tmp_path / "unfinished").iterdir()] == ["symphony.ly"]


def test_pictures_of_generate_are_never_replaced(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(FileExistsError, match="holds pictures of dita generate"):
        run(Drawer(), tmp_path, overwrite=True)


def test_two_processes_do_not_draw_into_one_folder(tmp_path):
    def event(name):
        with pytest.raises(ValueError, match="another process is working on folder"):
            run(Drawer(), tmp_path)

    run(Drawer(event), tmp_path, prompts=("a",))


def test_nothing_stays_where_the_first_round_fails_by_itself(tmp_path):
    def event(name):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        run(Drawer(event), tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ what is refused first


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"generator": None}, "generator is set for every call by the job itself"),
        ({"output_type": "np"}, "output_type is set for every call"),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt is set for every call"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite, got nan"),
        ({"sigmas": [1.0, float("inf")]}, "sigmas must be finite"),
    ],
)
def test_arguments_that_the_job_sets_and_broken_numbers_are_refused_first(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        run(pipe := Drawer(), tmp_path / "out", call=call)
    assert pipe.calls == [] and list(tmp_path.iterdir()) == []


def test_arguments_that_are_no_json_are_told_by_a_checksum(tmp_path):
    picture = Image.new("RGB", (4, 4), "red")
    comparison = run(Drawer(), tmp_path, call={"image": picture, "mask": torch.ones(2, 2), "hook": len})
    assert comparison.call["image"].startswith("Image 4x4x3, sha256 ")
    assert comparison.call["mask"].startswith("Tensor 2x2, sha256 ")
    assert comparison.call["hook"] == "builtin_function_or_method"
    other = for_json({"image": Image.new("RGB", (4, 4), "blue")})
    assert other["image"] != comparison.call["image"]


def asked(family, monkeypatch):
    """A tiny pipeline that takes prompts, with the arguments that its calls need."""
    module = TINY[family]
    pipe = module.tiny_pipeline()
    if family == "flux":
        monkeypatch.setattr(pipe, "encode_prompt", lambda prompt, **_: flux_text(prompt))
        return pipe, PROMPTS, {"height": 32, "width": 32}
    if family == "pixart":
        monkeypatch.setattr(pipe, "encode_prompt", lambda prompt, *_, **__: pixart_text(prompt))
        return pipe, PROMPTS, {"height": 32, "width": 32, "use_resolution_binning": False}
    if family == "dit":
        pipe.labels = {"a": 1, "b": 2, "c": 3}
        return pipe, PROMPTS, {}
    return pipe, PROMPTS, {"height": 32, "width": 32, "num_frames": 4}


def flux_text(prompts):
    generators = [torch.Generator().manual_seed(ord(text[0])) for text in prompts]
    embeds = torch.stack([torch.randn(6, 24, generator=g) for g in generators])
    return embeds, embeds[:, 0, :12], torch.zeros(6, 3)


def pixart_text(prompts):
    found = [tiny_pixart.prompts(1, seed=ord(text[0])) for text in prompts]
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    return tuple(torch.cat([one[name] for one in found]) for name in names)


@pytest.mark.parametrize("family", TINY)
def test_every_family_goes_on_with_the_same_bytes(tmp_path, monkeypatch, family):
    pipe, prompts, call = asked(family, monkeypatch)
    options = {"prompts": prompts, "methods": ["fora:2"], "call": call, "steps": 4}
    run(pipe, tmp_path / "whole", **options)
    count, stock = 0, type(pipe).__call__

    def stopping(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == 2 + 2 + 2:
            raise KeyboardInterrupt
        return stock(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(pipe), "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(pipe, tmp_path / "out", **options)
    resumed = run(pipe, tmp_path / "out", **options)
    assert resumed.notes
    whole, again = (files(tmp_path / name / "images") for name in ("whole", "out"))
    assert whole == again and len(whole) == 2 * len(prompts)
    animations = {path.name for path in (tmp_path / "out" / "images").rglob("*.gif")}
    assert len(animations) == (len(prompts) if family == "opensora" else 0)


@pytest.mark.parametrize(
    ("family", "method", "steps", "message"),
    [
        ("flux", "tgate", 8, "tgate does not run on flux"),
        ("dit", "tgate", 8, "tgate does not run on dit"),
        ("opensora", "toca:spatial_grid=3:spatial_bonus=0.5", 8, "which do not divide this picture's"),
        ("flux", "toca:4:0.9:spatial_grid=3:spatial_bonus=0.5", 8, "which do not divide this picture's"),
        ("dit", "duca:3:0.9:spatial_grid=5", 8, "which do not divide this picture's"),
        ("pixart", "tgate:gate=9", 8, "gate must be at most the number of steps, 8, got 9"),
        ("pixart", "deltadit:2:layers=9", 8, "layers must be at most 3"),
    ],
)
def test_methods_are_held_against_the_model_before_anything_is_drawn(
    tmp_path, monkeypatch, family, method, steps, message
):
    pipe, prompts, call = asked(family, monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=message):
        patch.setattr(type(pipe), "__call__", lambda *_, **__: pytest.fail("drawn"))
        run(pipe, tmp_path / "out", methods=["fora:2", parse(method)], prompts=prompts, call=call, steps=steps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", TINY)
def test_weights_and_schedulers_are_told_apart(family):
    make = TINY[family].tiny_pipeline
    pipe = make()
    assert models.fingerprint(pipe) == models.fingerprint(make()) != models.fingerprint(make(seed=1))
    before = models.fingerprint(pipe)
    pipe.scheduler.register_to_config(num_train_timesteps=500)
    assert models.fingerprint(pipe) != before


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def command(tmp_path, monkeypatch):
    pipe = Drawer()
    monkeypatch.setattr(models, "load", lambda *_, **__: (pipe, {}))
    monkeypatch.setattr("dita.cli.libraries.silence", lambda: None)

    def invoke():
        options = ("--prompts", "a", "--prompts", "b", "--methods", "steps:0.5", "--batch", "1", "--steps", "4")
        return CliRunner(env={"COLUMNS": "200"}).invoke(
            cli.app, ["compare", "--model", "a/b", *options, "--out", str(tmp_path / "out")]
        )

    return SimpleNamespace(pipe=pipe, invoke=invoke)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_that_it_can_go_on(command, tmp_path, number):
    command.pipe.event = lambda name: signal.raise_signal(number) if len(command.pipe.calls) == 5 else None
    result = command.invoke()
    assert result.exit_code != 0 and "the same command goes on" in result.stderr
    command.pipe.event = lambda name: None
    result = command.invoke()
    assert result.exit_code == 0, result.output
    assert "going on: 1 of 2 batches were drawn and timed before" in result.stderr
    assert "interrupted and resumed" in result.stdout


def test_the_command_prints_the_table_before_a_full_disk_ends_it(command, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("dita.output_files.write_whole", full)  # the report; the journal has room
        result = command.invoke()
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == cli.BAD_INPUT and len(errors) == 1
    assert errors[0].endswith("results.json': No space left on device")
    assert "speed-up" in result.stdout and "wrote" not in result.stdout
    calls = len(command.pipe.calls)
    result = command.invoke()
    assert result.exit_code == 0 and len(command.pipe.calls) == calls, "nothing is drawn again"
    assert f"wrote {tmp_path / 'out' / 'report.html'}" in result.stdout


@pytest.mark.slow
def test_the_command_is_killed_and_goes_on(tmp_path):
    options = ("--prompts", "3", "--batch", "1", "--steps", "4", "--methods", "fora:2,toca:2:0.5", "--device", "cpu")

    def start(out):
        command = [sys.executable, "-m", "dita", "compare", *options, "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed = start(tmp_path / "out")
    while killed.poll() is None and not list((tmp_path / "out").glob("unfinished/round-*.json")):
        pass
    killed.kill()
    killed.communicate()
    rounds = len(list((tmp_path / "out").glob("unfinished/round-*.json")))
    again, whole = start(tmp_path / "out"), start(tmp_path / "whole")
    err = again.communicate()[1]
    assert again.returncode == 0 and f"going on: {rounds} of 3" in err, err
    whole.communicate()
    assert files(tmp_path / "out" / "images") == files(tmp_path / "whole" / "images")
    assert Path(tmp_path / "out" / "report.html").is_file()
