"""Pages of the site that are made when it is built, as a hook of mkdocs: what the program itself knows best.

`cli.md` from the commands, `methods.md` from the methods, `families.md` from the published sizes, and `tutorial.md`
from the notebook. Links to files outside docs/ go to the repository if pyproject.toml names it; else they are text.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dita.cli import app
from dita.methods import METHODS, pages
from dita.shapes import NAMED_SHAPES

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
NOTEBOOK = DOCS / "tutorial.ipynb"
FAMILIES = {
    "flux": "FluxPipeline and its siblings (image to image, inpainting, ControlNet, Kontext)",
    "pixart": "PixArtAlphaPipeline, PixArtSigmaPipeline",
    "dit": "DiTPipeline",
    "opensora": "dita.pipelines.opensora.OpenSoraPipeline",
}
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that have no file."""
    made = {"cli.md": command_line(), "methods.md": methods(), "families.md": families()}
    tutorial, pictures = notebook(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    made["tutorial.md"] = tutorial
    for name, content in {**made, **pictures}.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links out of docs/ to the repository, or drops them if none is named; those to the notebook to its page."""
    folder = posixpath.dirname(page.file.src_uri)

    def mended(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if target.endswith(NOTEBOOK.name):
            return f"[{text}]({target.removesuffix('.ipynb')}.md{anchor})"
        if "://" in target or not posixpath.normpath(posixpath.join(folder, target)).startswith(".."):
            return found[0]
        outside = posixpath.normpath(posixpath.join("docs", folder, target))
        address = repository()
        return f"[{text}]({address}/blob/main/{outside}{anchor})" if address else text

    return LINK.sub(mended, markdown)


def repository() -> str | None:
    """The project's address, of `[project.urls]` in pyproject.toml; None while it has none."""
    found = re.search(r'^Repository = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    return found[1].rstrip("/") if found else None


def command_line() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("dita", [], resilient_parsing=True)
    names = group.list_commands(context)
    text = (
        "# Command line\n\n`dita COMMAND --help` says the same in the terminal.\n\n| command | does |\n| --- | --- |\n"
    )
    commands = {name: group.get_command(context, name) for name in names}
    for name, command in commands.items():
        text += f"| [`{name}`](#dita-{name}) | {_first_sentence(command)} |\n"
    for name, command in commands.items():
        text += f"\n## dita {name}\n\n{_paragraphs(command.help or '')}\n\n"
        text += "".join(entry for parameter in command.params for entry in _parameter_entries(parameter, context))
    return text


def methods() -> str:
    """One line for each method."""
    text = "# Methods\n\n`dita methods` lists them, `dita methods NAME` shows a page.\n\n"
    text += "| method | short form | what it does | families |\n| --- | --- | --- | --- |\n"
    for name, cls in METHODS.items():
        short = ":".join((name, *(part.upper() for part in cls.positional)))
        line = _cell(pages.summary_line(cls))
        text += f"| [{name}](methods/{name}.md) | `{short}` | {line} | {pages.families_line(cls)} |\n"
    return text + "\n*extension*: dita's own; no publication has the method for that family.\n"


def families() -> str:
    """The families, and the published sizes that `dita plan --model` knows by name."""
    text = "# Families\n\n| family | pipelines | methods |\n| --- | --- | --- |\n"
    for family, pipelines in FAMILIES.items():
        known = ", ".join(f"`{name}`" for name, cls in METHODS.items() if family in cls.families)
        text += f"| {family} | {pipelines} | {known} |\n"
    text += "\nOther pipelines of the same transformer work too, and so does a bare transformer"
    text += " ([Your own model](your_model.md)).\n"
    text += "\n## Sizes by name\n\nFor `dita plan --model` and `dita bench --shape`; no weights are read.\n\n"
    text += (
        "| name | family | layers | image or video tokens | TFLOPs of one step |\n| --- | --- | ---: | ---: | ---: |\n"
    )
    for name, shape in NAMED_SHAPES.items():
        plan = METHODS["plain"]().plan(shape, 1)
        layers = len({(site.stack, site.layer) for site in plan.steps[0]})
        text += f"| `{name}` | {shape.family} | {layers} | {shape.image_tokens:,} | {plan.flops() / 1e12:.3g} |\n"
    return text


def notebook(content: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """(Markdown, pictures by path) of a notebook with its stored outputs."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in content["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"tutorial/{len(pictures):02d}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![{''.join(data.get('text/plain', ['picture']))}]({name})")
            else:
                said = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
                parts.append(f"```text\n{said}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _parameter_entries(parameter: Any, context: Any) -> Iterator[str]:
    if parameter.name == "help" or getattr(parameter, "hidden", False):
        return
    if parameter.param_type_name == "option":
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    else:
        names = f"`{(parameter.name or '').upper()}`"
    default = parameter.get_default(context, call=False)
    nothing = default is None or default is False or default == () or callable(default)
    shown = " (required)" if parameter.required else "" if nothing else f", by default `{_cell(str(default))}`"
    yield f"{names}{shown}\n:   {_cell(getattr(parameter, 'help', '') or '')}\n\n"


def _first_sentence(command: Any) -> str:
    return _cell((command.help or "").split("\n\n")[0])


def _paragraphs(text: str) -> str:
    return "\n\n".join(_cell(part) for part in text.replace("\b", "").split("\n\n"))


def _cell(text: str) -> str:
    """On one line, and nothing of it taken for a table or for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
