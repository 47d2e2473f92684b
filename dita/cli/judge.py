"""`dita judge`: whether pictures of the shapes world show what their prompts say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dita.cli import completion, libraries
from dita.cli.errors import one_line_errors
from dita.cli.options import DTYPE, check_numbers, refuse_without_effect
from dita.methods import saved_method
from dita.model_names import canonical
from dita.output_files import try_files, write_file
from dita.values import nearest


def judge(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(autocompletion=completion.bundled_models, help="A bundled model of the shapes world.")
    ] = "shapes-flux",
    method: Annotated[
        str,
        typer.Option(
            autocompletion=completion.method,
            help="A short form such as toca:4:0.9, or a file such as tuned/method.json.",
        ),
    ] = "plain",
    prompts: Annotated[int, typer.Option(help="Held-out captions, of all kinds of scene in turn.")] = 256,
    steps: Annotated[int, typer.Option(help="Denoising steps of the plain pipeline.")] = 28,
    seed: Annotated[int, typer.Option(help="Of the captions and of the first picture; the next ones count up.")] = 0,
    batch: Annotated[int, typer.Option(help="Prompts in a call.")] = 16,
    images: Annotated[
        Path | None, typer.Option(help="Judge the pictures of this folder of dita compare, or with a manifest.json.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts to this file as JSON.")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
) -> None:
    """Judge whether pictures of the shapes world show what their prompts say.

    Makes pictures of held-out captions, or takes those of --images; reads each with the ground-truth judge; and prints
    how often shape, colour, count, relation, size, sign and background are right, and all of them at once.
    """
    with one_line_errors():
        chosen = saved_method(method.strip())
        try_files({"--json": json_file})
        from dita import interrupted, miniature, models
        from dita import judge as job

        model = canonical(model) or model
        libraries.silence()
        if images is not None:
            made = ("model", "method", "prompts", "steps", "seed", "batch", "dtype", "device")
            refuse_without_effect(context, made, "with --images, whose pictures are made already")
            judgements = job.judge_images(images)
        else:
            if not models.is_bundled(model):
                known, near = ", ".join(miniature.MINIATURES), nearest(model, miniature.MINIATURES)
                hint = f"; did you mean {near!r}?" if near else ""
                raise ValueError(f"model {model!r} does not know the shapes world; the judge is for {known}{hint}")
            check_numbers(prompts=prompts, steps=steps, seed=seed, batch=batch)
            pipe, call = models.load(model, dtype, device=device)
            judgements = [
                job.judge_model(
                    pipe,
                    chosen,
                    prompts=prompts,
                    steps=steps,
                    seed=seed,
                    batch=batch,
                    call=call,
                    name=model,
                    keep_beside=json_file,
                    tell=lambda line: typer.echo(line, err=True),
                )
            ]
        console = Console()
        for one in judgements:
            console.print(f"\n{job.title(one)}\n", highlight=False)
            console.print(job.table(one))
            console.print("")
            console.print(job.attribute_table(one))
        typer.echo(f"\n{job.LEGEND}")
        if json_file is not None:
            write_file(json_file, (json.dumps([one.as_json() for one in judgements], indent=1) + "\n").encode())
            interrupted.remove(json_file)
            typer.echo(f"\nwrote {json_file}")
