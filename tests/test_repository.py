"""What stands around the code: one version everywhere, extras that are honest, jobs that say what they run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from dita.version import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def extras() -> dict[str, str]:
    """The lists of [project.optional-dependencies], as text."""
    text = (ROOT / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", section, re.M | re.S))


def test_one_version_is_said_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_extras_name_what_they_bring() -> None:
    found = extras()
    assert "xformers>=" in found["xformers"]
    assert found["image-reward"].strip() == "", "the package does not import beside transformers 5"
    assert "mkdocs-material" in found["docs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_the_makefile_and_ci_have(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for command in commands:
        assert set(re.findall(r"\bmake ([a-z]+)", command)) <= targets
        for script in re.findall(r"\.ci/\w+", command):
            assert (ROOT / script).is_file()
    assert commands


def test_the_whole_waits_for_the_fast_job_and_all_supported_releases_are_tested() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["whole"]["needs"] == jobs["releases"]["needs"] == "fast"
    tested = {(one["python"], one["diffusers"]) for one in jobs["releases"]["strategy"]["matrix"]["include"]}
    assert {python for python, _ in tested} == {"3.10", "3.11", "3.13"}
    assert {diffusers for _, diffusers in tested} == {"0.41", "0.42"}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_files_that_the_guides_name_are_there(name: str) -> None:
    for path in re.findall(r"`((?:docs|tests|dita|benchmarks)/[\w./-]+)`", (ROOT / name).read_text()):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path


def test_the_package_imports_nothing_of_what_trained_the_bundled_models() -> None:
    """`training/` is for clones: the wheel leaves it out."""
    assert (ROOT / "training" / "train.py").is_file()
    assert 'packages = ["dita"]' in (ROOT / "pyproject.toml").read_text()
    importing = [path for path in (ROOT / "dita").rglob("*.py") if imports_of(path) & {"training"}]
    assert not importing


@pytest.mark.parametrize("command", ["training.train", "training.curves"])
def test_docs_name_commands_that_are_there(command: str) -> None:
    assert (ROOT / f"{command.replace('.', '/')}.py").is_file()
    pages = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    assert any(f"python -m {command} " in page for page in pages)


def imports_of(path: Path) -> set[str]:
    """The top packages that a module imports, in functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {name.split(".")[0] for name in plain | {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}}
