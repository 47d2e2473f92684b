"""`dita evaluate`: how good pictures are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dita.cli import completion, libraries
from dita.cli.completion import METRIC_NAMES
from dita.cli.errors import one_line_errors
from dita.cli.given_networks import checked_device, networks_named, networks_of, opened_workers
from dita.cli.options import check_metric_options, check_numbers, refuse_without_effect
from dita.output_files import try_files, write_file


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
        str | None,
        typer.Option(
            autocompletion=completion.metrics,
            help=f"With commas between, of {METRIC_NAMES} (docs/metrics.md); all that is possible by default.",
        ),
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
    with one_line_errors(), opened_workers(engine, workers) as team:
        if team is None:  # this process has measured for the first one
            return
        from dita.metrics import catalogue, picture_sets

        chosen = catalogue.parse(metrics) if metrics is not None else None
        if chosen is not None:
            check_metric_options(context, chosen, networks_named(network))
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
        from dita import evaluation_report, interrupted

        libraries.silence()
        place = team.device(checked_device(device))
        networks = networks_of(weights, network or [], resize=resize, device=place, download=download)
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
                    interrupted.remove(as_json)
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
            keep_beside=as_json,
        )
        if save_statistics is not None:
            typer.echo(f"wrote {save_statistics}")
        if unwritten:
            raise unwritten[0]
