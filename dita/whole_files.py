"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".partial"
"""What ends the name of a file that is being written."""


def write_whole(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds all of it or what it held before, also when the power fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes new names in `folder` survive a power failure, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path, *names: str) -> None:
    """Removes what writers that were killed have left: of all files, or of those of these names."""
    for name in names or ("",):
        for path in folder.glob(f".{name}*{PARTIAL}"):
            path.unlink(missing_ok=True)
