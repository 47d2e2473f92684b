"""The command line: one function a command. Imports are lazy: a plan needs no torch."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dita.fitting import with_store
from dita.footprint import staged_bytes
from dita.methods import (
    METHODS,
    SCORES,
    Composition,
    FewerSteps,
    MadeFor,
    Method,
    Plain,
    SavedMethod,
    as_methods,
    from_json,
    named_parameters,
    names_a_file,
    pages,
    saved_method,
    short,
    warn_of_another,
)
from dita.methods.method_file import read_fields
from dita.methods.pages import MEANINGS
from dita.methods.pages import field_meanings as _field_meanings
from dita.options import (
    OnceCommand,
    check_metric_options,
    check_numbers,
    is_number,
    option_of,
    refuse_without_effect,
    was_given,
)
from dita.output_files import in_words, try_files, try_folder, write_file
from dita.plan import Plan
from dita.schedules import RATIO_SCHEDULES
from dita.shapes import ACCOUNTINGS, NAMED_SHAPES, Accounting
from dita.stores import Store, parse_bytes
from dita.studies import STUDIES
from dita.values import field_hints, unknown
from dita.version import __version__

app = typer.Typer(
    help="Diffusion transformers faster without retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

BAD_INPUT = 2  # exit code
SOME_FAILED = 1  # exit code of `generate`
STOPPED = 130  # exit code after Ctrl-C, as shells have it
BUNDLED_BATCH = 4  # prompts in a call for the small bundled models; 1 for others
REALISTIC_PROMPTS = "14"  # of `compare` with a model that is not bundled: two of each kind
AUTO_BATCH = 4  # of `generate`, where memory allows
FIGURES = (".png", ".svg", ".pdf")  # that `plan --plot` can draw
DEFAULT_STEPS = 50  # of `generate`, for models that say nothing
MAKING = (
    *("prompts", "model", "methods", "steps", "seed", "batch", "repeats", "warmup", "height", "width"),
    *("guidance", "dtype", "local_files_only", "store_dtype", "store_device", "max_cache"),
)  # options of `compare` that pictures which are there already do not take
SMALL_SCALE = 0.2  # of `bench`, where a CPU runs a published model

_STORE_OPTIONS = ("--store-dtype", "--store-device", "--max-cache")

_STORE_DTYPE = "Keep features as bf16, fp16 or fp8; as computed by default (docs/memory.md)."
_STORE_DEVICE = "Keep features on the cpu, fetched ahead of their use; on the model's device by default."
_OVERWRITE = "Write into --out whatever it holds, and start over where other settings were interrupted."
_MAX_CACHE = "Keep 3.2GB of features, or 512MiB, at most: what saves the least for its bytes is computed."


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Diffusion transformers faster without retraining."""
    if version:
        typer.echo(f"dita {__version__}")
        raise typer.Exit


