"""The folder of a job: `job.json`, `manifest.jsonl`, `failures.jsonl` and `images/`; and how it goes on after a stop.

A line of the manifest is written after its file is in place, so that a line always speaks the truth. Workers beside
the first have manifests of their own, `manifest.1.jsonl` and on, which the first one joins to its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dita.generation.files import PARTIAL, remove_partial, sync_folder, write_whole
from dita.generation.job import Item, Key, Settings, settings_from_json
from dita.metrics.picture_sets import MANIFEST_LINES as MANIFEST

if sys.platform != "win32":
    import fcntl

JOB, FAILURES, IMAGES, LOCK = "job.json", "failures.jsonl", "images", ".lock"
JOB_FORMAT = "dita-job-1"


class OtherJobError(ValueError):
    """The folder belongs to a job with other settings, or to no job at all."""


@contextmanager
def opened(folder: Path, settings: Settings, items: Sequence[Item]) -> Iterator[dict[Key, dict[str, Any]]]:
    """The folder, ready to take what is missing; gives the manifest's entries of items that are there already.

    Only one process may have it open. A job without a picture yet may change its settings.
    Raises `OtherJobError` where the folder belongs to something else, `ValueError` for a damaged manifest, `OSError`
    where it cannot be written; it is then as it was.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file; give a folder")
    if folder.is_dir() and not (folder / JOB).is_file() and any(not _is_ours(path) for path in folder.iterdir()):
        raise OtherJobError(f"folder {str(folder)!r} holds other files and no {JOB}; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if (folder / JOB).is_file() and _holds_pictures(folder):
            _check_same_job(folder, settings)
        else:  # new, or of a job that ended before its first picture, such as by a wrong argument
            _write_job(folder, settings)
        (folder / IMAGES).mkdir(exist_ok=True)
        remove_partial(folder)
        remove_partial(folder / IMAGES)
        done = join_manifests(folder)
        for item in items:
            entry = done.get(item.key)
            if entry is not None and entry["prompt"] != item.prompt:
                raise OtherJobError(
                    f"folder {str(folder)!r} belongs to another job: the prompt of id {item.id!r} is"
                    f" {entry['prompt']!r} there and {item.prompt!r} here; nothing was changed"
                )
        yield done


def record_revision(folder: Path, settings: Settings) -> None:
    """Writes the settings with the revision of the weights, which is known once they are loaded; or compares it."""
    _check_same_job(folder, settings)
    if _read_job(folder).revision is None:
        _write_job(folder, settings)


def join_manifests(folder: Path) -> dict[Key, dict[str, Any]]:
    """All entries whose files are there, by key; afterwards they stand in one manifest, each once.

    A last line that was cut is dropped: its item is made again. Raises `ValueError` for damage elsewhere.
    """
    shards = sorted(path for path in folder.glob("manifest.*.jsonl") if path.name != MANIFEST)
    found: dict[Key, dict[str, Any]] = {}
    lines = 0
    whole = True
    for path in [folder / MANIFEST, *shards]:
        if path.is_file():
            entries, complete = _read_lines(path)
            whole = whole and complete
            lines += len(entries)
            found.update({(str(entry["id"]), int(entry["seed"])): entry for entry in entries})
    there = {key: entry for key, entry in found.items() if _is_there(folder, entry)}
    if shards or not whole or len(there) != lines:
        text = "".join(_line(entry) for entry in there.values())
        write_whole(folder / MANIFEST, text.encode())
        for path in shards:
            path.unlink()
        sync_folder(folder)
    return there


def read_manifest(folder: Path) -> tuple[dict[Key, dict[str, Any]], Settings]:
    """What a job made so far, by key, and its settings; a last line that was cut is left out, and nothing is changed.

    Raises `FileNotFoundError` where the folder is not of `dita generate`, and `ValueError` for a damaged manifest.
    """
    for name in (MANIFEST, JOB):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"folder {str(folder)!r} has no {name}: it is not one that dita generate made")
    entries, _ = _read_lines(folder / MANIFEST)
    return {(str(entry["id"]), int(entry["seed"])): entry for entry in entries}, _read_job(folder)


class Manifest:
    """The manifest of one worker, open for appending. What `append` was given is on the disk when it returns."""

    def __init__(self, folder: Path, worker: int = 0) -> None:
        self.folder = folder
        self._file: TextIO = (folder / (MANIFEST if worker == 0 else f"manifest.{worker}.jsonl")).open(
            "a", encoding="utf-8"
        )

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines, in one write. Raises `OSError` for a full disk: what stands there then is repaired later."""
        self._file.write("".join(_line(entry) for entry in entries))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends it."""
        self._file.close()


def write_failures(folder: Path, failures: Sequence[Mapping[str, Any]]) -> None:
    """Lists what could not be made, or removes the list of an earlier run where nothing failed now."""
    path = folder / FAILURES
    if failures:
        write_whole(path, "".join(_line(failure) for failure in failures).encode())
    else:
        path.unlink(missing_ok=True)


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _is_there(folder: Path, entry: Mapping[str, Any]) -> bool:
    try:
        return (folder / entry["file"]).stat().st_size == entry["bytes"]
    except FileNotFoundError:
        return False


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The entries, and whether the last line was whole."""
    *lines, rest = path.read_bytes().split(b"\n")
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            entry["id"], int(entry["seed"]), entry["prompt"], entry["file"], entry["bytes"]
        except (ValueError, KeyError, TypeError):
            if number == len(lines) - 1 and not rest:  # a power failure can leave a line of zeros
                return entries, False
            raise ValueError(f"{str(path)!r}, line {number + 1}: not an entry of a manifest of dita") from None
        entries.append(entry)
    return entries, not rest


def _is_ours(path: Path) -> bool:
    """Whether a file is what a job leaves that was killed before it had described itself."""
    return path.name == LOCK or path.name.endswith(PARTIAL)


def _holds_pictures(folder: Path) -> bool:
    return any((folder / IMAGES).glob("*")) or any(path.stat().st_size for path in folder.glob("manifest*.jsonl"))


def _check_same_job(folder: Path, settings: Settings) -> None:
    difference = settings.difference(_read_job(folder))
    if difference is not None:
        raise OtherJobError(f"folder {str(folder)!r} belongs to another job: {difference}; nothing was changed")


def _read_job(folder: Path) -> Settings:
    path = folder / JOB
    try:
        data = json.loads(path.read_text())
        if data.pop("format") != JOB_FORMAT:
            raise KeyError("format")
        return settings_from_json(data["settings"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OtherJobError(f"{str(path)!r} is not the description of a job of this version of dita") from None


def _write_job(folder: Path, settings: Settings) -> None:
    data = {"format": JOB_FORMAT, "settings": settings.as_json()}
    write_whole(folder / JOB, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; where the file system knows no locks, without."""
    if sys.platform == "win32":
        yield
        return
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OtherJobError(f"another process is working on folder {str(folder)!r} now") from None
        except OSError:
            pass
        yield
