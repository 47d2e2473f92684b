"""What a command did before it was interrupted, kept beside the file that it writes, so that a second run goes on."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dita.output_files import writing
from dita.whole_files import remove_partial, write_whole

UNFINISHED = ".unfinished"
"""What the name of the output is followed by."""

Arrays = dict[str, NDArray[Any]]


class Kept:
    """Parts of the work for `output`, in a folder beside it that is made when the first one is kept.

    Parts are whole or not there. What was kept with other settings, or can no longer be read, is dropped when the work
    begins; `tell` is told so in a line.

    Args:
        output: the file that the work is for.
        settings: all that the parts depend on, as data for JSON.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self.folder = _beside(output)
        self._digest = digest(settings)
        self._tell = tell
        if self.folder.is_dir() and (reason := self._unfit()):
            tell(f"{self.folder}: {reason}; starting over")
            remove(output)

    def _unfit(self) -> str | None:
        """Why what is in the folder is of no use; None where it is."""
        try:
            found = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))["digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return "it cannot be read"
        return None if found == self._digest else "it was interrupted with other settings"

    def read(self, name: str) -> tuple[dict[str, Any], Arrays] | None:
        """What was kept under a name: data and arrays; None where there is nothing, or nothing that can be read."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            return json.loads(str(arrays.pop("data"))), arrays
        except Exception:  # zipfile, zlib and numpy have many errors for a damaged file
            self._tell(f"{path}: it cannot be read; this part is done again")
            return None

    def keep(self, name: str, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Keeps data for JSON and arrays under a name, in place of what was there. Raises `CannotWriteError`."""
        content = io.BytesIO()
        np.savez(content, data=np.array(json.dumps(data)), **(arrays or {}))  # type: ignore[arg-type]
        with writing(self.folder):
            if not (self.folder / "settings.json").is_file():
                self.folder.mkdir(parents=True, exist_ok=True)
                write_whole(self.folder / "settings.json", json.dumps({"digest": self._digest}).encode())
            write_whole(self.folder / f"{name}.npz", content.getvalue())


def _beside(output: Path) -> Path:
    return output.with_name(output.name + UNFINISHED)


def remove(output: Path) -> None:
    """Removes what was kept beside a file that is written now; what is not ours stays."""
    folder = _beside(output)
    if not folder.is_dir():
        return
    (folder / "settings.json").unlink(missing_ok=True)  # first: what a kill leaves behind is then of no use
    for path in folder.glob("*.npz"):
        path.unlink(missing_ok=True)
    remove_partial(folder)
    with suppress(OSError):  # it holds something else
        folder.rmdir()


def digest(settings: Mapping[str, Any]) -> str:
    """A checksum of data for JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def file_facts(path: str | os.PathLike[str]) -> list[Any]:
    """Name, size and time of a file, or of all files in a folder; the name alone where there is none."""
    place = Path(path)
    if place.is_dir():
        return [os.fspath(path), [file_facts(one) for one in sorted(place.rglob("*")) if one.is_file()]]
    try:
        status = place.stat()
    except OSError:
        return [os.fspath(path)]
    return [os.fspath(path), status.st_size, status.st_mtime_ns]