@app.command(cls=OnceCommand)
def plan(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help=f"{', '.join(NAMED_SHAPES)}, a bundled model, or a local diffusers folder.")
    ],
    method: Annotated[
        str,
        typer.Option(help="A short form such as toca:4:0.9:random or tome+toca, or a file such as tuned/method.json."),
    ],
    steps: Annotated[int, typer.Option(help="Denoising steps of the plain pipeline.")] = 50,
    cycle: Annotated[int | None, typer.Option(help="N: full steps are N apart.")] = None,
    ratio: Annotated[float | None, typer.Option(help="R: share of the tokens that a cached step reuses.")] = None,
    score: Annotated[str | None, typer.Option(help=f"Token score: {', '.join(SCORES)}.")] = None,
    schedule: Annotated[str | None, typer.Option(help=f"Ratio schedule: {', '.join(RATIO_SCHEDULES)}.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Full steps at the start.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Of the steps, for --method steps.")] = None,
    strict: Annotated[bool | None, typer.Option("--strict", help="Reproduce the reference's quirks.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; the same as the height by default.")] = None,
    batch: Annotated[int, typer.Option(help="Pictures made at once.")] = 1,
    text_tokens: Annotated[
        int | None, typer.Option(help="Of a prompt with its padding; the model's own number.")
    ] = None,
    store_dtype: Annotated[str | None, typer.Option(help=_STORE_DTYPE)] = None,
    store_device: Annotated[str | None, typer.Option(help=_STORE_DEVICE)] = None,
    max_cache: Annotated[str | None, typer.Option(help=_MAX_CACHE)] = None,
    accounting: Annotated[str, typer.Option(help=f"Of FLOPs: {' or '.join(ACCOUNTINGS)}.")] = ACCOUNTINGS[0],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the plan as a map into this file too: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Print what a method does and costs, step by step.

    Needs no weights and no GPU.
    """
    with _one_line_errors():
        changes = {
            "cycle": cycle,
            "ratio": ratio,
            "score": score,
            "schedule": schedule,
            "warmup": warmup,
            "fraction": fraction,
            "strict": strict,
        }
        saved = _changed(method, {key: value for key, value in changes.items() if value is not None})
        if plot is not None and plot.suffix not in FIGURES:
            raise ValueError(f"--plot draws {', '.join(FIGURES)} files, got {str(plot)!r}")
        try_files({"--plot": plot}, make_folders=False)
        if accounting not in ACCOUNTINGS:
            raise unknown("accounting", accounting, ACCOUNTINGS)
        if not as_json:
            refuse_without_effect(context, ("accounting",), "without --json: both are printed")
        counted: Accounting = "pre-projection" if accounting == "pre-projection" else "post-projection"
        from dita import models

        shape = models.shape(model, batch=batch, height=height, width=width, text_tokens=text_tokens)
        kept = _store(store_dtype, store_device, max_cache)
        result = with_store(saved.method.plan(shape, steps), kept)
        loaded = None if model in NAMED_SHAPES else model  # the sizes of a published model are no model of a file
        warn_of_another(saved, MadeFor(model=loaded, steps=steps, height=height or width, width=width or height))
        _say_what_is_not_kept(kept, [saved.method])
        typer.echo(json.dumps(result.as_json(counted), indent=2) if as_json else _plan_text(result))
        if plot is not None:
            _draw_plan(result, plot)


@app.command(cls=OnceCommand)
def compare(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the results: new, empty, or of an earlier comparison.")],
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="How many of dita's own prompts (docs/prompts.md), a file, or a text (repeatable)."),
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=DIR or DIR, of dita generate: compare what is there already (repeatable; one is plain=DIR)."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A bundled name, a local diffusers folder, or a hub id.")] = "shapes-flux",
    methods: Annotated[
        str, typer.Option(help="Short forms or JSON files, with commas between; or all. Plain is always there.")
    ] = "plain,steps:0.5,fora:3,toca:4:0.9,toca:4:0.9:random",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default, or 28.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first picture; the next ones count up.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Prompts in a call; 4 for a bundled model, else 1.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed calls of each method and batch.")] = 1,
    warmup: Annotated[int, typer.Option(help="Untimed calls of each method.")] = 1,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance_scale of the pipeline calls.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 on CUDA and float32 elsewhere by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    store_dtype: Annotated[str | None, typer.Option(help=_STORE_DTYPE)] = None,
    store_device: Annotated[str | None, typer.Option(help=_STORE_DEVICE)] = None,
    max_cache: Annotated[str | None, typer.Option(help=_MAX_CACHE)] = None,
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
    overwrite: Annotated[bool, typer.Option(help=_OVERWRITE)] = False,
    metrics: Annotated[
        str | None, typer.Option(help="More columns: clip,image-reward,lpips (docs/metrics.md).")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Real pictures or .npz, for fid and its kin.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder that holds the weights of the metrics' networks.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH or NAME=HUB_ID of a metric's network (repeatable).")
    ] = None,
) -> None:
    """Make the same pictures with every method, and report; or compare those of folders (--pictures).

    Prints a table, and writes a page with the pictures, Markdown, JSON and the pictures themselves into a folder.
    Results of an earlier comparison in --out are replaced, once the new ones are complete. Stopped at any moment and
    started again, it goes on: what was drawn and timed until then is in the folder's unfinished/.
    """
    with _one_line_errors(), _goes_on(out):
        try_folder("--out", out)
        if pictures:
            stray = [name for name in MAKING if was_given(context, name)]
            if stray:
                raise ValueError(
                    f"{option_of(stray[0])} belongs to making pictures; --pictures compares those that are there"
                )
            if metrics is None:
                refuse_without_effect(context, ("device",), "without --metrics: nothing is computed on it")
            check_metric_options(context, _columns(metrics), _named(network))
            _compare_folders(pictures, out, overwrite, metrics, reference, weights, network or [], device or "cpu")
            return
        from dita import models, report

        if not prompts and models.is_bundled(model):
            raise ValueError("give --prompts to make pictures, or --pictures to compare those of folders")
        every = methods.strip() == "all"
        chosen: Sequence[Method | SavedMethod] = [] if every else _methods(methods)
        kept = _store(store_dtype, store_device, max_cache)
        texts = _prompts(prompts or [REALISTIC_PROMPTS], model)
        columns = _columns(metrics)
        check_metric_options(context, columns, _named(network))
        check_numbers(steps=steps, seed=seed, batch=batch, repeats=repeats, warmup=warmup, guidance=guidance)
        from dita.compare import compare as run
        from dita.freed_memory import keep_freed_memory

        report.check_folder(out, overwrite, resumes=True)
        _say_what_is_not_kept(kept, as_methods(chosen), device)
        networks = None
        if columns:
            networks = _networks(weights, network or [], device=device or "cpu")
            networks.locate(columns)
        progress = Console(stderr=True)
        keep_freed_memory()
        with progress.status(f"loading {model}"):
            _silence_libraries()
            pipe, call = models.load(model, dtype, device=device, local_files_only=local_files_only)
        if every:
            from dita.studies import every_method

            chosen = every_method(_family(pipe))
        given = {"height": height, "width": width, "guidance_scale": guidance}
        result = run(
            pipe,
            chosen,
            texts,
            out=out,
            steps=steps,
            seeds=seed,
            batch=batch if batch is not None else BUNDLED_BATCH if models.is_bundled(model) else 1,
            repeats=repeats,
            warmup=warmup,
            call={**call, **{key: value for key, value in given.items() if value is not None}},
            name=Path(model).resolve().name if Path(model).is_dir() else model,
            overwrite=overwrite,
            metrics=columns,
            networks=networks,
            reference=reference,
            store=kept,
            console=progress,
            tell=lambda comparison: _show_comparison(comparison, networks),
        )
        _name_files(result, out)


def _compare_folders(
    given: list[str],
    out: Path,
    overwrite: bool,
    metrics: str | None,
    reference: Path | None,
    weights: Path | None,
    network: list[str],
    device: str,
) -> None:
    """`dita compare` of pictures that are there."""
    from dita.compare_folders import compare_folders

    columns = _columns(metrics)
    _silence_libraries()
    networks = _networks(weights, network, device=device)
    named = [entry.rpartition("=") if not Path(entry).exists() else ("", "", entry) for entry in given]
    result = compare_folders(
        [(name, Path(path)) for name, _, path in named],
        out=out,
        overwrite=overwrite,
        metrics=columns,
        networks=networks,
        reference=reference,
        tell=lambda comparison: _show_comparison(comparison, networks),
    )
    _name_files(result, out)


def _columns(metrics: str | None) -> list[Any]:
    """The metrics that `--metrics` names."""
    from dita.metrics import catalogue

    return catalogue.parse(metrics) if metrics is not None else []


def _named(network: list[str] | None) -> list[str]:
    """The names of `--network NAME=SOURCE`."""
    return [entry.partition("=")[0] for entry in network or ()]


@contextmanager
def _goes_on(out: Path) -> Iterator[None]:
    """Says where a comparison stopped, by a request to end or for lack of room, that the same command goes on."""
    from dita.report import UNFINISHED

    with _stoppable():
        try:
            yield
        except (KeyboardInterrupt, OSError):
            if (out / UNFINISHED).is_dir():
                typer.echo(f"what was drawn is in {out / UNFINISHED}{os.sep}: the same command goes on", err=True)
            raise


def _show_comparison(result: Any, networks: Any) -> None:
    from dita import report

    if networks is not None and networks.bundled:
        typer.echo(networks.stand_ins())
    console = Console()
    console.print(f"\n{report.title(result)}\n", highlight=False)
    console.print(report.terminal_table(result))


def _name_files(result: Any, out: Path) -> None:
    from dita import report

    typer.echo("")
    for name in (report.PAGE, report.MARKDOWN, report.RESULTS):
        typer.echo(f"wrote {out / name}")
    typer.echo(f"wrote {out / report.IMAGES}{os.sep} ({len(result.prompts)} pictures of each method)")


@app.command(cls=OnceCommand)
def study(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"The question: {', '.join(STUDIES)}.")],
    model: Annotated[str, typer.Option(help="A bundled name, a local diffusers folder, or a hub id.")] = "shapes-flux",
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="As of dita compare: 64 of dita's own by default."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; study-NAME by default.")] = None,
    cycle: Annotated[int, typer.Option(help="N: full steps are N apart.")] = 4,
    ratio: Annotated[float, typer.Option(help="R: share of the tokens that a cached step reuses.")] = 0.9,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default, or 28.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first picture; the next ones count up.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Prompts in a call; 4 for a bundled model, else 1.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="More columns (docs/metrics.md); image-reward where its network is there.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder that holds the weights of their networks.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 on CUDA and float32 elsewhere by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    overwrite: Annotated[bool, typer.Option(help=_OVERWRITE)] = False,
) -> None:
    """Compare the methods that answer one question, with judge, reward and intervals.

    selection: does it matter which tokens are computed? ToCa with every score, beside random selection, no selection,
    and fewer steps.
    """
    with _one_line_errors():
        if name not in STUDIES:
            raise unknown("study", name, STUDIES)
        out = out or Path(f"study-{name}")
        try_folder("--out", out)
        from dita import models

        family = models.shape(model).family
        chosen = STUDIES[name](family, cycle, ratio)
        if metrics is None:
            metrics = _reward(weights, device)
    compare(
        context,
        prompts=prompts or ["64"],
        out=out,
        model=model,
        methods=",".join(method.label() for method in chosen),
        steps=steps,
        seed=seed,
        batch=batch,
        metrics=metrics or None,
        weights=weights,
        dtype=dtype,
        device=device,
        overwrite=overwrite,
    )


@app.command(cls=OnceCommand)
def tune(
    out: Annotated[Path, typer.Option(help="Folder for method.json and the report: new, or of this very tuning.")],
    model: Annotated[str, typer.Option(help="A bundled name, a local diffusers folder, or a hub id.")] = "shapes-flux",
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
    dtype: Annotated[str | None, typer.Option(help="bfloat16 on CUDA and float32 elsewhere by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Start over where --out holds another tuning.")] = False,
) -> None:
    """Find the method that comes nearest to the plain pictures at a speed, for this model.

    Tries fewer steps, other samplers, every method, and chosen full steps; measures the best on other prompts, and says
    so where fewer steps are the answer. Stopped and started again, it goes on.
    """
    with _one_line_errors():
        check_numbers(steps=steps, seed=seed, batch=batch, height=height, width=width)
        from dita import models

        models.default_call(model)  # refuses a name that is none
        texts = _prompts(prompts or ["40"], model)
        _silence_libraries()
        from dita.freed_memory import keep_freed_memory
        from dita.methods.method_file import METHOD_FILE
        from dita.tuning import job, report

        try_folder("--out", out)
        job.check_goal(speed_up, seconds, psnr)
        progress = Console(stderr=True)
        keep_freed_memory()
        with progress.status(f"loading {model}"):
            _silence_libraries()
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
        )
    Console().print(report.terminal(found))
    for name in (METHOD_FILE, report.PAGE, report.RESULTS):
        typer.echo(f"wrote {out / name}")


@app.command(cls=OnceCommand)
def generate(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the job: new, empty, or of this very job, which goes on.")],
    model: Annotated[str, typer.Option(help="A bundled name, a local diffusers folder, or a hub id.")] = "shapes-flux",
    method: Annotated[
        str, typer.Option(help="A short form such as toca:4:0.9, or a file such as tuned/method.json.")
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
    dtype: Annotated[str | None, typer.Option(help="bfloat16 on CUDA and float32 elsewhere by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    store_dtype: Annotated[str | None, typer.Option(help=_STORE_DTYPE)] = None,
    store_device: Annotated[str | None, typer.Option(help=_STORE_DEVICE)] = None,
    max_cache: Annotated[str | None, typer.Option(help=_MAX_CACHE)] = None,
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
    with _one_line_errors(), _stoppable():
        from dita.generation import prompts as prompt_files

        if (prompts is None) == (not prompt):
            raise ValueError("give either --prompts FILE or --prompt TEXT")
        texts = prompt_files.read(prompts) if prompts is not None else prompt_files.from_texts(prompt or [])
        indices = prompt_files.parse_seeds(seeds)
        size = _batch_size(batch_size)
        saved = saved_method(method.strip())
        chosen = saved.method
        from dita import models
        from dita.asking import check_classes
        from dita.call_arguments import from_entries

        check_numbers(guidance=guidance, fps=fps)
        options = {"height": height, "width": width, "guidance_scale": guidance}
        given = from_entries(call or [], {name: value for name, value in options.items() if value is not None})
        if engine == "local":
            refuse_without_effect(context, ("workers",), "without --engine ray")
        kept = _store(store_dtype, store_device, max_cache)
        from dita.generation import job, runner

        names = models.class_names(model)
        if names is not None:
            check_classes(model, names, [text.text for text in texts])
        defaults = models.default_call(model)
        models.check_size(model, defaults | given)
        own_steps = defaults.pop("num_inference_steps", DEFAULT_STEPS)
        place = _device(device) if device else models.default_device()
        if dtype is not None and dtype not in models.DTYPES:
            raise unknown("dtype", dtype, models.DTYPES)
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
        _say_what_is_not_kept(kept, [chosen], place)
        items = job.items(texts, indices)
        _silence_libraries()
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
        elif engine == "ray":
            from dita.generation import ray_engine

            outcome = ray_engine.run(
                settings,
                items,
                out,
                batch_size=size,
                workers=_workers(workers),
                local_files_only=local_files_only,
                repair=repair,
                made_for=saved.made_for,
            )
        else:
            raise ValueError(f"unknown engine {engine!r}; known: local, ray")
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


@app.command(cls=OnceCommand)
def bench(
    shape: Annotated[
        str, typer.Option(help="cpu-flux, cpu-pixart, cpu-opensora, or a published model as of dita plan --model.")
    ] = "cpu-flux",
    scale: Annotated[
        float | None,
        typer.Option(help="Multiplies layers, heads and image tokens; 1 on CUDA and for cpu-*, else 0.2."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Short forms or JSON files, with commas between; ToCa and FORA by default.")
    ] = None,
    rivals: Annotated[
        str, typer.Option(help="diffusers, cache-dit, single ones such as diffusers:magcache, or none; with commas.")
    ] = "none",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; 50 for FLUX and DiT, 20, 30 for videos.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each; one more warms up.")] = 3,
    controls: Annotated[bool, typer.Option(help="Also time dita attached without effect, and detached.")] = True,
    batch: Annotated[int, typer.Option(help="Pictures made at once.")] = 1,
    text_tokens: Annotated[int | None, typer.Option(help="Of a prompt with its padding.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 on CUDA and float32 elsewhere by default.")] = None,
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
    with _one_line_errors():
        try_files({"--save": save})
        from dita import models

        place = _device(device) if device else models.default_device()
        chosen_dtype = dtype or models.default_dtype(place)
        check_numbers(scale=scale, steps=steps, repeats=repeats, batch=batch, text_tokens=text_tokens, threads=threads)
        if chosen_dtype not in models.DTYPES:
            raise unknown("dtype", chosen_dtype, models.DTYPES)
        _silence_libraries()
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
                _methods(usual.methods if methods is None else methods),
                rivals=caches.chosen(rivals),
                steps=usual.steps if steps is None else steps,
                repeats=repeats,
                controls=controls,
                dtype=kind,
                device=place,
                compile=compile,
                tell=status.update,
                keep=keep,
            )
        if as_json:
            typer.echo(json.dumps(table.as_json(result), indent=1))
        else:
            typer.echo(f"{table.heading(result)}\n")
            shown = Console(width=max(Console().width, 120))
            shown.print(table.table(result))
            typer.echo("")
            for label, reason in result.refused:
                typer.echo(f"{label} is left out: {reason}")
            shown.print(f"[dim]{table.LEGEND}[/dim]", highlight=False)
        if save is not None:
            _save_benchmark(save, result)
            typer.echo(f"wrote {save}", err=as_json)


def _save_benchmark(path: Path, result: Any) -> None:
    from dita.bench import table

    write_file(path, (json.dumps(table.as_json(result), indent=1) + "\n").encode())


@app.command(cls=OnceCommand)
def convert_opensora(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the pipeline in the diffusers layout: new or empty.")],
    transformer: Annotated[
        str, typer.Option(help="Official STDiT3 weights: a safetensors file, a folder, or a hub id.")
    ] = "hpcai-tech/OpenSora-STDiT-v3",
    vae: Annotated[
        str, typer.Option(help="Official video autoencoder: a safetensors file, a folder, or a hub id.")
    ] = "hpcai-tech/OpenSora-VAE-v1.2",
    text_encoder: Annotated[
        str, typer.Option(help="T5 v1.1 XXL as safetensors, with tokenizer: a folder or a hub id; or none.")
    ] = "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers",
    dtype: Annotated[str | None, typer.Option(help="Of transformer and autoencoder; as stored by default.")] = None,
    text_encoder_dtype: Annotated[str, typer.Option(help="Of T5: float32 as trained with, or bfloat16.")] = "float32",
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
) -> None:
    """Convert the official Open-Sora 1.2 files to a pipeline that diffusers loads.

    Every tensor is mapped by its name: a missing or extra one is an error. Only safetensors are read.
    """
    with _one_line_errors():
        try_folder("--out", out)
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"--out {str(out)!r} is not empty; give a new folder")
        from dita import models

        if text_encoder == "none":
            refuse_without_effect(context, ("text_encoder_dtype",), "with --text-encoder none")
        chosen = {"dtype": dtype, "text_encoder_dtype": text_encoder_dtype}
        for name, value in chosen.items():
            if value is not None and value not in models.DTYPES:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(models.DTYPES)}")
        _silence_libraries()
        import torch

        from dita.pipelines.opensora import OpenSoraPipeline

        with Console(stderr=True).status("converting"):
            pipe = OpenSoraPipeline.from_original(
                transformer,
                vae=vae,
                text_encoder=None if text_encoder == "none" else text_encoder,
                **{name: getattr(torch, value) for name, value in chosen.items() if value is not None},
                local_files_only=local_files_only,
            )
            pipe.save_pretrained(out)
    typer.echo(f"wrote {out}{os.sep}")


@app.command(cls=OnceCommand)
def judge(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="A bundled model of the shapes world.")] = "shapes-flux",
    method: Annotated[
        str, typer.Option(help="A short form such as toca:4:0.9, or a file such as tuned/method.json.")
    ] = "plain",
    prompts: Annotated[int, typer.Option(help="Held-out captions, of all kinds of scene in turn.")] = 256,
    steps: Annotated[int, typer.Option(help="Denoising steps of the plain pipeline.")] = 28,
    seed: Annotated[int, typer.Option(help="Of the captions and of the first picture; the next ones count up.")] = 0,
    batch: Annotated[int, typer.Option(help="Prompts in a call.")] = 16,
    images: Annotated[
        Path | None, typer.Option(help="Judge the pictures of this folder of dita compare, or with a manifest.json.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts to this file as JSON.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 on CUDA and float32 elsewhere by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
) -> None:
    """Judge whether pictures of the shapes world show what their prompts say.

    Makes pictures of held-out captions, or takes those of --images; reads each with the ground-truth judge; and prints
    how often shape, colour, count, relation, size, sign and background are right, and all of them at once.
    """
    with _one_line_errors():
        chosen = saved_method(method.strip())
        try_files({"--json": json_file})
        from dita import judge as job
        from dita import miniature, models

        _silence_libraries()
        if images is not None:
            made = ("model", "method", "prompts", "steps", "seed", "batch", "dtype", "device")
            refuse_without_effect(context, made, "with --images, whose pictures are made already")
            judgements = job.judge_images(images)
        else:
            if not models.is_bundled(model):
                known = ", ".join(miniature.MINIATURES)
                raise ValueError(f"model {model!r} does not know the shapes world; the judge is for {known}")
            check_numbers(prompts=prompts, steps=steps, seed=seed, batch=batch)
            pipe, call = models.load(model, dtype, device=device)
            judgements = [
                job.judge_model(
                    pipe, chosen, prompts=prompts, steps=steps, seed=seed, batch=batch, call=call, name=model
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
            typer.echo(f"\nwrote {json_file}")


@app.command(cls=OnceCommand)
def evaluate(
    context: typer.Context,
    pictures: Annotated[
        Path, typer.Argument(help="Folder of pictures (of dita generate or compare, or any), or .npz.")
    ],
    reference: Annotated[
        Path | None, typer.Option(help="Real pictures or the plain pipeline's: a folder, or .npz with mu and sigma.")
    ] = None,
    plain: Annotated[
        Path | None, typer.Option(help="The plain pipeline's pictures; --reference if its manifest has the same ids.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON, JSON lines or CSV: a prompt for each id.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="With commas between (docs/metrics.md); all that is possible by default.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder that holds the networks' weights.")] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH or NAME=HUB_ID of one network, such as clip=... (repeatable).")
    ] = None,
    resize: Annotated[str, typer.Option(help="For Inception: tensorflow, pytorch-fid or clean.")] = "tensorflow",
    save_statistics: Annotated[
        Path | None, typer.Option(help="Write mu and sigma of the pictures to this .npz.")
    ] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")] = None,
    batch: Annotated[int, typer.Option(help="Pictures read at a time.")] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    engine: Annotated[str, typer.Option(help="local (one process, torchrun, accelerate launch) or ray.")] = "local",
    workers: Annotated[str, typer.Option(help="Of --engine ray: a number, or 1..8 to scale between.")] = "1",
    download: Annotated[bool, typer.Option(help="Fetch networks from the hub where they are nowhere else.")] = False,
) -> None:
    """Measure how good pictures are: FID, CLIP score, ImageReward, and how close they are to the plain pipeline's.

    Pictures, prompts and plain pictures are paired by id and seed. Pictures that cannot be used are named. Under
    torchrun or accelerate launch the processes share the pictures, and the first one reports.
    """
    with _one_line_errors(), _opened(engine, workers) as team:
        if team is None:  # this process has measured for the first one
            return
        from dita.metrics import catalogue, picture_sets

        chosen = catalogue.parse(metrics) if metrics is not None else None
        if chosen is not None:
            check_metric_options(context, chosen, _named(network))
        if engine == "local":
            refuse_without_effect(context, ("workers",), "without --engine ray")
        check_numbers(batch=batch)
        read = {"PICTURES": pictures, "--reference": reference, "--plain": plain, "--prompts": prompts}
        try_files({"--json": as_json, "--save-statistics": save_statistics}, read)
        made = picture_sets.open_pictures(pictures)
        if prompts is not None:
            made = picture_sets.with_prompts(made, prompts)
        beside = picture_sets.open_pictures(plain) if plain is not None else None
        from dita import evaluate as job
        from dita import evaluation_report

        _silence_libraries()
        place = team.device(_device(device))
        networks = _networks(weights, network or [], resize=resize, device=place, download=download)
        if chosen is None:
            chosen = job.available(made, networks, reference, beside)
            if not chosen:
                raise ValueError("nothing can be measured: give --reference, --plain or --prompts, and see --weights")
        networks.locate(chosen)
        unwritten: list[Exception] = []

        def tell(result: Any) -> None:
            if networks.bundled:
                typer.echo(networks.stand_ins())
            Console().print(evaluation_report.table(result))
            for line in evaluation_report.remarks(result):
                typer.echo(line)
            if as_json is not None:
                try:
                    data = json.dumps(result.as_json(), indent=1, allow_nan=False)
                    write_file(as_json, f"{data}\n".encode())
                    typer.echo(f"wrote {as_json}")
                except (OSError, ValueError) as error:  # the statistics are written all the same
                    unwritten.append(error)

        job.evaluate(
            made,
            chosen,
            networks,
            reference=reference,
            plain=beside,
            save_statistics=save_statistics,
            batch=batch,
            workers=team,
            console=Console(stderr=True),
            tell=tell,
        )
        if save_statistics is not None:
            typer.echo(f"wrote {save_statistics}")
        if unwritten:
            raise unwritten[0]


@app.command(cls=OnceCommand)
def demo(
    model: Annotated[str, typer.Option(help="A bundled name, a local diffusers folder, or a hub id.")] = "shapes-flux",
    method: Annotated[
        str | None, typer.Option(help="A preset more, chosen at the start: a file (tuned/method.json) or short form.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The first free one from 7860 on by default.")] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 serves other machines too.")] = "127.0.0.1",
    share: Annotated[bool, typer.Option("--share", help="Also by a public address, through Gradio's servers.")] = False,
    max_steps: Annotated[int | None, typer.Option(help="The most steps that a visitor may ask for.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 on CUDA and float32 elsewhere by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
) -> None:
    """Serve the demo: a picture with and without acceleration, side by side in the browser.

    Compares one or two methods as they draw, shows where the time goes, and explores quality against latency.
    """
    with _one_line_errors():
        try:
            from dita.demo import app as page
        except ImportError as error:
            raise ValueError(f"the demo needs more packages ({error}): pip install 'dita[demo]'") from None
        from dita.caching.origin import warn_where_another
        from dita.demo.address import check_address
        from dita.demo.loaded import load
        from dita.demo.presets import preset_name
        from dita.demo.request import limits_of
        from dita.demo.studio import Studio
        from dita.freed_memory import keep_freed_memory

        saved = None if method is None else saved_method(method.strip())
        check_address(host, port)
        check_numbers(max_steps=max_steps)
        with Console(stderr=True).status(f"loading {model}"):
            _silence_libraries()
            keep_freed_memory()
            loaded = load(model, dtype, device, local_files_only)
            if saved is not None:
                warn_where_another(saved, loaded.pipe, loaded.call)
            own = {} if method is None or saved is None else {preset_name(method): saved.method}
            studio = Studio(loaded, limits_of(loaded, max_steps), own=own)
            served = page.launch(studio, port=port, host=host, share=share)
    for address in filter(None, (served.local_url, served.share_url)):
        typer.echo(f"{model} is at {address} (Ctrl-C ends it)")
    try:
        served.block_thread()
    finally:
        studio.close()


@app.command(cls=OnceCommand)
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Of the method whose page to show; all in short by default.")
    ] = None,
) -> None:
    """List the methods and their parameters, or show the page of one."""
    if name is not None:
        with _one_line_errors():
            if name not in METHODS:
                raise unknown("method", name, METHODS)
            typer.echo(pages.page(METHODS[name]), nl=False)
        return
    for cls in METHODS.values():
        form = ":".join((cls.name, *(part.upper() for part in cls.positional)))
        typer.echo(f"{form}\n{_indented(pages.summary_line(cls), 4)}")
        typer.echo(_indented(f"families: {pages.families_line(cls)}", 4))
        if cls.paper:
            typer.echo(_indented(f"paper: {cls.paper}", 4))
        meanings = _field_meanings(cls)
        for field in dataclasses.fields(cls):
            default = (
                short(field.default, field.name) if isinstance(field.default, tuple) else json.dumps(field.default)
            )
            typer.echo(f"    {field.name} = {'(not set)' if field.default is None else default}")
            meaning = meanings.get(field.name) or MEANINGS.get(field.name)
            if meaning:
                typer.echo(_indented(meaning, 8))
        typer.echo("")
    typer.echo("Short form: values in the order of the capitals, then name=value: toca:4:0.9:random:schedule=constant")
    typer.echo("tome goes with any other method: tome:0.5+toca:4:0.9 merges in full steps and caches between")


@app.command(cls=OnceCommand)
def tables(
    names: Annotated[list[str] | None, typer.Argument(help="Of tables; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else.")] = False,
) -> None:
    """Print the published tables with FLOPs recomputed from dita's plans.

    Latency and quality are as printed; FLOPs stand beside those of this project's plan for the row. Rows that disagree
    with their own definition are marked.
    """
    from dita.tables import TABLES
    from dita.tables import as_json as tables_json

    with _one_line_errors():
        stray = [name for name in names or () if name not in TABLES]
        if stray:
            raise unknown("table", stray[0], TABLES)
    chosen = [TABLES[name] for name in names or TABLES]
    if as_json:
        typer.echo(json.dumps(tables_json(chosen), indent=1))
        return
    console = Console(width=max(Console().width, 120))
    for table in chosen:
        _print_table(console, table)


def _print_table(console: Console, table: Any) -> None:
    from rich.table import Table as Printed

    from dita.tables import recompute

    console.print(f"\n{table.title}\n{table.source}; `--model {table.shape} --steps {table.steps}`", highlight=False)
    printed = Printed(box=None, pad_edge=False)
    heads = ("latency s", "TFLOPs", "here", "differ", "speed", "here", *table.quality)
    for number, head in enumerate(("row", "method", *heads)):
        printed.add_column(head, justify="left" if number < 2 else "right", no_wrap=True)
    notes: list[str] = []
    for one in recompute(table):
        row = one.row
        for mark in one.marks:
            notes.append(f"[{len(notes) + 1}] {row.label}: {mark}")
        numbers = "".join(f" \\[{n}]" for n in range(len(notes) - len(one.marks) + 1, len(notes) + 1))
        cells = [f"{row.tflops:.2f}", f"{one.tflops:.2f}", f"{one.difference:+.2%}"]
        cells += ["" if row.speed is None else f"{row.speed:.2f}", f"{one.speed:.2f}"]
        latency = "" if row.latency is None else f"{row.latency:g}"
        quality = ["" if value is None else f"{value:g}" for value in row.quality]
        printed.add_row(row.label + numbers, row.method.label(), latency, *cells, *quality)
    console.print(printed, highlight=False)
    for note in notes:
        typer.echo(textwrap.fill(note, 118, subsequent_indent="    "))
    typer.echo(
        "speed: ratio of FLOPs to the first row's, as the tables call it. here: from the plan of the row's method."
    )


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What a user can mend is said in one line on the standard error stream, with exit code 2; warnings likewise."""
    with warnings.catch_warnings():
        warnings.simplefilter("once")
        warnings.showwarning = lambda message, *_args, **_kwargs: typer.echo(f"warning: {message}", err=True)
        try:
            yield
        except Exception as error:
            ours = type(error).__module__.startswith("dita.")  # the engine's own, such as for an unsupported family
            if not (ours or isinstance(error, (ValueError, OSError, MemoryError))):
                raise
            said = in_words(error) if isinstance(error, OSError) else str(error)
            message = " ".join(said.split()) or type(error).__name__
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(BAD_INPUT) from None


