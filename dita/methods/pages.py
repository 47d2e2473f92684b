"""What is said of each method: its page in docs/methods, and what of that is written by the method itself."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from pathlib import Path

from dita.methods.method import Method
from dita.methods.parameters import parameters_of
from dita.shapes import named_shape

PLACES = (Path(__file__).parent / "pages", Path(__file__).parents[2] / "docs" / "methods")
"""Where pages lie: in an installed package, and in a checkout."""

MODELS = {"flux": ("flux-dev", 50), "pixart": ("pixart-alpha-256", 20), "dit": ("dit-xl-2-256", 50)}
MODELS |= {"opensora": ("opensora-1.2-480p-2s", 30)}
"""The published model of each family, and its steps."""


def page(cls: type[Method]) -> str:
    """The Markdown page of a method. Raises `FileNotFoundError` where it is in neither place."""
    files = [place / f"{cls.name}.md" for place in PLACES]
    for file in files:
        if file.is_file():
            return file.read_text()
    raise FileNotFoundError(f"the page of method {cls.name!r} is in none of {', '.join(map(str, files))}")


def summary_line(cls: type[Method]) -> str:
    """The first paragraph of a method's docstring, in one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def idea_line(cls: type[Method]) -> str:
    """The idea of a method in a few words: how its docstring begins."""
    return re.split(r"[:;.](?:\s|$)| \(", summary_line(cls))[0].replace("`", "")


def form(cls: type[Method]) -> str:
    """The short form of a method, with what it takes in capitals: `toca:CYCLE:RATIO:SCORE`."""
    return ":".join((cls.name, *(part.upper() for part in cls.positional)))


def families_line(cls: type[Method]) -> str:
    """The families that a method runs on, those where that is dita's own extension marked."""
    return ", ".join(family + " (extension)" * (family in cls.extends) for family in cls.families)


def parameters(cls: type[Method]) -> str:
    """The section of a page that lists the parameters, in Markdown."""
    rows = []
    for one in parameters_of(cls):
        default = "" if one.default is None else f"`{json.dumps(one.default)}`"
        rows.append(f"| `{one.name}` | {default} | {one.takes} | {one.meaning} |")
    table = ["| parameter | default | takes | meaning |", "| --- | --- | --- | --- |", *rows]
    short = ":".join((cls.name, *(part.upper() for part in cls.positional)))
    return "\n".join([f"Short form: `{short}`.", *(["", *table] if rows else [])])


def costs(cls: type[Method]) -> str:
    """The section of a page that says what the method's defaults cost on the published models, in Markdown."""
    rows = []
    for family in cls.families:
        name, steps = MODELS[family]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = cls().plan(named_shape(name), steps)
        rows.append(
            f"| {name} | {steps} | {plan.flops() / 1e12:.5g} of {plan.plain_flops / 1e12:.5g} |"
            f" {plan.flops_ratio():.2f} | {plan.cache_bytes / 2**20:,.0f} |"
        )
    head = ["| model | steps | TFLOPs | ratio of FLOPs | cache, MiB |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])
