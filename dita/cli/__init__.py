"""The command line: a module for each command. Heavy imports are lazy: a plan needs no torch."""

from __future__ import annotations

from typing import Annotated

import typer

from dita.cli import (
    bench,
    compare,
    convert_opensora,
    demo,
    evaluate,
    generate,
    judge,
    libraries,
    methods,
    plan,
    study,
    tables,
    tune,
)
from dita.cli.errors import BAD_INPUT
from dita.cli.options import OnceCommand, first_paragraph
from dita.version import __version__

__all__ = ["BAD_INPUT", "app"]

app = typer.Typer(
    help="Diffusion transformers faster without retraining.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Diffusion transformers faster without retraining."""
    if version:
        typer.echo(f"dita {__version__}")
        raise typer.Exit
    libraries.hush()


for command in (
    plan.plan,
    compare.compare,
    study.study,
    tune.tune,
    generate.generate,
    bench.bench,
    convert_opensora.convert_opensora,
    judge.judge,
    evaluate.evaluate,
    demo.demo,
    methods.methods,
    tables.tables,
):
    app.command(cls=OnceCommand, short_help=first_paragraph(command))(command)
