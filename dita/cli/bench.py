"""`dita bench`: how fast methods and rivals are, on random weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dita.cli import completion, libraries
from dita.cli.errors import one_line_errors
from dita.cli.given_methods import methods_of
from dita.cli.given_networks import checked_device
from dita.cli.options import DTYPE, check_numbers
from dita.output_files import try_files, write_file
from dita.values import choice

SMALL_SCALE = 0.2  # of `bench`, where a CPU runs a published model


def bench(
    shape: Annotated[
        str,
        typer.Option(
            autocompletion=completion.shapes,
            help="cpu-flux, cpu-pixart, cpu-opensora, or a published model as of dita plan --model.",
        ),
    ] = "cpu-flux",
    scale: Annotated[
        float | None,
        typer.Option(help="Multiplies layers, heads and image tokens; 1 on CUDA and for cpu-*, else 0.2."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.methods,
            help="Short forms or JSON files, with commas between; ToCa and FORA by default.",
        ),
    ] = None,
    rivals: Annotated[
        str, typer.Option(help="diffusers, cache-dit, single ones such as diffusers:magcache, or none; with commas.")
    ] = "none",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; 50 for FLUX and DiT, 20, 30 for videos.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each; one more warms up.")] = 3,
    controls: Annotated[bool, typer.Option(help="Also time dita attached without effect, and detached.")] = True,
    batch: Annotated[int, typer.Option(help="Pictures made at once.")] = 1,
    text_tokens: Annotated[int | None, typer.Option(help="Of a prompt with its padding.")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    compile: Annotated[str, typer.Option(help="none, blocks or model: by torch.compile, before it is timed.")] = "none",
    threads: Annotated[int | None, typer.Option(help="Of the CPU; all cores by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the same JSON to this file, after every round of runs.")
    ] = None,
) -> None:
    """Measure how fast methods and rivals really are, on a model of random weights.

    Everything is interleaved in one run, after a warm-up and after each was seen to skip what it claims. Latency does
    not depend on the weights; how good the pictures are does: that is for dita compare.
    """
    with one_line_errors():
        try_files({"--save": save})
        from dita import interrupted, models

        place = checked_device(device) if device else models.default_device()
        chosen_dtype = dtype or models.default_dtype(place)
        check_numbers(scale=scale, steps=steps, repeats=repeats, batch=batch, text_tokens=text_tokens, threads=threads)
        chosen_dtype = choice("dtype", chosen_dtype, models.DTYPES)
        libraries.silence()
        import torch

        from dita.bench import job, table
        from dita.bench import rivals as caches
        from dita.bench.workloads import DEFAULTS, SMALL_SHAPES, workload

        if threads is not None:
            torch.set_num_threads(threads)
        if scale is None:
            scale = 1.0 if place.startswith("cuda") or shape in SMALL_SHAPES else SMALL_SCALE
        kind = getattr(torch, chosen_dtype)
        work = workload(shape, scale=scale, batch=batch, text_tokens=text_tokens, dtype=kind)
        usual = DEFAULTS[work.shape.family]
        console = Console(stderr=True)

        def keep(so_far: job.Benchmark) -> None:
            if save is not None:
                try:
                    _save_benchmark(save, so_far)
                except OSError as error:  # there may be room again at the end
                    warnings.warn(str(error), stacklevel=1)

        with console.status("measuring") as status:
            result = job.bench(
                work,
                methods_of(usual.methods if methods is None else methods),
                rivals=caches.chosen(rivals),
                steps=usual.steps if steps is None else steps,
                repeats=repeats,
                controls=controls,
                dtype=kind,
                device=place,
                compile=compile,
                tell=status.update,
                keep=keep,
                keep_beside=save,
            )
        if as_json:
            typer.echo(json.dumps(table.as_json(result), indent=1))
        else:
            typer.echo(f"{table.heading(result)}\n")
            shown = Console()
            shown.print(table.table(result))
            typer.echo("")
            for label, reason in result.refused:
                typer.echo(f"{label} is left out: {reason}")
            shown.print(f"[dim]{table.LEGEND}[/dim]", highlight=False)
        if save is not None:
            _save_benchmark(save, result)
            interrupted.remove(save)
            typer.echo(f"wrote {save}", err=as_json)


def _save_benchmark(path: Path, result: Any) -> None:
    from dita.bench import table

    write_file(path, (json.dumps(table.as_json(result), indent=1) + "\n").encode())
