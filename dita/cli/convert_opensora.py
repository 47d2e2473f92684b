"""`dita convert-opensora`: the official files as a pipeline that diffusers loads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dita.cli import libraries
from dita.cli.errors import one_line_errors
from dita.cli.options import refuse_without_effect
from dita.output_files import try_folder
from dita.values import choice


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
    with one_line_errors():
        try_folder("--out", out)
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"--out {str(out)!r} is not empty; give a new folder")
        from dita import models

        if text_encoder == "none":
            refuse_without_effect(context, ("text_encoder_dtype",), "with --text-encoder none")
        chosen = {"dtype": dtype, "text_encoder_dtype": text_encoder_dtype}
        chosen = {name: value and choice(name, value, models.DTYPES) for name, value in chosen.items()}
        libraries.silence()
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
