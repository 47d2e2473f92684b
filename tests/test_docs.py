"""README and docs: links lead somewhere, commands are those of the program, the tutorial runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import dita
from dita import cli, models
from dita.methods import FORA, METHODS, MadeFor, parse, write_method

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests" / "golden").glob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDERS = ("path/to", "tuned", "prompts.txt", "NAME", "...", "YOURS", " M ", "mine", "out/", "coco")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1|^(?: {4}|\t).*?$|`[^`\n]*`", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#{1,6} +(.+?)\s*#*$", re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S), re.M)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", head.lower())) for head in heads}


def commands(page: Path) -> list[str]:
    """The lines of a page's code blocks that call dita, without their comments."""
    text = re.sub(r"\\\n\s*", "", text_of(page))
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    fenced = "\n".join(block for language, block in blocks if language in ("", "sh", "bash", "console", "text"))
    indented = "\n".join(re.findall(r"^(?: {4}|\t)(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M))
    lines = re.findall(r"^\s*(?:\$ )?(dita [a-z-]+(?: .*)?)$", f"{fenced}\n{indented}", re.M)
    return [re.split(r"\s#\s", line)[0].strip() for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_to_a_file_and_to_a_heading_that_is_there(page: Path) -> None:
    for target in LINK.findall(without_code(text_of(page))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} leads nowhere"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_are_python(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", text_of(page), re.M | re.S):
        compile(block, str(page), "exec")


def options_of(name: str) -> tuple[set[str], set[str]]:
    """(all, those that take no value) of a command's options."""
    group: Any = typer.main.get_command(cli.app)
    parameters = [one for one in group.commands[name].params if one.param_type_name == "option"]
    flags = {option for one in parameters if one.is_flag for option in (*one.opts, *one.secondary_opts)}
    return {option for one in parameters for option in (*one.opts, *one.secondary_opts)} | {"--help"}, flags


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_their_options_are_those_of_the_program(page: Path) -> None:
    group: Any = typer.main.get_command(cli.app)
    for line in commands(page):
        words = shlex.split(line.split("&&")[0].split("|")[0].split(">")[0])
        name = words[1]
        if name.isupper() or name.startswith("-"):
            continue
        assert name in group.commands, line
        known, _ = options_of(name)
        assert {word.partition("=")[0] for word in words[2:] if word.startswith("--")} <= known, line


RUN = sorted(
    {
        line
        for page in PAGES
        for line in commands(page)
        if line.split()[1] in ("plan", "methods", "tables")
        and not any(word in f"{line} " for word in PLACEHOLDERS)
        and "--plot" not in line
    }
)


@pytest.mark.parametrize("line", RUN)
def test_commands_that_need_no_weights_run(line: str) -> None:
    done = CliRunner().invoke(cli.app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output


MADE = sorted(
    {
        line
        for page in PAGES
        for line in commands(page)
        if line.split()[1] in ("compare", "generate", "judge", "evaluate") and "torchrun" not in line
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands of the pages take for granted: folders of earlier commands, a method file, real pictures."""
    place = tmp_path_factory.mktemp("reader")
    short = ("--model", "shapes-flux", "--steps", "4")
    red, blue = "a large red circle on a white background", "a small blue square on a grey background"
    invoked("compare", *short, "--methods", "plain,toca:4:0.9", "--prompts", "2", "--out", place / "run")
    for name, method in (("plain", "plain"), ("toca", "toca:4:0.9")):
        invoked(
            "generate", *short, "--method", method, "--prompt", red, "--prompt", blue, "--out", place / "out" / name
        )
    for name in ("coco", "photos"):
        shutil.copytree(place / "run" / "images" / "plain", place / name)
    write_method(place / "tuned", FORA(2), MadeFor(model="shapes-flux", steps=4))
    (place / "prompts.txt").write_text(f"{red}\n{blue}\n")
    (place / "coco.jsonl").write_text(json.dumps({"id": "a", "prompt": "a red circle"}) + "\n")
    return place


def invoked(*words: object) -> str:
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def shortened(line: str, out: str) -> list[str]:
    """A command of a page on a bundled model, in few steps and with few prompts, into another folder."""
    words = shlex.split(line)[1:]
    smaller = {"--model": "shapes-flux", "--steps": "4", "--out": out}
    for option, value in smaller.items():
        if option in words:
            words[words.index(option) + 1] = value
        elif option == "--steps" and words[0] in ("compare", "generate") and "--pictures" not in words:
            words += [option, value]
    if "--prompts" in words and words[words.index("--prompts") + 1].isdigit():
        words[words.index("--prompts") + 1] = "2"
    if words[0] == "judge" and "--images" not in words:
        words += ["--prompts", "4", "--steps", "4"]
    return ["run" if words[0] == "judge" and word == "out" else word for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("line", MADE)
def test_commands_that_make_or_measure_pictures_run(line: str, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    invoked(*shortened(line, f"new-{MADE.index(line)}"))


def blocks_on_bundled_models(page: Path) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", text_of(page), re.M | re.S)
    return [block for block in found if '("shapes-' in block and "Studio" not in block]


WITH_BLOCKS = [page for page in PAGES if blocks_on_bundled_models(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.stem)
def test_python_blocks_on_bundled_models_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__", "dita": dita}  # the blocks of a page go on from each other
    for block in blocks_on_bundled_models(page):
        exec(compile(block, str(page), "exec", dont_inherit=True), names)


def test_the_pages_name_enough_commands_for_these_tests_to_mean_something() -> None:
    assert len(RUN) >= 8
    assert sum(len(commands(page)) for page in PAGES) >= 30


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_short_forms_are_methods(page: Path) -> None:
    names = "|".join(METHODS)
    for form in re.findall(rf"`((?:{names}):[a-z0-9.:=/+-]+)`", text_of(page)):
        parse(form)


def costs() -> list[tuple[str, int, str, str, str | None]]:
    """(model, steps, method, ratio, GB) of every number on "Which method?"; GB for the last number of steps alone."""
    found = []
    for section in re.split(r"^### ", text_of(DOCS / "which_method.md"), flags=re.M)[1:]:
        model = re.search(r"`([\w.-]+)`", section)[1]
        head, _, *rows = re.findall(r"^\| (.+) \|$", section, re.M)
        steps = [int(number) for number in re.findall(r"(\d+) steps", head)]
        for row in rows:
            method, *ratios, size = (cell.strip(" `") for cell in row.split("|"))
            for count, ratio in zip(steps, ratios, strict=True):
                found.append((model, count, method, ratio, size if count == steps[-1] else None))
    return found


@pytest.mark.parametrize("model, steps, method, ratio, size", costs())
def test_the_costs_of_which_method_are_those_of_the_plans(model, steps, method, ratio, size) -> None:
    plan = parse(method).plan(models.shape(model), steps)
    assert f"{plan.flops_ratio():.2f}" == ratio
    assert size is None or f"{plan.cache_bytes / 1e9:.2f}" == size


# --- the tutorial


def site_tool(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, DOCS / "site_tools" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_tutorial_runs() -> None:
    notebook = json.loads(text_of(DOCS / "tutorial.ipynb"))
    outputs = site_tool("notebook").execute(notebook)
    pictures = [one for cell in outputs for one in cell if "image/png" in one.get("data", {})]
    assert len(pictures) == 3
    said = "".join(
        "".join(one.get("text", one.get("data", {}).get("text/plain", []))) for cell in outputs for one in cell
    )
    assert "True" in said and "9 full, 19 partial" in said and "dB" in said


def test_the_tutorial_is_kept_with_its_outputs() -> None:
    cells = [cell for cell in json.loads(text_of(DOCS / "tutorial.ipynb"))["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in cells) >= len(cells) - 2
    assert (DOCS / "tutorial.ipynb").stat().st_size < 300_000


def test_no_report_of_megabytes_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files", "-s", "docs"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / line.split("\t")[1] for line in listed.stdout.splitlines()]
    assert not [path for path in files if path.suffix == ".html" and path.exists()]
    assert not [path for path in files if path.exists() and path.stat().st_size > 600_000]