def _reward(weights: Path | None, device: str | None) -> str | None:
    """`image-reward` if its network is at hand, else None and a warning."""
    from dita.metrics import catalogue

    try:
        _networks(weights, [], device=device or "cpu").locate(catalogue.parse("image-reward"))
    except ValueError as error:
        warnings.warn(f"no reward is measured: {error}", stacklevel=2)
        return None
    return "image-reward"


def _family(pipe: Any) -> str:
    """The family of a pipeline's transformer."""
    from dita.caching.adapters import adapter_for
    from dita.caching.attachment import transformer_of

    return adapter_for(transformer_of(pipe)).family


def _opened(engine: str, actors: str) -> Any:
    """Who measures, as `dita.sharing.opened`."""
    from dita import sharing

    return sharing.opened(engine, _workers(actors))


@contextmanager
def _stoppable() -> Iterator[None]:
    """A request to end (SIGTERM) is like Ctrl-C: what is made already is written first, and how to go on is said."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt  # not by SIGINT, which jobs in the background of a script ignore

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped: what is made is kept, and the same command goes on", err=True)
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _store(dtype: str | None, device: str | None, most: str | None) -> Store:
    """How features are kept, from options."""
    return Store(dtype, device, None if most is None else parse_bytes(most))


def _store_settings(store: Store) -> dict[str, Any] | None:
    """What a job notes of it: nothing of the default."""
    return None if store == Store() else dataclasses.asdict(store)


def _batch_size(text: str) -> int:
    if text == "auto":
        return AUTO_BATCH
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise ValueError(f"--batch-size must be auto or at least 1, got {text!r}")
    return int(text)


def _workers(text: str) -> tuple[int, int]:
    """The fewest and the most, from `4` or `1..8`."""
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high:
        raise ValueError(f"--workers must be a number from 1 on, or a range such as 1..8, got {text!r}")
    return low, high


def _silence_libraries() -> None:
    """Keeps remarks and loading bars of the libraries below out of the command's output; downloads keep their bars."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _networks(
    weights: Path | None, given: list[str], *, device: str, resize: str = "tensorflow", download: bool = False
) -> Any:
    """Where the evaluators' networks come from, as `dita.networks.Networks`."""
    from dita.metrics.inception import RESIZES
    from dita.networks import Networks

    chosen = {name: source for name, _, source in (entry.partition("=") for entry in given)}
    if not all(chosen.values()):
        raise ValueError(f"--network takes NAME=PATH or NAME=HUB_ID, got {', '.join(given)}")
    mode = next((mode for mode in RESIZES if mode == resize), None)
    if mode is None:
        raise unknown("resize", resize, RESIZES)
    return Networks(weights, chosen=chosen, device=_device(device), resize=mode, download=download)


