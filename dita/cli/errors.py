"""How a command ends other than well: errors in one line, and a request to stop."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from dita.output_files import in_words

BAD_INPUT = 2  # exit code
STOPPED = 130  # exit code after Ctrl-C, as shells have it


@contextmanager
def one_line_errors() -> Iterator[None]:
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
