"""`dita compare`: the same pictures with every method, or those of folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dita.cli import completion, libraries
from dita.cli.completion import METRIC_NAMES
from dita.cli.errors import one_line_errors, stoppable
from dita.cli.given_methods import methods_of, say_what_is_not_kept, store_of
from dita.cli.given_models import MODEL, model_of
from dita.cli.given_networks import metrics_of, networks_named, networks_of
from dita.cli.given_prompts import prompts_of
from dita.cli.options import (
    BUNDLED_BATCH,
    DTYPE,
    MAX_CACHE,
    OVERWRITE,
    STORE_DEVICE,
    STORE_DTYPE,
    check_metric_options,
    check_numbers,
    option_of,
    refuse_without_effect,
    was_given,
)
from dita.methods import Method, SavedMethod, as_methods
from dita.output_files import try_folder

REALISTIC_PROMPTS = "14"  # of `compare` with a model that is not bundled: two of each kind
MAKING = (
    *("prompts", "model", "methods", "steps", "seed", "batch", "repeats", "warmup", "height", "width"),
    *("guidance", "dtype", "local_files_only", "store_dtype", "store_device", "max_cache"),
)  # options of `compare` that pictures which are there already do not take


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
    model: Annotated[str, typer.Option(autocompletion=completion.models, help=MODEL)] = "shapes-flux",
    methods: Annotated[
        str,
        typer.Option(
            autocompletion=completion.methods,
            help="Short forms or JSON files, with commas between; or all. Plain is always there.",
        ),
    ] = "plain,steps:0.5,fora:3,toca:4:0.9,toca:4:0.9:random",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default, or 28.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first picture; the next ones count up.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Prompts in a call; 4 for a bundled model, else 1.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed calls of each method and batch.")] = 1,
    warmup: Annotated[int, typer.Option(help="Untimed calls of each method.")] = 1,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; the model's own size by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="guidance_scale of the pipeline calls.")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    store_dtype: Annotated[str | None, typer.Option(help=STORE_DTYPE)] = None,
    store_device: Annotated[str | None, typer.Option(help=STORE_DEVICE)] = None,
    max_cache: Annotated[str | None, typer.Option(help=MAX_CACHE)] = None,
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
    overwrite: Annotated[bool, typer.Option(help=OVERWRITE)] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.metrics,
            help=f"More columns, with commas between: {METRIC_NAMES} (docs/metrics.md).",
        ),
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
    with one_line_errors(), _goes_on(out):
        try_folder("--out", out)
        if pictures:
            stray = [name for name in MAKING if was_given(context, name)]
            if stray:
                raise ValueError(
                    f"{option_of(stray[0])} belongs to making pictures; --pictures compares those that are there"
                )
            if metrics is None:
                refuse_without_effect(context, ("device",), "without --metrics: nothing is computed on it")
            check_metric_options(context, metrics_of(metrics), networks_named(network))
            _compare_folders(pictures, out, overwrite, metrics, reference, weights, network or [], device or "cpu")
            return
        from dita import models, report

        model = model_of(model)
        if not prompts and models.is_bundled(model):
            raise ValueError("give --prompts to make pictures, or --pictures to compare those of folders")
        every = methods.strip() == "all"
        chosen: Sequence[Method | SavedMethod] = [] if every else methods_of(methods)
        kept = store_of(store_dtype, store_device, max_cache)
        texts = prompts_of(prompts or [REALISTIC_PROMPTS], model)
        columns = metrics_of(metrics)
        check_metric_options(context, columns, networks_named(network))
        check_numbers(steps=steps, seed=seed, batch=batch, repeats=repeats, warmup=warmup, guidance=guidance)
        from dita.compare import compare as run
        from dita.freed_memory import keep_freed_memory

        report.check_folder(out, overwrite, resumes=True)
        say_what_is_not_kept(kept, as_methods(chosen), device)
        networks = None
        if columns:
            networks = networks_of(weights, network or [], device=device or "cpu")
            networks.locate(columns)
        progress = Console(stderr=True)
        keep_freed_memory()
        with progress.status(f"loading {model}"):
            libraries.silence()
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

    columns = metrics_of(metrics)
    libraries.silence()
    networks = networks_of(weights, network, device=device)
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


@contextmanager
def _goes_on(out: Path) -> Iterator[None]:
    """Says where a comparison stopped, by a request to end or for lack of room, that the same command goes on."""
    from dita.report import UNFINISHED

    with stoppable():
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


def _family(pipe: Any) -> str:
    """The family of a pipeline's transformer."""
    from dita.caching.adapters import adapter_for
    from dita.caching.attachment import transformer_of

    return adapter_for(transformer_of(pipe)).family
