"""`dita plan`: what a method does and costs, before a run."""

from __future__ import annotations

import io
import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from dita.cli import completion
from dita.cli.errors import one_line_errors
from dita.cli.given_methods import changed, say_what_is_not_kept, store_of
from dita.cli.options import MAX_CACHE, STORE_DEVICE, STORE_DTYPE, refuse_without_effect
from dita.fitting import with_store
from dita.footprint import staged_bytes
from dita.methods import SCORES, MadeFor, warn_of_another
from dita.model_names import canonical, published
from dita.output_files import try_files, write_file
from dita.plan import Plan
from dita.schedules import RATIO_SCHEDULES
from dita.shapes import ACCOUNTINGS, NAMED_SHAPES, Accounting
from dita.terminal import terminal_width
from dita.values import choice

FIGURES = (".png", ".svg", ".pdf")  # that `plan --plot` can draw


def plan(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            autocompletion=completion.models,
            help=f"{', '.join(NAMED_SHAPES)}, one of their hub ids, a bundled model, or a local diffusers folder.",
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            autocompletion=completion.method,
            help="A short form such as toca:4:0.9:random or tome+toca, or a file such as tuned/method.json.",
        ),
    ],
    steps: Annotated[int, typer.Option(help="Denoising steps of the plain pipeline.")] = 50,
    cycle: Annotated[int | None, typer.Option(help="N: full steps are N apart.")] = None,
    ratio: Annotated[float | None, typer.Option(help="R: share of the tokens that a cached step reuses.")] = None,
    score: Annotated[
        str | None, typer.Option(autocompletion=completion.scores, help=f"Token score: {', '.join(SCORES)}.")
    ] = None,
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
    store_dtype: Annotated[str | None, typer.Option(help=STORE_DTYPE)] = None,
    store_device: Annotated[str | None, typer.Option(help=STORE_DEVICE)] = None,
    max_cache: Annotated[str | None, typer.Option(help=MAX_CACHE)] = None,
    accounting: Annotated[str, typer.Option(help=f"Of FLOPs: {' or '.join(ACCOUNTINGS)}.")] = ACCOUNTINGS[0],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, and nothing else.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the plan as a map into this file too: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Print what a method does and costs, step by step.

    Needs no weights and no GPU.
    """
    with one_line_errors():
        changes = {
            "cycle": cycle,
            "ratio": ratio,
            "score": score,
            "schedule": schedule,
            "warmup": warmup,
            "fraction": fraction,
            "strict": strict,
        }
        saved = changed(method, {key: value for key, value in changes.items() if value is not None})
        if plot is not None and plot.suffix not in FIGURES:
            raise ValueError(f"--plot draws {', '.join(FIGURES)} files, got {str(plot)!r}")
        try_files({"--plot": plot}, make_folders=False)
        accounting = choice("accounting", accounting, ACCOUNTINGS)
        if not as_json:
            refuse_without_effect(context, ("accounting",), "without --json: both are printed")
        counted: Accounting = "pre-projection" if accounting == "pre-projection" else "post-projection"
        from dita import models

        model = published(model) or canonical(model) or model
        shape = models.shape(model, batch=batch, height=height, width=width, text_tokens=text_tokens)
        kept = store_of(store_dtype, store_device, max_cache)
        result = with_store(saved.method.plan(shape, steps), kept)
        loaded = None if model in NAMED_SHAPES else model  # the sizes of a published model are no model of a file
        warn_of_another(saved, MadeFor(model=loaded, steps=steps, height=height or width, width=width or height))
        say_what_is_not_kept(kept, [saved.method])
        typer.echo(json.dumps(result.as_json(counted), indent=2) if as_json else _plan_text(result))
        if plot is not None:
            _draw_plan(result, plot)


def _draw_plan(plan: Plan, path: Path) -> None:
    """The plan's map as a file: whole, or not at all."""
    from dita.plots.plan_map import plot_plan

    drawn = io.BytesIO()
    plot_plan(plan).savefig(drawn, format=path.suffix[1:], dpi=150)
    write_file(path, drawn.getvalue())
    typer.echo(f"wrote {path}", err=True)


