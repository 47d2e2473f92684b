"""`dita methods`: the methods and their parameters."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Annotated

import typer

from dita.cli.errors import one_line_errors
from dita.methods import METHODS, pages, short
from dita.values import choice


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Of the method whose page to show; all in short by default.")
    ] = None,
) -> None:
    """List the methods and their parameters, or show the page of one."""
    if name is not None:
        with one_line_errors():
            typer.echo(pages.page(METHODS[choice("method", name, METHODS)]), nl=False)
        return
    for cls in METHODS.values():
        form = ":".join((cls.name, *(part.upper() for part in cls.positional)))
        typer.echo(f"{form}\n{_indented(pages.summary_line(cls), 4)}")
        typer.echo(_indented(f"families: {pages.families_line(cls)}", 4))
        if cls.paper:
            typer.echo(_indented(f"paper: {cls.paper}", 4))
        meanings = pages.field_meanings(cls)
        for field in dataclasses.fields(cls):
            default = (
                short(field.default, field.name) if isinstance(field.default, tuple) else json.dumps(field.default)
            )
            typer.echo(f"    {field.name} = {'(not set)' if field.default is None else default}")
            meaning = meanings.get(field.name) or pages.MEANINGS.get(field.name)
            if meaning:
                typer.echo(_indented(meaning, 8))
        typer.echo("")
    typer.echo("Short form: values in the order of the capitals, then name=value: toca:4:0.9:random:schedule=constant")
    typer.echo("tome goes with any other method: tome:0.5+toca:4:0.9 merges in full steps and caches between")


def _indented(text: str, indent: int) -> str:
    return textwrap.fill(text, 100, initial_indent=" " * indent, subsequent_indent=" " * indent)