def _device(name: str) -> str:
    from dita import models

    models.check_device(name)
    return name


def _methods(text: str) -> list[Method | SavedMethod]:
    """The methods of a list with commas between, those of a file with what they were made for.

    Raises `ValueError` as `saved_method`, and where there are none.
    """
    read = [saved_method(part.strip()) for part in text.split(",") if part.strip()]
    found = [one.method if one.made_for is None else one for one in read]
    if not found:
        raise ValueError(f"--methods is empty; give names or short forms of {', '.join(METHODS)}, with commas between")
    return found


def _changed(text: str, changes: dict[str, Any]) -> SavedMethod:
    """The method that `text` stands for with the parameters that options gave, which take the place of its own.

    Raises `ValueError` for one that it does not have, and for one that two methods have. Warns of a value that `text`
    gives and an option replaces.
    """
    method, made_for = saved_method(text.strip())
    written = read_fields(text.strip()) if names_a_file(text) else named_parameters(text)
    parts = list(method.methods) if isinstance(method, Composition) else [method]
    for name, value in changes.items():
        owners = [n for n, part in enumerate(parts) if name in field_hints(type(part))]
        if not owners:
            has = ", ".join(option_of(key) for part in parts for key in field_hints(type(part))) or "no parameters"
            raise ValueError(f"option --{name} does not belong to method {method.name!r}, which has {has}")
        if len(owners) > 1:
            raise ValueError(f"both methods of {text!r} have --{name}: write it into the short form, as {name}=VALUE")
        before, part = written.get(name), parts[owners[0]]
        parts[owners[0]] = from_json({**part.as_json(), name: value})
        if before is not None and getattr(parts[owners[0]], name) != getattr(part, name):
            warnings.warn(f"--{name} {value} takes the place of {before} in {text!r}", stacklevel=2)
    return SavedMethod(parts[0] if len(parts) == 1 else Composition(tuple(parts)), made_for)


