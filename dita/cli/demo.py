"""`dita demo`: a picture with and without acceleration, side by side in the browser."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from dita.cli import completion, libraries
from dita.cli.errors import one_line_errors
from dita.cli.given_models import MODEL, model_of
from dita.cli.options import DTYPE, check_numbers
from dita.methods import saved_method


def demo(
    model: Annotated[str, typer.Option(autocompletion=completion.models, help=MODEL)] = "shapes-flux",
    method: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.method,
            help="A preset more, chosen at the start: a file (tuned/method.json) or short form.",
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="The first free one from 7860 on by default.")] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 serves other machines too.")] = "127.0.0.1",
    share: Annotated[bool, typer.Option("--share", help="Also by a public address, through Gradio's servers.")] = False,
    max_steps: Annotated[int | None, typer.Option(help="The most steps that a visitor may ask for.")] = None,
    dtype: Annotated[str | None, typer.Option(help=DTYPE)] = None,
    device: Annotated[str | None, typer.Option(help="cuda where there is one, else cpu, by default.")] = None,
    local_files_only: Annotated[bool, typer.Option(help="Do not use the network.")] = False,
) -> None:
    """Serve the demo: a picture with and without acceleration, side by side in the browser.

    Compares one or two methods as they draw, shows where the time goes, and explores quality against latency.
    """
    with one_line_errors():
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
        model = model_of(model)
        check_address(host, port)
        check_numbers(max_steps=max_steps)
        with Console(stderr=True).status(f"loading {model}"):
            libraries.silence()
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
