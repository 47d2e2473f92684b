"""The folder of a job: `job.json`, `manifest.jsonl`, `failures.jsonl` and `images/`; and how it goes on after a stop.

A line of the manifest is written after its file is in place, so that a line always speaks the truth. Workers beside
the first have manifests of their own, `manifest.1.jsonl` and on, which the first one joins to its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from dita.generation.job import Item, Key, Settings, settings_from_json
from dita.metrics.picture_sets import MANIFEST_LINES as MANIFEST
from dita.whole_files import PARTIAL, remove_partial, sync_folder, write_whole

if sys.platform != "win32":
    import fcntl

JOB, FAILURES, IMAGES, LOCK = "job.json", "failures.jsonl", "images", ".lock"
JOB_FORMAT = "dita-job-1"
ENTRY: dict[str, Any] = {"id": (str, int), "seed": int, "prompt": str, "file": str, "bytes": int}
READERS = 4  # threads that hold files against their checksums
LISTED = 3  # files or lines in a message


class OtherJobError(ValueError):
    """The folder belongs to a job with other settings, or to no job at all."""


@contextmanager
def opened(
    folder: Path,
    settings: Settings,
    items: Sequence[Item],
    *,
    repair: bool = False,
    say: Callable[[str], None] | None = None,
) -> Iterator[dict[Key, dict[str, Any]]]:
    """The folder, ready to take what is missing; gives the manifest's entries of items that are there already.

    Every file is held against its checksum: what is gone, shortened or damaged counts as missing, and `say` is told.
    With `repair`, damaged lines of the manifest are dropped, so that their items are missing, too.
    Only one process may have it open. A job without a picture yet may change its settings.
    Raises `OtherJobError` where the folder belongs to something else, `ValueError` for a damaged manifest, `OSError`
    where it cannot be written; it is then as it was.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file; give a folder")
    if folder.is_dir() and not (folder / JOB).is_file() and any(not _is_ours(path) for path in folder.iterdir()):
        raise OtherJobError(f"folder {str(folder)!r} holds other files and no {JOB}; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if (folder / JOB).is_file() and _holds_pictures(folder):
            _check_same_job(folder, settings)
        else:  # new, or of a job that ended before its first picture, such as by a wrong argument
            _write_job(folder, settings)
        (folder / IMAGES).mkdir(exist_ok=True)
        remove_partial(folder)
        remove_partial(folder / IMAGES)
        listed = _listed(folder, repair)
        for item in items:
            entry = listed.entries.get(item.key)
            if entry is not None and entry["prompt"] != item.prompt:
                raise OtherJobError(
                    f"folder {str(folder)!r} belongs to another job: the prompt of id {item.id!r} is"
                    f" {entry['prompt']!r} there and {item.prompt!r} here; nothing was changed"
                )
        lost = _lost(folder, listed)
        done = _joined(folder, listed, lost)
        for remark in _remarks(listed, lost, {item.key for item in items}):
            (say or _say_nothing)(remark)
        yield done


def record_revision(folder: Path, settings: Settings) -> None:
    """Writes the settings with the revision of the weights, which is known once they are loaded; or compares it."""
    _check_same_job(folder, settings)
    if _read_job(folder).revision is None:
        _write_job(folder, settings)


def join_manifests(folder: Path) -> dict[Key, dict[str, Any]]:
    """All entries, by key; afterwards they stand in one manifest, each once.

    A last line that was cut is dropped: its item is made again. Raises `ValueError` for damage elsewhere.
    """
    return _joined(folder, _listed(folder), {})


def read_manifest(folder: Path) -> tuple[dict[Key, dict[str, Any]], Settings]:
    """What a job made so far, by key, and its settings; a last line that was cut is left out, and nothing is changed.

    Raises `FileNotFoundError` where the folder is not of `dita generate`, and `ValueError` for a damaged manifest.
    """
    for name in (MANIFEST, JOB):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"folder {str(folder)!r} has no {name}: it is not one that dita generate made")
    found = _read_lines(folder / MANIFEST)
    _check_whole([found])
    return {_key(entry): entry for entry in found.entries}, _read_job(folder)


