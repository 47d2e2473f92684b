import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from dita import miniature
from dita.cli import app, completion
from dita.methods import METHODS, SCORES, parse
from dita.metrics.catalogue import METRICS
from dita.models import DTYPES
from dita.shapes import NAMED_SHAPES
from dita.tables import TABLES

COMMANDS = typer.main.get_command(app).commands
NARROW = CliRunner(env={"COLUMNS": "80"})


def told(*arguments):
    return NARROW.invoke(app, list(arguments)).stdout


def test_the_list_of_commands_says_all_of_their_first_paragraphs():
    text = " ".join(told("--help").split())
    assert "..." not in text.partition("Commands:")[2]
    for command in COMMANDS.values():
        assert " ".join(command.help.split("\n\n")[0].split()) in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_eighty_characters(name):
    lines = told(name, "--help").splitlines()
    assert max(map(len, lines)) <= 80 and not any("..." in line and "…" in line for line in lines)


@pytest.mark.parametrize(
    ("command", "choices"),
    [
        ("plan", [*NAMED_SHAPES, *SCORES]),
        ("compare", [*METRICS, *DTYPES]),
        ("evaluate", [*METRICS, "local", "ray", "tensorflow", "pytorch-fid", "clean"]),
        ("tables", TABLES),
        ("tune", ["plain", "converged", "both", *DTYPES]),
        ("bench", ["none", "blocks", "model", *DTYPES]),
        ("generate", ["png", "webp", "mp4", *DTYPES]),
    ],
)
def test_choices_are_listed(command, choices):
    joined = "".join(told(command, "--help").split())  # names break at their hyphens
    assert [choice for choice in choices if choice not in joined] == []


@pytest.mark.parametrize(
    ("complete", "incomplete", "expected"),
    [
        (completion.models, "shapes-", list(miniature.MINIATURES)),
        (completion.models, "FLUX-", ["flux-dev", "flux-schnell"]),
        (completion.models, "black", ["black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"]),
        (completion.bundled_models, "", list(miniature.MINIATURES)),
        (completion.method, "t", [name for name in METHODS if name.startswith("t")]),
        (completion.method, "toca:4:0.9:ran", ["toca:4:0.9:random"]),
        (completion.method, "fora:3", []),
        (completion.methods, "fora:3,toc", ["fora:3,toca"]),
        (completion.metrics, "clip,lp", ["clip,lpips", "clip,lpips-vgg"]),
        (completion.scores, "rand", ["random"]),
        (completion.tables, "dit", ["dit", "dit-ddpm"]),
        (completion.studies, "sel", ["selection"]),
        (completion.shapes, "cpu-f", ["cpu-flux"]),
    ],
)
def test_names_are_completed(complete, incomplete, expected):
    assert complete(incomplete) == expected


def test_what_is_completed_of_a_method_is_one():
    for one in completion.method("toca:4:0.9:"):
        if not one.endswith("frame-uniqueness"):
            assert parse(one).label().startswith("toca")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dita generate --model shapes-f", "shapes-flux"),
        ("dita plan --method toca:4:0.9:rand", "toca:4:0.9:random"),
        ("dita plan --score uni", "uniform"),
        ("dita evaluate --metrics clip,lp", "clip,lpips"),
        ("dita tables flux-", "flux-successors"),
        ("dita comp", "compare"),
    ],
)
def test_the_shell_gets_completions(words, expected):
    environment = {"_DITA_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
    result = CliRunner(env=environment).invoke(app, [], prog_name="dita")
    assert expected in result.output.replace("\\", "")


def test_the_command_line_imports_neither_torch_nor_the_libraries_above_it():
    code = (
        "import sys, dita.cli; print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("columns", ["60", "80", "120"])
@pytest.mark.parametrize("steps", ["4", "50", "250"])
@pytest.mark.parametrize("method", ["toca:4:0.9", "tome+toca", "taylorseer", "call:3:1:full=0/3/6/9:of=28"])
def test_a_plan_fits_the_terminal(columns, steps, method):
    result = CliRunner(env={"COLUMNS": columns}).invoke(
        app, ["plan", "--model", "flux-dev", "--method", method, "--steps", steps, "--max-cache", "1GB"]
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    rows = [line[24:] for line in lines if line.startswith("  single ") and " x38" in line]
    assert len("".join(rows)) == int(steps)
