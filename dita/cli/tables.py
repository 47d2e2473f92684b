"""`dita tables`: the published tables, recomputed."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

import typer
from rich.console import Console

from dita.cli import completion
from dita.cli.errors import one_line_errors
from dita.tables import TABLES, recompute
from dita.tables import as_json as tables_json
from dita.values import choice


def tables(
    names: Annotated[
        list[str] | None,
        typer.Argument(autocompletion=completion.tables, help=f"Of {', '.join(TABLES)}; all by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else.")] = False,
) -> None:
    """Print the published tables with FLOPs recomputed from dita's plans.

    Latency and quality are as printed; FLOPs stand beside those of this project's plan for the row. Rows that disagree
    with their own definition are marked.
    """
    with one_line_errors():
        chosen = [TABLES[choice("table", name, TABLES)] for name in names or TABLES]
    if as_json:
        typer.echo(json.dumps(tables_json(chosen), indent=1))
        return
    console = Console()
    for table in chosen:
        _print_table(console, table)


def _print_table(console: Console, table: Any) -> None:
    from dita.terminal import Column, FittingTable

    console.print(f"\n{table.title}\n{table.source}; `--model {table.shape} --steps {table.steps}`", highlight=False)
    heads = ("latency\ns", "TFLOPs\nprinted", "TFLOPs\nhere", "differ", "speed\nprinted", "speed\nhere")
    ranks = (3, 1, 1, 1, 2, 2)
    columns = [Column("method", left=True), *map(Column, heads, ranks), *(Column(head, 3) for head in table.quality)]
    printed = FittingTable("row", columns)
    notes: list[str] = []
    for one in recompute(table):
        row = one.row
        for mark in one.marks:
            notes.append(f"[{len(notes) + 1}] {row.label}: {mark}")
        numbers = "".join(f" [{n}]" for n in range(len(notes) - len(one.marks) + 1, len(notes) + 1))
        cells = [f"{row.tflops:.2f}", f"{one.tflops:.2f}", f"{one.difference:+.2%}"]
        cells += ["" if row.speed is None else f"{row.speed:.2f}", f"{one.speed:.2f}"]
        latency = "" if row.latency is None else f"{row.latency:g}"
        quality = ["" if value is None else f"{value:g}" for value in row.quality]
        printed.add(row.label + numbers, [row.method.label(), latency, *cells, *quality])
    console.print(printed, highlight=False)
    for note in notes:
        typer.echo(textwrap.fill(note, console.width - 2, subsequent_indent="    "))
    legend = "speed: ratio of FLOPs to the first row's, as the tables call it. here: from the plan of the row's method."
    typer.echo(textwrap.fill(legend, console.width - 2))
