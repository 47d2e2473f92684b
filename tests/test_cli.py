import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import dita.compare
from dita import cli, miniature, models
from dita.caching.adapters import UnsupportedModelError
from dita.cli.given_prompts import prompts_of
from dita.generation import runner
from dita.methods import FORA, METHODS, FewerSteps, MadeFor, Plain, write_method
from dita.methods.parameters import parameter
from dita.miniature import world
from dita.realistic_prompts import texts
from dita.tables import TABLES
from dita.version import __version__
from tests.generation.stand_in import StandIn

PLAN = ["plan", "--model", "flux-dev", "--steps", "50"]


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refused(*arguments):
    """The one line of an error that exits with code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def with_this_package():
    """The environment of a command in another folder."""
    here = str(Path(cli.__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


# ---------------------------------------------------------------------------------------------------------------- plan


def test_plan_prints_the_map_the_steps_and_both_accountings():
    result = run(*PLAN, "--method", "toca", "--cycle", "4", "--ratio", "0.9")
    assert result.exit_code == 0
    assert "double.mlp       x19  FFFpppFppp" in result.stdout
    assert "0, 1, 2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46" in result.stdout
    assert "pre-projection   1263" in result.stdout
    assert "not a speed-up" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_plan_as_json_is_nothing_but_json():
    result = run(*PLAN, "--method", "toca:4:0.9", "--json")
    data = json.loads(result.stdout)
    keys = {"model", "method", "steps", "full_steps", "tokens", "tflops", "tflops_plain", "flops_ratio", "cache_bytes"}
    assert keys <= set(data)
    assert data["method"]["method"] == "toca"
    assert result.stderr == ""


def test_accounting_chooses_the_flops_of_the_json():
    after, before = (
        json.loads(run(*PLAN, "--method", "toca:4:0.9", "--json", "--accounting", name).stdout)
        for name in ("post-projection", "pre-projection")
    )
    assert before["tflops"] == pytest.approx(1263.4, rel=1e-3)
    assert after["tflops"] < before["tflops"]


def test_plan_knows_pixart_and_dit():
    result = run("plan", "--model", "pixart-alpha-256", "--method", "toca:3:0.7", "--steps", "20", "--strict")
    assert "block.cross_attn x28  FpppfpFppFppFppFppFp" in result.stdout
    longer, shorter = (
        json.loads(run("plan", "--model", "pixart-sigma-2k", "--method", "fora:2", "--text-tokens", n, "--json").stdout)
        for n in (300, 20)
    )
    assert longer["tflops"] > shorter["tflops"]
    assert "has no text" in refused("plan", "--model", "dit-xl-2-256", "--method", "fora", "--text-tokens", 20)


@pytest.mark.parametrize("plot", [[], ["--plot", "plan.png"]], ids=["printed", "drawn"])
def test_plan_does_not_import_torch(tmp_path, plot):
    code = (
        f"import sys; sys.argv = ['dita', 'plan', '--model', 'flux-dev', '--method', 'toca', *{plot}];"
        "from dita.cli import app; app(standalone_mode=False);"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=with_this_package())
    assert result.stdout.splitlines()[-1] == f"False {bool(plot)}"


@pytest.mark.parametrize(("name", "start"), [("plan.png", b"\x89PNG"), ("plan.svg", b"<?xml"), ("plan.pdf", b"%PDF")])
def test_plan_draws_its_map(tmp_path, name, start):
    plan = [*PLAN, "--method", "toca:4:0.9", "--json"]
    printed, drawn = run(*plan), run(*plan, "--plot", tmp_path / name)
    assert (drawn.exit_code, drawn.stdout) == (0, printed.stdout)
    assert drawn.stderr == f"wrote {tmp_path / name}\n"
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_plan_that_cannot_be_drawn_is_refused(tmp_path):
    plan = [*PLAN, "--method", "fora"]
    assert "--plot draws .png, .svg, .pdf files, got 'plan.gif'" in refused(*plan, "--plot", "plan.gif")
    assert "No such file or directory" in refused(*plan, "--plot", tmp_path / "none" / "plan.png")


def test_python_m_dita_is_the_command():
    command = [sys.executable, "-m", "dita", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"dita {__version__}\n"


def test_options_change_the_short_form():
    options = ("--method", "toca:4:0.9:random", "--ratio", "0.8", "--schedule", "constant", "--strict", "--warmup", "1")
    method = json.loads(run(*PLAN, *options, "--json").stdout)["method"]
    assert (method["cycle"], method["ratio"], method["score"]) == (4, 0.8, "random")
    assert (method["schedule"], method["strict"], method["warmup"]) == ("constant", True, 1)


def test_a_method_may_be_a_json_file(tmp_path):
    path = tmp_path / "method.json"
    path.write_text('{"method": "fora", "cycle": 5}')
    assert json.loads(run(*PLAN, "--method", path, "--json").stdout)["method"] == {
        "method": "fora",
        "cycle": 5,
        "modules": "all",
        "full_steps": None,
        "full_of": None,
    }


def test_a_method_may_be_a_file_with_what_it_was_made_for(tmp_path, monkeypatch):
    write_method(tmp_path / "tuned", FORA(5), MadeFor(model="flux-dev", steps=50), {"speedup": 3})
    monkeypatch.chdir(tmp_path)
    for given in ("tuned/method.json", "tuned/", "tuned", tmp_path / "tuned"):
        assert json.loads(run(*PLAN, "--method", given, "--json").stdout)["method"] == FORA(5).as_json()
    changed = run(*PLAN, "--method", "tuned", "--cycle", "4", "--json")
    assert json.loads(changed.stdout)["method"] == FORA(4).as_json()
    assert changed.stderr == "warning: --cycle 4 takes the place of 5 in 'tuned'\n"


def test_the_size_of_pictures_and_batch_count():
    base = json.loads(run(*PLAN, "--method", "plain", "--json").stdout)
    double = json.loads(run(*PLAN, "--method", "plain", "--batch", "2", "--json").stdout)
    small = json.loads(run(*PLAN, "--method", "plain", "--height", "512", "--json").stdout)
    assert double["tflops"] == pytest.approx(2 * base["tflops"])
    assert small["tflops"] < base["tflops"] / 3


def test_a_plan_that_saves_nothing_is_a_warning():
    result = run("plan", "--model", "flux-dev", "--method", "toca:4:0.9", "--steps", "3")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: toca") and "saves nothing in 3 steps" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PLAN, "--method", "toka"], "unknown method 'toka'; known: plain, steps, fora, toca"),
        ([*PLAN, "--method", "toca", "--score", "vibes"], "unknown score 'vibes'; known: "),
        ([*PLAN, "--method", "toca", "--schedule", "s"], "unknown schedule 's'; known: "),
        ([*PLAN, "--method", "toca", "--cycle", "0"], "at least 1 (1 is the plain pipeline), got 0"),
        ([*PLAN, "--method", "toca", "--ratio", "1.5"], "ratio must be in [0, 1]"),
        ([*PLAN, "--method", "fora", "--ratio", "0.9"], "--ratio does not belong to method 'fora', which has --cycle"),
        ([*PLAN, "--method", "plain", "--cycle", "3"], "does not belong to method 'plain', which has no parameters"),
        ([*PLAN, "--method", "toca", "--accounting", "mine"], "known: post-projection, pre-projection"),
        ([*PLAN, "--method", "fora", "--height", "1000"], "multiples of 16 pixels, got 1000x1000"),
        ([*PLAN, "--method", "fora", "--batch", "0"], "batch must be at least 1, got 0"),
        ([*PLAN, "--method", "nowhere.json"], "nowhere.json"),
        (["plan", "--model", "flux-dev", "--method", "fora", "--steps", "0"], "steps must be at least 1, got 0"),
    ],
)
def test_bad_input_to_plan_is_one_clear_line(arguments, message):
    assert message in refused(*arguments)


def test_a_bad_json_file_is_one_clear_line(tmp_path):
    path = tmp_path / "method.json"
    path.write_text("[1]")
    assert "must hold an object" in refused(*PLAN, "--method", path)
    path.write_text("{")
    assert "is not JSON" in refused(*PLAN, "--method", path)
    path.write_text('{"method": "fora", "circle": 3}')
    assert "has no parameter 'circle'; it has: cycle" in refused(*PLAN, "--method", path)


def test_an_unknown_option_or_a_word_for_a_number_is_exit_code_2():
    for arguments in ([*PLAN, "--method", "fora", "--cycles", "3"], [*PLAN, "--method", "fora", "--cycle", "three"]):
        result = run(*arguments)
        assert result.exit_code == 2 and "Traceback" not in result.stderr


# ------------------------------------------------------------------------------------------------------------- compare


@pytest.fixture
def job(monkeypatch):
    """Instead of the comparison: what it was asked to do."""
    asked = SimpleNamespace(loaded=None, kwargs=None, prompts=None, methods=None)

    def load(model, dtype, **options):
        asked.loaded = (model, dtype, options)
        return "the pipeline", {"height": 64}

    def compare(pipe, methods, prompts, **kwargs):
        asked.methods, asked.prompts, asked.kwargs = [m.label() for m in methods], prompts, kwargs
        raise ValueError("that is all")

    monkeypatch.setattr(miniature, "MINIATURES", {"shapes-flux": None})
    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr(dita.compare, "compare", compare)
    monkeypatch.setattr("dita.cli.libraries.silence", lambda: None)
    return asked


def test_compare_keeps_freed_memory_before_anything_is_loaded(job, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr("dita.freed_memory.keep_freed_memory", lambda: loaded.append(job.loaded))
    run("compare", "--model", "a/b", "--methods", "fora:3", "--prompts", 3, "--out", tmp_path / "o")
    assert loaded == [None] and job.loaded is not None


def test_compare_passes_everything_on(job, tmp_path):
    options = ("--steps", 10, "--seed", 5, "--batch", 2, "--repeats", 3, "--width", 32, "--guidance", "2.5")
    machine = ("--dtype", "bfloat16", "--device", "cpu", "--local-files-only")
    methods = ("--methods", "plain, fora:3,toca:4:0.9:random")
    run("compare", "--model", "a/b", *methods, "--prompts", 3, "--out", tmp_path / "o", *options, *machine)
    assert job.loaded == ("a/b", "bfloat16", {"device": "cpu", "local_files_only": True})
    assert job.methods == ["plain", "fora", "toca:4:0.9:random"]
    assert job.prompts == texts(3)
    call = job.kwargs["call"]
    assert call == {"height": 64, "width": 32, "guidance_scale": 2.5}
    assert [job.kwargs[name] for name in ("steps", "seeds", "batch", "repeats", "warmup", "name")] == [
        10,
        5,
        2,
        3,
        1,
        "a/b",
    ]


def test_bundled_models_run_four_prompts_at_once_and_others_one(job, tmp_path):
    run("compare", "--prompts", 2, "--out", tmp_path / "o")
    assert job.kwargs["batch"] == 4
    run("compare", "--model", "a/b", "--prompts", 2, "--out", tmp_path / "o")
    assert job.kwargs["batch"] == 1


def test_a_number_of_prompts_is_of_those_that_the_model_knows(job, tmp_path):
    out = ("--methods", "fora:3", "--out", tmp_path / "o")
    run("compare", "--prompts", 3, *out)
    assert job.prompts == world.prompts(3, seed=0)
    run("compare", "--model", "a/b", *out)
    assert job.prompts == texts(14)
    folder = tmp_path / "dit"
    folder.mkdir()
    index = {"_class_name": "DiTPipeline", "id2label": {"0": "tench, Tinca tinca", "1": "goldfish", "2": "hen"}}
    (folder / "model_index.json").write_text(json.dumps(index))
    run("compare", "--model", folder, "--prompts", 2, *out)
    assert job.prompts == ["tench", "goldfish"]
    assert "the model knows 4 names of classes, got 5" in refused("compare", "--model", folder, "--prompts", 5, *out)
    assert "there are 100 realistic prompts" in refused("compare", "--model", "a/b", "--prompts", 101, *out)


def test_tuning_a_published_model_takes_realistic_prompts(job, monkeypatch, tmp_path):
    def tune(pipe, prompts, **kwargs):
        job.prompts = prompts
        raise ValueError("that is all")

    monkeypatch.setattr("dita.tuning.job.tune", tune)
    run("tune", "--model", "a/b", "--out", tmp_path / "o")
    assert job.prompts == texts(40)


def test_all_methods_are_those_of_the_models_family(job, monkeypatch, tmp_path):
    monkeypatch.setattr("dita.cli.compare._family", lambda pipe: "pixart")
    run("compare", "--prompts", 2, "--methods", "all", "--out", tmp_path / "o")
    assert job.methods[0] == "plain" and {"tgate", "pab", "duca", "deltadit", "steps"} <= set(job.methods)


def test_the_study_of_selection_has_every_score_beside_its_rivals(job, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "shape", lambda name: SimpleNamespace(family="flux"))
    run("study", "selection", "--prompts", 2, "--out", tmp_path / "o", "--metrics", "", "--steps", 12)
    assert job.methods[:4] == ["plain", "steps:0.4", "fora:4", "toca:4:0.9:attention"]
    assert "toca:4:0.9:random" in job.methods and "toca:4:0.9:cluster" in job.methods
    assert not [method for method in job.methods if "frame" in method], "pictures have no frames"
    assert job.kwargs["steps"] == 12
    assert "unknown study 'cycles'; known: selection" in refused("study", "cycles")


def test_prompts_are_a_count_a_file_or_texts(job, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\n  a blue star \n")
    for given, expected in (
        (["--prompts", path], ["a red circle", "a blue star"]),
        (["--prompts", "a cat, sitting"], ["a cat, sitting"]),
        (["--prompts", "a cat", "--prompts", "7"], ["a cat", "7"]),
    ):
        run("compare", *given, "--out", tmp_path / "o")
        assert job.prompts == expected


def test_bad_input_to_compare_is_one_clear_line_before_anything_is_loaded(job, tmp_path):
    out = ("--out", tmp_path / "o")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    (tmp_path / "empty.txt").write_text("\n")
    assert "--prompts must be at least 1, got 0" in refused("compare", "--prompts", 0, *out)
    assert "does not exist" in refused("compare", "--prompts", tmp_path / "nowhere.txt", *out)
    assert "is empty" in refused("compare", "--prompts", tmp_path / "empty.txt", *out)
    assert "unknown method 'tocca'" in refused("compare", "--prompts", 1, "--methods", "plain,tocca:4", *out)
    assert "steps must be at least 1, got 0" in refused("compare", "--prompts", 1, "--steps", 0, *out)
    assert "holds other files" in refused("compare", "--prompts", 1, "--out", full)
    assert "is a file" in refused("compare", "--prompts", 1, "--out", full / "mine")
    assert job.loaded is None


def test_an_unknown_model_lists_the_bundled_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(miniature, "MINIATURES", {"shapes-flux": None})
    line = refused("compare", "--model", "shapes", "--prompts", 1, "--out", tmp_path / "o")
    assert "unknown model 'shapes'; bundled: shapes-flux" in line


def test_a_family_without_an_adapter_is_one_clear_line(job, monkeypatch, tmp_path):
    def unsupported(*_, **__):
        raise UnsupportedModelError("no adapter for SD3Transformer2DModel; supported: FluxTransformer2DModel")

    monkeypatch.setattr(dita.compare, "compare", unsupported)
    assert "no adapter for SD3" in refused("compare", "--prompts", 1, "--out", tmp_path / "o")


def test_a_fault_of_the_program_keeps_its_traceback(job, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr(dita.compare, "compare", broken)
    result = run("compare", "--prompts", 1, "--out", tmp_path / "o")
    assert isinstance(result.exception, KeyError)


# -------------------------------------------------------------------------------------------------------- methods, help


def test_methods_has_a_line_a_method():
    listed, *notes = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["methods"]).stdout.split("\n\n")
    lines = listed.splitlines()
    assert [line.split()[0].partition(":")[0] for line in lines] == list(METHODS)
    assert all(len(line) <= 80 and len(line.split()) > 2 and not line.endswith("…") for line in lines)
    for expected in ("steps:FRACTION:SAMPLER ", "fora:CYCLE ", "toca:CYCLE:RATIO:SCORE "):
        assert expected in listed
    assert "dita methods NAME" in notes[0] and max(map(len, "\n".join(notes).splitlines())) <= 80


def test_methods_shows_the_page_of_one():
    text = run("methods", "taylorseer").stdout
    assert text.startswith("# TaylorSeer\n") and "## Parameters" in text
    assert "Families: flux (extension), pixart (extension), dit (extension), opensora." in run("methods", "pab").stdout
    assert "unknown method 'taylor'; known: plain" in refused("methods", "taylor")


def test_tables_stand_beside_recomputed_flops_and_say_what_is_wrong():
    text = run("tables", "flux", "pixart").stdout
    assert "ToCa N=4 R=90 %" in text and "1263.22" in text and "+0.00%" in text
    assert "2.62 is a misprint" in text
    assert len(json.loads(run("tables", "--json").stdout)) == len(TABLES)
    assert "unknown table 'sd'; known: flux" in refused("tables", "sd")


def test_every_parameter_has_a_meaning():
    for name, cls in METHODS.items():
        for field in dataclasses.fields(cls):
            assert parameter(cls, field.name).meaning, f"{name} {field.name}"


def test_version_and_help():
    assert run("--version").stdout == f"dita {__version__}\n"
    text = run("--help").stdout
    assert all(command in text for command in ("plan", "compare", "methods", "tables"))
    for command in ("plan", "compare", "methods"):
        assert run(command, "--help").exit_code == 0


# ------------------------------------------------------------------------------------------------------------ generate


@pytest.fixture
def drawing(monkeypatch):
    """A pipeline that draws noise, instead of the one that `--model` names."""
    pipe = StandIn()
    monkeypatch.setattr(
        runner.run, "__kwdefaults__", {**runner.run.__kwdefaults__, "load": lambda *_, **__: (pipe, {})}
    )
    monkeypatch.setattr(models, "default_call", lambda model: {"num_inference_steps": 3})
    return pipe


def test_generate_makes_pictures_and_goes_on(drawing, tmp_path):
    arguments = ["generate", "--prompt", "a", "--prompt", "b", "--seeds", "0..1", "--out", tmp_path / "out"]
    result = run(*arguments, "--call", "height=16")
    assert result.exit_code == 0, result.output
    assert "made 4 of 4: " in result.stdout
    line = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])
    assert (line["id"], line["prompt"], line["seed"], line["steps"]) == ("00000", "a", 0, 3)
    assert "made 0 of 4, 4 were there" in run(*arguments, "--call", "height=16").stdout
    assert 'call is {"height": 16} there and {} here' in refused(*arguments)


def test_generate_takes_method_files_and_prompt_files(drawing, tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"method": "steps", "fraction": 0.5}))
    (tmp_path / "p.csv").write_text("id,prompt\nx,a\n")
    files = ["--method", tmp_path / "m.json", "--prompts", tmp_path / "p.csv"]
    assert run("generate", *files, "--out", tmp_path / "out").exit_code == 0
    line = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    assert (line["id"], line["method"]) == ("x", FewerSteps(0.5).as_json())


def test_commands_name_what_a_file_was_not_made_for(drawing, tmp_path):
    path = write_method(tmp_path / "tuned", FewerSteps(0.5), MadeFor(model="other", steps=28, height=16, device="cuda"))
    made = run("generate", "--prompt", "a", "--height", "32", "--method", path, "--out", tmp_path / "out")
    assert made.exit_code == 0, made.output
    assert made.stderr.splitlines()[0].endswith(": 28 steps, here 3; height 16 pixels, here 32")
    assert made.stderr.startswith("warning: steps was made for something else")
    again = run("generate", "--prompt", "a", "--height", "32", "--method", path, "--out", tmp_path / "out")
    assert "was made for" not in again.stderr  # nothing is drawn
    planned = run("plan", "--model", "shapes-flux", "--method", path, "--steps", "20", "--height", "64")
    assert planned.stderr == (
        "warning: steps was made for something else: model other, here shapes-flux; 28 steps, here 20;"
        " height 16 pixels, here 64\n"
    )
    assert run("plan", "--model", "flux-dev", "--method", path, "--steps", "28").stderr == ""


def test_compare_hands_on_what_a_file_was_made_for(job, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(dita.compare, "compare", lambda pipe, methods, *_, **__: given.extend(methods) or refuse())
    monkeypatch.chdir(tmp_path)
    made_for = MadeFor(model="other")
    write_method(tmp_path / "tuned", FORA(5), made_for)
    refused(
        "compare", "--methods", "plain,tuned/,tuned/method.json,fora:3", "--prompts", "a", "--out", tmp_path / "out"
    )
    assert given == [Plain(), (FORA(5), made_for), (FORA(5), made_for), FORA(3)]


def refuse():
    raise ValueError("that is all")


def test_generate_says_what_failed_with_the_exit_code_1(drawing, tmp_path):
    def trouble(prompts):
        if "b" in prompts:
            raise RuntimeError("cannot draw it")

    drawing.trouble = trouble
    result = run("generate", "--prompt", "a", "--prompt", "b", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "failed: 00001 seed 0: RuntimeError: cannot draw it" in result.stderr
    assert "1 failed: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --prompts FILE or --prompt TEXT"),
        (["--prompt", "a", "--prompts", "p.txt"], "give either"),
        (["--prompts", "gone.txt"], "no prompt file 'gone.txt'"),
        (["--prompt", "a", "--seeds", "x"], "seeds must be"),
        (["--prompt", "a", "--batch-size", "0"], "--batch-size must be auto or at least 1, got '0'"),
        (["--prompt", "a", "--engine", "slurm"], "unknown engine 'slurm'; known: local, ray"),
        (["--prompt", "a", "--engine", "ray", "--workers", "3..1"], "--workers must be"),
        (["--prompt", "a", "--format", "gif"], "unknown format 'gif'; known: png, webp, mp4"),
        (["--prompt", "a", "--call", "height"], "--call takes NAME=VALUE, got 'height'"),
        (["--prompt", "a", "--call", "hight=8"], "takes no 'hight'"),
        (["--prompt", "a", "--model", "none"], "unknown model 'none'"),
    ],
)
def test_generate_refuses_bad_input(monkeypatch, tmp_path, request, arguments, message):
    if "--model" not in arguments:
        request.getfixturevalue("drawing")
    assert message in refused("generate", *arguments, "--out", tmp_path / "out")


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["shell", "background"])
def interrupting(request):
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupting")
def test_generate_that_is_told_to_end_keeps_what_is_made(drawing, tmp_path):
    """Scripts start jobs in the background with SIGINT ignored."""
    before = signal.getsignal(signal.SIGTERM)
    drawing.trouble = lambda prompts: signal.raise_signal(signal.SIGTERM) if "c" in prompts else None
    prompts = [part for text in "abcd" for part in ("--prompt", text)]
    result = run("generate", *prompts, "--batch-size", 1, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "stopped: what is made is kept, and the same command goes on" in result.stderr
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["a", "b"]
    assert signal.getsignal(signal.SIGTERM) == before
    drawing.trouble = lambda prompts: None
    assert "made 2 of 4, 2 were there" in run("generate", *prompts, "--out", tmp_path / "out").stdout


def test_compare_reads_the_prompt_files_of_generate(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "x", "prompt": "a cat"}\n')
    assert prompts_of([str(tmp_path / "p.jsonl")], "shapes-flux") == ["a cat"]
