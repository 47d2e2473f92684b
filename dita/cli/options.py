"""Options of the command line: none given twice, none that does nothing with the others, numbers in their range."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from dita.values import LARGEST_SEED, number, unknown, whole

if TYPE_CHECKING:
    from dita.metrics.catalogue import Metric

BUNDLED_BATCH = 4  # prompts in a call for the small bundled models; 1 for others

DTYPE = "float32, bfloat16 or float16; bfloat16 on CUDA and float32 elsewhere by default."
STORE_DTYPE = "Keep features as bf16, fp16 or fp8; as computed by default (docs/memory.md)."
STORE_DEVICE = "Keep features on the cpu, fetched ahead of their use; on the model's device by default."
MAX_CACHE = "Keep 3.2GB of features, or 512MiB, at most: what saves the least for its bytes is computed."
OVERWRITE = "Write into --out whatever it holds, and start over where other settings were interrupted."


class OnceCommand(TyperCommand):
    """A command that refuses an option which is given twice, where all but the last would be forgotten."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            single = [one.opts[0] for one in order if one.param_type_name == "option" and not one.multiple]
            twice = [option for option, count in Counter(single).items() if count > 1]
            if twice:
                typer.echo(f"error: {twice[0]} is given twice; it takes one value", err=True)
                raise typer.Exit(2)
        return super().parse_args(ctx, args)


def first_paragraph(command: Callable[..., object]) -> str:
    """What the list of commands says of one: all of the first paragraph, which is cut otherwise."""
    return " ".join((inspect.getdoc(command) or "").split("\n\n")[0].split())


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option stood on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_without_effect(context: typer.Context, names: Sequence[str], reason: str) -> None:
    """Raises `ValueError` if one of these options was given, for it would do nothing."""
    stray = [name for name in names if was_given(context, name)]
    if stray:
        raise ValueError(f"{option_of(stray[0])} has no effect {reason}")


def option_of(name: str) -> str:
    """A parameter's name as an option."""
    return f"--{name.replace('_', '-')}"


def check_numbers(**given: object) -> None:
    """Raises `ValueError` for a number of a run that cannot be: a count below 1, a negative seed, NaN.

    Options by their names; None is one that was not given.
    """
    for name, value in given.items():
        if name == "seed" and value is not None:
            whole(name, value, 0, LARGEST_SEED)
        elif isinstance(value, int):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        elif value is not None:
            number(name, value)


def check_metric_options(context: typer.Context, metrics: Sequence[Metric], networks: Sequence[str]) -> None:
    """Raises `ValueError` for options of metrics that none of `metrics` uses.

    networks: the names in `--network NAME=SOURCE`.
    """
    from dita.networks import PLACES  # and torch with it

    needed = {metric.needs for metric in metrics} - {"none"}
    kinds = {metric.kind for metric in metrics}
    names = ", ".join(metric.name for metric in metrics) or "none"
    if not needed:
        refuse_without_effect(context, ("weights", "network", "download"), f"on metrics without networks ({names})")
    if "inception" not in needed:
        refuse_without_effect(context, ("resize",), f"without a metric that uses Inception, such as fid ({names})")
    if not kinds & {"distribution", "paired"}:
        refuse_without_effect(context, ("reference",), f"without a metric that compares, such as fid ({names})")
    if "text" not in kinds and context.command.name == "evaluate":
        refuse_without_effect(context, ("prompts",), f"without a metric of prompts, such as clip ({names})")
    for name in networks:
        if name not in PLACES:
            raise unknown("network", name, PLACES)
        if name not in needed:
            raise ValueError(f"--network {name}=... has no effect on these metrics ({names})")


def is_number(text: str) -> bool:
    """Whether a text is written as a number: no prompt, then."""
    return re.fullmatch(r"[-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?", text.strip()) is not None
