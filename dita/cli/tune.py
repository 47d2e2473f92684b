"""`dita tune`: the method that comes nearest at a speed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dita.cli import completion, libraries
from dita.cli.errors import one_line_errors, stoppable
from dita.cli.given_models import MODEL, model_of
from dita.cli.given_networks import opened_workers
from dita.cli.given_prompts import prompts_of
from dita.cli.options import BUNDLED_BATCH, DTYPE, check_numbers, refuse_without_effect
from dita.output_files import try_folder


def tune(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for method.json and the report: new, or of this very tuning.")],
    model: Annotated[str, typer.Option(autocompletion=completion.models, help=MODEL)] = "shapes-flux",
    speed_up: Annotated[float | None, typer.Option(help="The goal: times the speed of plain; 3 by default.")] = None,
    seconds: Annotated[float | None, typer.Option(help="The goal instead: seconds of an image, at most.")] = None,
    psnr: Annotated[float | None, typer.Option(help="The goal instead: dB to the reference, at least.")] = None,
    prompts: Annotated[list[str] | None, typer.Option(help="As of dita compare: 40 of dita's own by default.")] = None,
    reference: Annotated[str, typer.Option(help="What to come near: plain or converged pictures, or both.")] = "plain",
    minutes: Annotated[float, typer.Option(help="Time for all of it, about.")] = 10.0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps of plain; the model's default, or 28.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first image; later images use seed+1, seed+2, ...")] = 0,
    batch: Annotated[int | None, typer.Option(help="Prompts in a call; 4 for a bundled model, else 1.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance_scale of the pipeline calls.")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    engine: Annotated[str, typer.Option(help="local (one process, torchrun, accelerate launch) or ray.")] = "local",
    workers: Annotated[str, typer.Option(help="Of --engine ray: a number, or 1..8 to scale between.")] = "1",
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Start over where --out holds another tuning.")] = False,
) -> None:
    """Find the method that comes nearest to the plain pictures at a speed, for this model.

    Tries fewer steps, other samplers, every method, and chosen full steps; measures the best on other prompts, and says
    so where fewer steps are the answer. Stopped and started again, it goes on. Under torchrun or accelerate launch the
    processes share the trials, and the first one decides and reports.
    """
    from dita.freed_memory import keep_freed_memory

    keep_freed_memory()
    with one_line_errors(), stoppable(), opened_workers(engine, workers) as team:
        if team is None:  # this process has drawn for the first one
            return
        if engine == "local":
            refuse_without_effect(context, ("workers",), "without --engine ray")
        check_numbers(steps=steps, seed=seed, batch=batch, height=height, width=width)
        from dita import models

        model = model_of(model)
        models.default_call(model)  # refuses a name that is none
        texts = prompts_of(prompts or ["40"], model)
        libraries.silence()
        from dita.methods.method_file import METHOD_FILE
        from dita.tuning import job, report

        try_folder("--out", out)
        job.check_goal(speed_up, seconds, psnr)
        progress = Console(stderr=True)
        device = team.device(device or models.default_device())
        with progress.status(f"loading {model}"):
            libraries.silence()
            pipe, call = models.load(model, dtype, device=device, local_files_only=local_files_only)
        given = {"height": height, "width": width, "guidance_scale": guidance}
        found = job.tune(
            pipe,
            texts,
            out=out,
            speedup=speed_up,
            seconds=seconds,
            psnr=psnr,
            reference=reference,
            minutes=minutes,
            steps=steps,
            seed=seed,
            batch=batch if batch is not None else BUNDLED_BATCH if models.is_bundled(model) else 1,
            call={**call, **{key: value for key, value in given.items() if value is not None}},
            name=model,
            overwrite=overwrite,
            console=progress,
            workers=team,
            load=functools.partial(models.load, model, dtype, local_files_only=local_files_only),
        )
    Console().print(report.terminal(found))
    for name in (METHOD_FILE, report.PAGE, report.RESULTS):
        typer.echo(f"wrote {out / name}")
