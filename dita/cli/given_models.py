"""Models, as options give them."""

from __future__ import annotations

import typer

from dita.model_names import HUB_IDS, canonical

MODEL = "A bundled name, a local diffusers folder, a hub id, or a published name such as flux-dev."


def model_of(text: str) -> str:
    """A model's name as dita spells it; says which hub id a published name stands for."""
    name = canonical(text)
    if name in HUB_IDS:
        typer.echo(f"{name} is {HUB_IDS[name]}", err=True)
    return name or text
