"""`dita study`: the methods that answer one question."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from dita.cli import completion
from dita.cli.compare import compare
from dita.cli.errors import one_line_errors
from dita.cli.given_models import MODEL
from dita.cli.given_networks import networks_of
from dita.cli.options import DTYPE, OVERWRITE
from dita.model_names import canonical
from dita.output_files import try_folder
from dita.studies import STUDIES
from dita.values import choice


def study(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(autocompletion=completion.studies, help=f"The question: {', '.join(STUDIES)}.")
    ],
    model: Annotated[str, typer.Option(autocompletion=completion.models, help=MODEL)] = "shapes-flux",
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
        str | None,
        typer.Option(
            autocompletion=completion.metrics,
            help="More columns, as of dita compare; image-reward where its network is there.",
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder that holds the weights of their networks.")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    overwrite: Annotated[bool, typer.Option(help=OVERWRITE)] = False,
) -> None:
    """Compare the methods that answer one question, with judge, reward and intervals.

    selection: does it matter which tokens are computed? ToCa with every score, beside random selection, no selection,
    and fewer steps.
    """
    with one_line_errors():
        name = choice("study", name, STUDIES)
        out = out or Path(f"study-{name}")
        try_folder("--out", out)
        from dita import models

        model = canonical(model) or model
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


def _reward(weights: Path | None, device: str | None) -> str | None:
    """`image-reward` if its network is at hand, else None and a warning."""
    from dita.metrics import catalogue

    try:
        networks_of(weights, [], device=device or "cpu").locate(catalogue.parse("image-reward"))
    except ValueError as error:
        warnings.warn(f"no reward is measured: {error}", stacklevel=2)
        return None
    return "image-reward"
