"""`dita methods`: the methods and their parameters."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from dita.cli import completion
from dita.cli.errors import one_line_errors
from dita.methods import METHODS, pages
from dita.terminal import terminal_width
from dita.values import choice

NOTES = (
    "dita methods NAME shows a method's page: its families, parameters and costs.",
    "Short form: values in the order of the capitals, then name=value: toca:4:0.9:random:schedule=constant",
    "tome goes with any other method: tome:0.5+toca:4:0.9 merges in full steps and caches between",
)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completion.method_names,
            help="Of the method whose page to show; all, a line each, by default.",
        ),
    ] = None,
) -> None:
    """List the methods, a line each, or show the page of one."""
    if name is not None:
        with one_line_errors():
            typer.echo(pages.page(METHODS[choice("method", name, METHODS)]), nl=False)
        return
    for cls in METHODS.values():
        typer.echo(f"{pages.form(cls):<22}  {pages.idea_line(cls)}")
    for note in NOTES:
        typer.echo("\n" + textwrap.fill(note, terminal_width() - 1))
