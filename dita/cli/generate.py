"""`dita generate`: pictures or videos of many prompts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from dita.cli import completion, libraries
from dita.cli.errors import one_line_errors, stoppable
from dita.cli.given_methods import say_what_is_not_kept, store_of
from dita.cli.given_models import MODEL, model_of
from dita.cli.given_networks import checked_device, workers_of
from dita.cli.options import DTYPE, MAX_CACHE, STORE_DEVICE, STORE_DTYPE, check_numbers, refuse_without_effect
from dita.methods import saved_method
from dita.stores import Store
from dita.values import choice

AUTO_BATCH = 4  # of `generate`, where memory allows
DEFAULT_STEPS = 50  # of `generate`, for models that say nothing
SOME_FAILED = 1  # exit code of `generate`


def generate(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the job: new, empty, or of this very job, which goes on.")],
    model: Annotated[str, typer.Option(autocompletion=completion.models, help=MODEL)] = "shapes-flux",
    method: Annotated[
        str,
        typer.Option(
            autocompletion=completion.method,
            help="A short form such as toca:4:0.9, or a file such as tuned/method.json.",
        ),
    ] = "plain",
    prompts: Annotated[Path | None, typer.Option(help="A file: .txt, .csv, .tsv, .jsonl or .parquet.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A text instead of a file (repeatable).")] = None,
    seeds: Annotated[str, typer.Option(help="Seed indices of every prompt: 0..3, or 0,2,7..9.")] = "0",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's own number, or 50.")] = None,
    batch_size: Annotated[str, typer.Option(help="Items of a pipeline call, halved when memory runs out.")] = "auto",
    format: Annotated[str | None, typer.Option(help="png, webp (lossless) or mp4; png, and mp4 for videos.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of a video file; 24 by default.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance_scale of the pipeline calls.")] = None,
    call: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, VALUE as JSON: more of the pipeline call (repeatable)."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    store_dtype: Annotated[str | None, typer.Option(help=STORE_DTYPE)] = None,
    store_device: Annotated[str | None, typer.Option(help=STORE_DEVICE)] = None,
    max_cache: Annotated[str | None, typer.Option(help=MAX_CACHE)] = None,
    exact: Annotated[
        bool, typer.Option(help="No bit of a picture depends on the batch; --no-exact is faster for small models.")
    ] = True,
    engine: Annotated[str, typer.Option(help="local (one process, torchrun, accelerate launch) or ray.")] = "local",
    workers: Annotated[str, typer.Option(help="Of --engine ray: a number, or 1..8 to scale between.")] = "1",
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop damaged lines of the manifest, and make their pictures again.")
    ] = False,
) -> None:
    """Make pictures or videos of many prompts; stopped at any moment and started again, it goes on.

    Writes images/ and manifest.jsonl, a line for each picture. What fails twice is listed in failures.jsonl, and the
    exit code is 1. Under torchrun or accelerate launch the processes share the work.
    """
    with one_line_errors(), stoppable():
        from dita.generation import prompts as prompt_files

        if (prompts is None) == (not prompt):
            raise ValueError("give either --prompts FILE or --prompt TEXT")
        texts = prompt_files.read(prompts) if prompts is not None else prompt_files.from_texts(prompt or [])
        indices = prompt_files.parse_seeds(seeds)
        size = _batch_size(batch_size)
        model = model_of(model)
        saved = saved_method(method.strip())
        chosen = saved.method
        from dita import models
        from dita.asking import check_classes
        from dita.call_arguments import from_entries

        check_numbers(guidance=guidance, fps=fps)
        options = {"height": height, "width": width, "guidance_scale": guidance}
        given = from_entries(call or [], {name: value for name, value in options.items() if value is not None})
        from dita.sharing import ENGINES

        engine = choice("engine", engine, ENGINES)
        if engine == "local":
            refuse_without_effect(context, ("workers",), "without --engine ray")
        kept = store_of(store_dtype, store_device, max_cache)
        from dita.generation import job, runner

        if format is not None:
            format = choice("format", format, job.FORMATS)
        names = models.class_names(model)
        if names is not None:
            check_classes(model, names, [text.text for text in texts])
        defaults = models.default_call(model)
        models.check_size(model, defaults | given)
        own_steps = defaults.pop("num_inference_steps", DEFAULT_STEPS)
        place = checked_device(device) if device else models.default_device()
        if dtype is not None:
            dtype = choice("dtype", dtype, models.DTYPES)
        settings = job.Settings(
            model=model,
            method=chosen.as_json(),
            steps=own_steps if steps is None else steps,
            dtype=dtype or models.default_dtype(place),
            device=place.partition(":")[0],
            format=format or ("mp4" if models.makes_videos(model) else "png"),
            call=defaults | given,
            exact=exact,
            fps=fps,
            store=_store_settings(kept),
        )
        if settings.format != "mp4":
            refuse_without_effect(context, ("fps",), f"on {settings.format} files; videos are --format mp4")
        say_what_is_not_kept(kept, [chosen], place)
        items = job.items(texts, indices)
        libraries.silence()
        if engine == "local":
            outcome = runner.run(
                settings,
                items,
                out,
                batch_size=size,
                device=place,
                local_files_only=local_files_only,
                repair=repair,
                made_for=saved.made_for,
            )
        else:
            from dita.generation import ray_engine

            outcome = ray_engine.run(
                settings,
                items,
                out,
                batch_size=size,
                workers=workers_of(workers),
                local_files_only=local_files_only,
                repair=repair,
                made_for=saved.made_for,
            )
    if outcome.first_process:
        there = f", {outcome.found} were there" if outcome.found else ""
        typer.echo(f"made {outcome.made} of {len(items)}{there}: {out / 'manifest.jsonl'}")
        if outcome.constant:
            typer.echo(
                f"{outcome.constant} of {outcome.made} are of one colour: see constant in the manifest", err=True
            )
        for failure in outcome.failures[:10]:
            typer.echo(f"failed: {failure['id']} seed {failure['seed']}: {failure['error']}", err=True)
    if outcome.failures:
        typer.echo(f"{len(outcome.failures)} failed: {out / 'failures.jsonl'}", err=True)
        raise typer.Exit(SOME_FAILED)


def _store_settings(store: Store) -> dict[str, Any] | None:
    """What a job notes of it: nothing of the default."""
    return None if store == Store() else dataclasses.asdict(store)


def _batch_size(text: str) -> int:
    if text == "auto":
        return AUTO_BATCH
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise ValueError(f"--batch-size must be auto or at least 1, got {text!r}")
    return int(text)