class Manifest:
    """The manifest of one worker, open for appending. What `append` was given is on the disk when it returns."""

    def __init__(self, folder: Path, worker: int = 0) -> None:
        self.folder = folder
        path = folder / (MANIFEST if worker == 0 else f"manifest.{worker}.jsonl")
        self._file: FileIO = path.open("ab", buffering=0)  # nothing is held back, to be written after an error

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines. Raises `OSError` for a full disk; what was written of them is then taken back."""
        data = memoryview("".join(_line(entry) for entry in entries).encode())
        end = os.fstat(self._file.fileno()).st_size
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):  # where even this fails, half a line stays, and is the last one
                self._file.truncate(end)
            raise

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


@dataclass(frozen=True)
class _Lines:
    """What a manifest holds: its `entries`, the numbers of `damaged` lines from 1 on, and whether its end was `cut`."""

    path: Path
    entries: list[dict[str, Any]]
    damaged: list[int]
    cut: bool


@dataclass(frozen=True)
class _Listed:
    """What all manifests of a folder hold: entries by key, the last of each; `earlier` ones that say otherwise; and
    `rewrite`, whether the manifests are to be written anew."""

    entries: dict[Key, dict[str, Any]]
    earlier: list[dict[str, Any]]
    manifests: list[_Lines]
    rewrite: bool


def _listed(folder: Path, repair: bool = False) -> _Listed:
    """Raises `ValueError` for damaged lines without `repair`."""
    shards = sorted(path for path in folder.glob("manifest.*.jsonl") if path.name != MANIFEST)
    manifests = [_read_lines(path) for path in [folder / MANIFEST, *shards] if path.is_file()]
    if not repair:
        _check_whole(manifests)
    lines = [entry for found in manifests for entry in found.entries]
    entries = {_key(entry): entry for entry in lines}
    earlier = [entry for entry in lines if entry.get("sha256") != entries[_key(entry)].get("sha256")]
    damaged = any(found.damaged or found.cut for found in manifests)
    return _Listed(entries, earlier, manifests, bool(shards) or damaged or len(lines) != len(entries))


def _check_whole(manifests: Sequence[_Lines]) -> None:
    for found in manifests:
        if found.damaged:
            raise ValueError(
                f"{str(found.path)!r}, {_numbered(found.damaged)}: not an entry of a manifest of dita, though"
                f" {len(found.entries)} others are; dita generate --repair keeps those and makes the rest again"
            )


def _joined(folder: Path, listed: _Listed, lost: Mapping[Key, str]) -> dict[Key, dict[str, Any]]:
    """The entries that are not lost, which afterwards stand in one manifest."""
    there = {key: entry for key, entry in listed.entries.items() if key not in lost}
    if listed.rewrite or lost:
        write_whole(folder / MANIFEST, "".join(_line(entry) for entry in there.values()).encode())
        for found in listed.manifests:
            if found.path.name != MANIFEST:
                found.path.unlink()
        sync_folder(folder)
    return there


def _lost(folder: Path, listed: _Listed) -> dict[Key, str]:
    """What became of the files that are not as their entries say, in words.

    Where an earlier entry of a file says what it is, that one takes the place of the last.
    """
    entries = listed.entries
    with ThreadPoolExecutor(READERS) as readers:
        states = dict(zip(entries, readers.map(lambda entry: _state(folder, entry), entries.values()), strict=True))
    for entry in listed.earlier:
        if states[_key(entry)] is not None and _state(folder, entry) is None:
            entries[_key(entry)], states[_key(entry)] = entry, None
    return {key: f"{entries[key]['file']} {state}" for key, state in states.items() if state is not None}


def _state(folder: Path, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with the file of an entry; None where nothing is."""
    path = folder / entry["file"]
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"has {size} bytes of {entry['bytes']}"
        if "sha256" in entry and hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            return "is damaged"
    except (FileNotFoundError, NotADirectoryError):
        return "is gone"
    return None


def _remarks(listed: _Listed, lost: Mapping[Key, str], wanted: set[Key]) -> Iterator[str]:
    """What was repaired, for the user; `wanted` are the items of this run."""
    for found in listed.manifests:
        if found.damaged:
            yield f"{found.path.name}, {_numbered(found.damaged)}: damaged, and dropped; the rest is kept"
        repeated = len(found.entries) - len({_key(entry) for entry in found.entries})
        if repeated:
            yield f"{found.path.name}: lines that repeat others ({repeated}) are dropped"
    again = [state for key, state in lost.items() if key in wanted]
    if again:
        yield f"made again, for they are not as the manifest says ({len(again)}): {_some(again)}"
    others = [state for key, state in lost.items() if key not in wanted]
    if others:
        yield f"no longer listed, and not of this run ({len(others)}): {_some(others)}"


def _numbered(lines: Sequence[int]) -> str:
    return f"line{'s' * (len(lines) > 1)} {_some(list(map(str, lines)))}"


def _some(texts: Sequence[str]) -> str:
    """The first of `texts`, and how many more there are."""
    more = len(texts) - LISTED
    return ", ".join(texts[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _say_nothing(_: str) -> None:
    pass


def _key(entry: Mapping[str, Any]) -> Key:
    return str(entry["id"]), int(entry["seed"])


def _read_lines(path: Path) -> _Lines:
    """What a manifest holds. An end that was cut, by a kill or by a power failure, is not called damaged."""
    *lines, rest = path.read_bytes().split(b"\n")
    entries: list[dict[str, Any]] = []
    damaged: list[int] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if not all(isinstance(entry[name], kind) for name, kind in ENTRY.items()):
                raise TypeError
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            damaged.append(number)
        else:
            entries.append(entry)
    cut = bool(rest)
    if damaged and damaged[-1] == len(lines) and not rest:  # a power failure can leave a line of zeros
        damaged.pop()
        cut = True
    return _Lines(path, entries, damaged, cut)


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
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; where the file system knows no locks, without. Raises `OtherJobError`."""
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
