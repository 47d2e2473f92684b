"""How a command ends other than well: errors in one line, and a request to stop."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from dita.cli import libraries
from dita.output_files import in_words

BAD_INPUT = 2  # exit code
STOPPED = 130  # exit code after Ctrl-C, as shells have it


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can mend is said in one line on the standard error stream, with exit code 2; warnings likewise."""
    with warnings.catch_warnings():
        warnings.simplefilter("once")
        warnings.showwarning = _showing()
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


def _showing() -> Callable[..., None]:
    """What shows a warning of dita's, each once; those of the libraries below are for who writes programs with them."""
    said = set()  # the filter "once" is once for each module

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = str(message)
        if text not in said and libraries.concerns_the_user(text, category):
            said.add(text)
            typer.echo(f"warning: {text}", err=True)

    return show


@contextmanager
def stoppable() -> Iterator[None]:
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
