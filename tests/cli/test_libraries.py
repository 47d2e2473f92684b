import os
import subprocess
import sys
import warnings

import pytest
from typer.testing import CliRunner

from dita.cli import app
from dita.cli.errors import one_line_errors
from dita.methods.method_file import MadeForAnotherWarning

OTHERS = {"numpy": DeprecationWarning, "torch.jit": FutureWarning, "diffusers": UserWarning, "x": RuntimeWarning}


def shown(capsys, give):
    with one_line_errors():
        give()
    return capsys.readouterr().err


def given_by(module, category=UserWarning, text="of no use", stacklevel=1):
    """Gives a warning as code of `module` would."""
    code = f"warnings.warn({text!r}, category, stacklevel={stacklevel})"
    exec(code, {"__name__": module, "warnings": warnings, "category": category})


@pytest.mark.parametrize("module", OTHERS)
@pytest.mark.parametrize("stacklevel", [1, 2])
def test_warnings_of_other_libraries_are_not_shown(capsys, module, stacklevel):
    assert shown(capsys, lambda: given_by(module, OTHERS[module], stacklevel=stacklevel)) == ""


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_deprecations_that_dita_meets_are_not_shown(capsys, category):
    assert shown(capsys, lambda: given_by("dita.compare", category)) == ""


@pytest.mark.parametrize("stacklevel", [1, 2, 3, 9])
def test_warnings_of_dita_are_shown_once(capsys, stacklevel):
    def give():
        for _ in range(3):
            given_by("dita.methods.method", text="of use", stacklevel=stacklevel)

    assert shown(capsys, give) == "warning: of use\n"


def test_warnings_of_a_category_of_dita_are_shown_whoever_gives_them(capsys):
    assert shown(capsys, lambda: given_by("torch.nn", MadeForAnotherWarning, "another")) == "warning: another\n"


def test_warnings_of_torch_from_below_python_are_not_shown(capsys):
    text = "a kernel is slow (Triggered internally at ../aten/src/ATen/Context.cpp:14.)"
    assert shown(capsys, lambda: given_by("dita.caching.run", text=text)) == ""


def test_a_comparison_shows_no_line_of_another_library(tmp_path):
    command = [sys.executable, "-m", "dita", "compare", "--model", "shapes-pixart", "--prompts", "1", "--steps", "3"]
    command += ["--methods", "fora:2", "--warmup", "1", "--out", str(tmp_path / "out")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"})
    assert [line for line in told.stderr.splitlines() if line.strip() and "done" not in line] == []


def test_the_users_own_verbosity_stays(monkeypatch):
    monkeypatch.setenv("DIFFUSERS_VERBOSITY", "debug")
    assert CliRunner().invoke(app, ["tables", "dit"]).exit_code == 0
    assert os.environ["DIFFUSERS_VERBOSITY"] == "debug"