def _say_what_is_not_kept(store: Store, methods: Sequence[Method], device: str | None = None) -> None:
    """Warns of options for stored features where there are none, or where they lie already.

    device: of the model; None where that is not known.
    """
    given = [
        option for option, value in zip(_STORE_OPTIONS, dataclasses.astuple(store), strict=True) if value is not None
    ]
    if given and methods and all(isinstance(method.caching, (Plain, FewerSteps)) for method in methods):
        labels = ", ".join(method.label() for method in methods)
        warnings.warn(f"{given[0]} has no effect: {labels} keeps no features", stacklevel=2)
    elif store.device is not None and device is not None and device.partition(":")[0] == "cpu":
        warnings.warn("--store-device has no effect: the model is on the cpu, and so are its features", stacklevel=2)


def _prompts(given: list[str], model: str) -> list[str]:
    """The prompts that `--prompts` names: a count, a file, or the texts themselves."""
    if not all(text.strip() for text in given):
        raise ValueError("--prompts is empty; give a count, a file with one a line, or a text")
    if len(given) > 1:
        return given
    text = given[0]
    if re.fullmatch(r"-?\d+", text):
        if int(text) < 1:
            raise ValueError(f"--prompts must be at least 1, got {text}")
        return _own_prompts(model, int(text))
    if Path(text).suffix.lower() in (".csv", ".jsonl", ".parquet", ".tsv"):
        from dita.generation.prompts import read

        return [prompt.text for prompt in read(text)]
    if Path(text).is_file():
        try:
            lines = [line.strip() for line in Path(text).read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise ValueError(f"prompt file {text!r} is no text in UTF-8") from None
        if not any(lines):
            raise ValueError(f"prompt file {text!r} is empty; give one prompt a line")
        return [line for line in lines if line]
    if is_number(text):
        raise ValueError(f"--prompts must be a whole number of prompts, a file or a text, got {text!r}")
    if Path(text).is_dir():
        raise ValueError(f"--prompts {text!r} is a folder; give a count, a file with one a line, or a text")
    if text.endswith(".txt") or (os.sep in text and " " not in text):
        raise ValueError(f"prompt file {text!r} does not exist; give a count, a file with one a line, or a text")
    return [text]


def _own_prompts(model: str, count: int) -> list[str]:
    """`count` prompts that `model` knows: of the bundled world, names of its classes, or realistic ones."""
    from dita import miniature, models, realistic_prompts

    if model in miniature.MINIATURES:
        return miniature.prompts(model, count)
    names = models.class_names(model)
    return realistic_prompts.texts(count) if names is None else realistic_prompts.class_prompts(names, count)


def _draw_plan(plan: Plan, path: Path) -> None:
    """The plan's map as a file: whole, or not at all."""
    from dita.plots.plan_map import plot_plan

    drawn = io.BytesIO()
    plot_plan(plan).savefig(drawn, format=path.suffix[1:], dpi=150)
    write_file(path, drawn.getvalue())
    typer.echo(f"wrote {path}", err=True)


def _plan_text(plan: Plan) -> str:
    shape = plan.shape
    tokens = [
        textwrap.fill(f"{module:<16} {_runs(counts)}", 100, initial_indent="  ", subsequent_indent=" " * 19)
        for module, counts in plan.tokens().items()
    ]
    flops = {name: plan.flops(name) for name in ACCOUNTINGS}
    merging = "M full on merged tokens, " if plan.merged_share else ""
    lines = [
        f"{plan.whole_method.label()} on {shape.name}, batch {shape.batch}: {plan.requested_steps} steps",
        "",
        f"steps (F full, {merging}f full in some layers, p partial, ~ forecast, . reuse, - skipped)",
        *(f"  {line}" for line in plan.map()),
        "",
        f"full steps         {', '.join(map(str, plan.full_steps))}",
        "tokens of a sample that a cached step computes, by layer",
        *(tokens or ["  none"]),
        "",
        f"TFLOPs             {plan.flops() / 1e12:.4g} of {plan.plain_flops / 1e12:.4g} plain",
        f"FLOPs ratio        {plan.flops_ratio():.2f} (not a speed-up: that is measured in seconds, by dita compare)",
        *(
            f"  {name:<16} {value / 1e12:.5g} TFLOPs, ratio {plan.plain_flops / value:.2f}"
            for name, value in flops.items()
        ),
        f"token scores       {plan.score_flops / 1e12:.3g} TFLOPs more",
        *([_merging_line(plan)] if plan.merging is not None else []),
        *_cache_lines(plan),
    ]
    return "\n".join(lines)


def _cache_lines(plan: Plan) -> list[str]:
    store, shape = plan.store, plan.shape
    lines = [f"cache              {plan.cache_bytes / 1e6:,.1f} MB, at {shape.element_bytes} bytes a number"]
    if store.dtype is not None:
        lines[0] = f"cache              {plan.cache_bytes / 1e6:,.1f} MB, in {store.dtype}"
    if store.device is not None:
        lines.append(f"  in the host's memory, and {staged_bytes(plan) / 1e6:,.1f} MB on the model's device in passing")
    if plan.dropped:
        modules = Counter(site.module for site in plan.dropped)
        counts = ", ".join(f"{count} {module}" for module, count in modules.items())
        lines.append(f"  computed in full to fit: {len(plan.dropped)} of {len(shape.sites())} sites ({counts})")
    return lines


def _merging_line(plan: Plan) -> str:
    if not plan.merged_share:
        return "tokens merged      none"
    share, more = plan.merged_share, plan.matching_flops / 1e12
    return f"tokens merged      {share:.1%} of the image tokens, where merged; matching takes {more:.3g} TFLOPs more"


def _runs(counts: list[int]) -> str:
    """Numbers in a line, equal neighbours once: `0 x19`, `245 238 231`."""
    parts: list[tuple[int, int]] = []
    for count in counts:
        if parts and parts[-1][0] == count:
            parts[-1] = (count, parts[-1][1] + 1)
        else:
            parts.append((count, 1))
    return " ".join(str(count) if times == 1 else f"{count} x{times}" for count, times in parts)


def _indented(text: str, indent: int) -> str:
    return textwrap.fill(text, 100, initial_indent=" " * indent, subsequent_indent=" " * indent)