def _plan_text(plan: Plan) -> str:
    shape, width = plan.shape, terminal_width()
    tokens = [
        textwrap.fill(f"{module:<16} {_runs(counts)}", width, initial_indent="  ", subsequent_indent=" " * 19)
        for module, counts in plan.tokens().items()
    ]
    flops = {name: plan.flops(name) for name in ACCOUNTINGS}
    merging = "M full on merged tokens, " if plan.merged_share else ""
    lines = [
        f"{plan.whole_method.label()} on {shape.name}, batch {shape.batch}: {plan.requested_steps} steps",
        "",
        textwrap.fill(
            f"steps (F full, {merging}f full in some layers, p partial, ~ forecast, . reuse, - skipped)", width
        ),
        *_map_lines(plan, width),
        "",
        _entry("full steps", ", ".join(map(str, plan.full_steps)), width),
        "tokens of a sample that a cached step computes, by layer",
        *(tokens or ["  none"]),
        "",
        f"TFLOPs             {plan.flops() / 1e12:.4g} of {plan.plain_flops / 1e12:.4g} plain",
        _entry(
            "FLOPs ratio",
            f"{plan.flops_ratio():.2f} (not a speed-up: that is measured in seconds, by dita compare)",
            width,
        ),
        *(
            f"  {name:<16} {value / 1e12:.5g} TFLOPs, ratio {plan.plain_flops / value:.2f}"
            for name, value in flops.items()
        ),
        f"token scores       {plan.score_flops / 1e12:.3g} TFLOPs more",
        *([_entry("tokens merged", _merging(plan), width)] if plan.merging is not None else []),
        *_cache_lines(plan, width),
    ]
    return "\n".join(lines)


def _entry(name: str, text: str, width: int) -> str:
    """A line of the summary, folded where it is longer than `width`."""
    return textwrap.fill(f"{name:<18} {text}", width, subsequent_indent=" " * 19)


def _map_lines(plan: Plan, width: int) -> list[str]:
    """The plan's map; of many steps in parts below each other."""
    lines = [(line[:_MAP_MARGIN], line[_MAP_MARGIN:]) for line in plan.map()]
    room = max((width - _MAP_MARGIN - 2) // 10 * 10, 10)
    parts = [
        [f"  {module}{row[start : start + room]}" for module, row in lines] for start in range(0, len(plan.steps), room)
    ]
    if len(parts) > 1:
        parts = [[f"  from step {number * room}", *part] for number, part in enumerate(parts)]
    return [line for part in parts for line in part]


_MAP_MARGIN = 22  # characters in front of the steps in a line of `Plan.map`


def _cache_lines(plan: Plan, width: int) -> list[str]:
    store, shape = plan.store, plan.shape
    form = f"at {shape.element_bytes} bytes a number" if store.dtype is None else f"in {store.dtype}"
    lines = [f"cache              {plan.cache_bytes / 1e6:,.1f} MB, {form}"]
    if store.device is not None:
        staged = f"{staged_bytes(plan) / 1e6:,.1f} MB on the model's device in passing"
        lines.append(f"  in the host's memory, and {staged}")
    if plan.dropped:
        modules = Counter(site.module for site in plan.dropped)
        counts = ", ".join(f"{count} {module}" for module, count in modules.items())
        dropped = f"computed in full to fit: {len(plan.dropped)} of {len(shape.sites())} sites ({counts})"
        lines.append(textwrap.fill(dropped, width, initial_indent="  ", subsequent_indent="    "))
    return lines


def _merging(plan: Plan) -> str:
    if not plan.merged_share:
        return "none"
    share, more = plan.merged_share, plan.matching_flops / 1e12
    return f"{share:.1%} of the image tokens, where merged; matching takes {more:.3g} TFLOPs more"


def _runs(counts: list[int]) -> str:
    """Numbers in a line, equal neighbours once: `0 x19`, `245 238 231`."""
    parts: list[tuple[int, int]] = []
    for count in counts:
        if parts and parts[-1][0] == count:
            parts[-1] = (count, parts[-1][1] + 1)
        else:
            parts.append((count, 1))
    return " ".join(str(count) if times == 1 else f"{count} x{times}" for count, times in parts)
