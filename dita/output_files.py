"""What commands write: every path is tried before the work starts, files are whole, and errors are said in words."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dita.whole_files import PARTIAL, write_whole


class CannotWriteError(OSError):
    """A file or folder cannot be written; the message says which and why. `errno` is the system's."""

    def __init__(self, path: str | os.PathLike[str], error: OSError) -> None:
        super().__init__(f"cannot write {os.fspath(path)!r}: {_reason(error)}")
        self.errno = error.errno


def try_files(
    outputs: Mapping[str, Path | None],
    inputs: Mapping[str, Path | None] | None = None,
    *,
    make_folders: bool = True,
) -> None:
    """Finds out whether all files can be written, by writing beside them; nothing of it stays, folders neither.

    Args:
        outputs: the file that each option names; None where it was not given.
        inputs: what is read, which no output may replace.
        make_folders: whether folders that are missing will be made.

    Raises `ValueError` for a folder, for a path that stands in two options, and where nothing can be written.
    """
    given = {option: path for option, path in (inputs or {}).items() if path is not None}
    wanted = {option: path for option, path in outputs.items() if path is not None}
    places = {option: _resolved(option, path) for option, path in {**given, **wanted}.items()}
    for option, path in wanted.items():
        place = places.pop(option)
        if os.path.isdir(place):
            raise ValueError(f"{option} {str(path)!r} is a folder; give a file")
        for other, its in places.items():
            if its == place:
                what = "would replace what it reads as" if other in given else "names the same file as"
                raise ValueError(f"{option} {str(path)!r} {what} {other}")
            if other in wanted and (place in its.parents or its in place.parents):
                raise ValueError(f"{option} {str(path)!r} and {other} {str(wanted[other])!r}: a file is no folder")
    for option, path in wanted.items():
        place = path.resolve()
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise ValueError(f"{option} {str(path)!r} cannot be written: it is read-only")
        if not _is_special(path):
            _try(option, path, place.parent, place.name, make_folders)


def try_folder(option: str, folder: Path) -> None:
    """Finds out whether files can be written into `folder`, new or not; nothing of it stays.

    Raises `ValueError` where it is a file, and where nothing can be written.
    """
    if os.path.exists(_resolved(option, folder)) and not folder.is_dir():
        raise ValueError(f"{option} {str(folder)!r} is a file; give a folder")
    _try(option, folder, folder.resolve(), "tried")


def write_file(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds all of it or what it held before; missing folders are made.

    A symbolic link stays one, and what is no file but a device or a pipe is written into. Raises `CannotWriteError`.
    """
    with writing(path):
        if _is_special(path):
            with path.open("wb") as file:
                file.write(data)
            return
        place = path.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, data)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Any `OSError` inside becomes a `CannotWriteError` of `path`."""
    try:
        yield
    except CannotWriteError:
        raise
    except OSError as error:
        raise CannotWriteError(path, error) from error


def in_words(error: OSError) -> str:
    """An error of the system without its number: the file, and what is wrong with it."""
    if isinstance(error, CannotWriteError) or error.errno is None or not error.strerror:
        return str(error)
    return _reason(error) if error.filename is None else f"{str(error.filename)!r}: {_reason(error)}"


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _resolved(option: str, path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links that go in a circle
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        raise ValueError(f"{option} {str(path)!r} cannot be written: {reason}") from None


def _is_special(path: Path) -> bool:
    """Whether there is something that can be written into, not replaced: a device, a pipe, what a shell redirects."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    handed = path.absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdout may lead to a file that is open
    return not stat.S_ISDIR(mode) and (handed or not stat.S_ISREG(mode))


def _try(option: str, path: Path, folder: Path, name: str, make_folders: bool = True) -> None:
    """Writes a byte beside `name` in `folder`, which may be made for it, and removes all that again."""
    made: list[Path] = []
    try:
        missing = [one for one in (folder, *folder.parents) if not os.path.exists(one)]
        for one in reversed(missing) if make_folders else ():
            one.mkdir()
            made.append(one)
        probe = folder / f".{name}.{os.getpid()}{PARTIAL}"
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"{option} {str(path)!r} cannot be written: {_reason(error)}") from None
    finally:
        for one in reversed(made):
            one.rmdir()
