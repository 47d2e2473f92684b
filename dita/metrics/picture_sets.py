"""Sets of pictures with their prompts and seeds, paired by id and seed: never by position or by a piece of a name.

A folder that dita wrote has a manifest. Other folders work too: the id of a picture is then its file name without the
suffix, and prompts come from a file that names ids.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from dita import columns
from dita.metrics import statistics_file
from dita.metrics.images import SUFFIXES, Picture, UnusablePicture, read, size_of
from dita.values import shown

MANIFEST = "manifest.json"
MANIFEST_LINES = "manifest.jsonl"
"""The manifest of `dita generate`: a line for each picture, with the keys of `write_manifest`'s pictures and more."""
FORMAT = "dita-pictures-1"
COMPARISON = "results.json"

Key = tuple[str, int | None]

_PROMPT_KEYS = ("prompt", "id", "seed")

_OWN_NAME = re.compile(r".+-s\d+")
"""File names of `dita generate`, without the suffix: an id and a seed."""


@dataclass(frozen=True)
class Entry:
    """One picture: `load` reads it as uint8 (H, W, 3), or raises `UnusablePicture`; `size` is (width, height)."""

    id: str
    seed: int | None
    prompt: str | None
    name: str
    load: Callable[[], Picture]
    size: tuple[int, int] | None = None

    @property
    def key(self) -> Key:
        """What pairs it: its id and its seed."""
        return self.id, self.seed

    @property
    def says_its_seed(self) -> bool:
        """Whether a manifest, or a file name of `dita generate`, says what it was made of; other names are names."""
        return self.seed is not None or bool(_OWN_NAME.fullmatch(self.id))


@dataclass(frozen=True)
class Problem:
    """A picture that could not be used, or something else that a reader of the results must know."""

    name: str
    reason: str


@dataclass(frozen=True)
class PictureSet:
    """Pictures that belong together, such as those of one method, and what was wrong with others."""

    name: str
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> set[Key]:
        """Ids and seeds of all pictures."""
        return {entry.key for entry in self.entries}


def write_manifest(folder: Path, pictures: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Writes `manifest.json`: for each picture its `id`, `seed`, `prompt` and `file` (relative to `folder`).

    `facts` say how they were made, such as `model` and `method`.
    """
    data = {"format": FORMAT, **facts, "pictures": [dict(picture) for picture in pictures]}
    (folder / MANIFEST).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def from_memory(
    name: str, pictures: Sequence[Picture], prompts: Sequence[str | None], seeds: Sequence[int | None]
) -> PictureSet:
    """A set of pictures that are in memory; ids are their numbers as `0000`. Raises `ValueError` for other counts."""
    entries = tuple(
        Entry(picture_id(i), seed, prompt, f"{name} {picture_id(i)}", partial(_same, picture), picture.shape[1::-1])
        for i, (picture, prompt, seed) in enumerate(zip(pictures, prompts, seeds, strict=True))
    )
    return PictureSet(name, entries)


def picture_id(index: int) -> str:
    """The id of picture number `index` of a comparison."""
    return f"{index:04d}"


def open_pictures(path: str | Path) -> PictureSet:
    """The pictures of a folder, or of an ADM sample batch (`.npz` with `arr_0`).

    Missing, unreadable and wrong-sized pictures become problems later, when they are read; here only files that the
    manifest does not know. Raises `FileNotFoundError`, and `ValueError` for an empty folder, a damaged manifest, a
    folder of a whole comparison, and files that would share an id.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"pictures are a folder or an .npz file, got {shown(path)}")
    path = Path(path)
    if path.is_file() and path.suffix == ".npz":
        return _from_adm(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder or .npz file {str(path)!r}")
    for manifest in (path / MANIFEST, path / MANIFEST_LINES):
        if manifest.is_file():
            return _from_manifest(path, manifest)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if files:
        twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
        if twice:
            raise ValueError(f"folder {str(path)!r} holds several pictures named {twice[0]!r}: ids must differ")
        return PictureSet(str(path), tuple(_entry(file.stem, None, None, file) for file in files))
    if (path / COMPARISON).is_file():
        folders = sorted(str(manifest.parent) for manifest in path.glob(f"images/*/{MANIFEST}"))
        listed = ", ".join(folders) or "none with a manifest"
        raise ValueError(f"folder {str(path)!r} holds a comparison; give the pictures of one method: {listed}")
    below = next((file.parent for file in sorted(path.glob("*/*")) if file.suffix.lower() in SUFFIXES), None)
    instead = f"; {str(below)!r} holds some" if below else ""
    raise ValueError(f"folder {str(path)!r} holds no pictures ({', '.join(SUFFIXES)}) and no {MANIFEST}{instead}")


def with_prompts(pictures: PictureSet, path: str | Path) -> PictureSet:
    """The set with the prompts of a file, by id (and by seed, where the file has one).

    The file is JSON, an object of id to prompt or a list of objects with `id`, `prompt` and perhaps `seed`, JSON lines
    of such objects, or a table (`.csv`, `.tsv`) with such columns. A picture without a prompt becomes a problem of the
    text metrics. Raises `ValueError` for other contents, among them plain text, which would pair by position.
    """
    prompts = _read_prompts(Path(path))
    found = {entry.key: prompts.get(entry.key, prompts.get((entry.id, None))) for entry in pictures.entries}
    if pictures.entries and not any(found.values()):
        some = ", ".join(sorted({key[0] for key in prompts})[:3])
        raise ValueError(
            f"no id of {str(path)!r} (such as {some}) is that of a picture in {pictures.name!r}"
            f" (such as {pictures.entries[0].id})"
        )
    return replace(pictures, entries=tuple(replace(e, prompt=found[e.key] or e.prompt) for e in pictures.entries))


def without_odd_sizes(pictures: PictureSet) -> PictureSet:
    """The set without pictures that cannot be opened or whose size is not that of most others; those are problems."""
    sizes: dict[Key, tuple[int, int]] = {}
    problems = list(pictures.problems)
    for entry in pictures.entries:
        try:
            sizes[entry.key] = entry.size or size_of(entry.name)
        except UnusablePicture as error:
            problems.append(Problem(entry.name, _reason(error, entry.name)))
    if not sizes:
        return PictureSet(pictures.name, (), tuple(problems))
    usual = Counter(sizes.values()).most_common(1)[0][0]
    for entry in pictures.entries:
        size = sizes.get(entry.key, usual)
        if size != usual:
            reason = f"is {size[0]}x{size[1]} pixels, most others are {usual[0]}x{usual[1]}"
            problems.append(Problem(entry.name, reason))
    kept = tuple(entry for entry in pictures.entries if sizes.get(entry.key) == usual)
    return PictureSet(pictures.name, kept, tuple(problems))


def batches(
    entries: Sequence[Entry], size: int, problems: list[Problem]
) -> Iterator[tuple[list[Entry], list[Picture]]]:
    """The pictures of `entries`, `size` at a time, with their entries; unusable ones are added to `problems`."""
    for start in range(0, len(entries), size):
        chosen, pictures = [], []
        for entry in entries[start : start + size]:
            try:
                pictures.append(entry.load())
                chosen.append(entry)
            except UnusablePicture as error:
                problems.append(Problem(entry.name, _reason(error, entry.name)))
        if chosen:
            yield chosen, pictures


def _same(picture: Picture) -> Picture:
    return picture


def _entry(id: str, seed: int | None, prompt: str | None, path: Path) -> Entry:
    return Entry(id, seed, prompt, str(path), partial(read, path))


def _reason(error: Exception, name: str) -> str:
    return str(error).removeprefix(f"{name}: ")


def _from_manifest(folder: Path, path: Path) -> PictureSet:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":  # a last line without its end is being written, or was cut: not there yet
            listed = [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line]
        else:
            listed = json.loads(text)["pictures"]
        entries = []
        for item in listed:
            file = PurePosixPath(item["file"])
            if file.is_absolute() or ".." in file.parts:
                raise ValueError(f"{str(path)!r}: file {str(file)!r} is not inside the folder")
            seed = _seed(item.get("seed"), repr(str(path)))
            entries.append(_entry(str(item["id"]), seed, item.get("prompt"), folder / file))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} is not a manifest of dita ({error!r}): it needs id and file a picture"
        ) from None
    if not entries:
        raise ValueError(f"{str(path)!r} lists no pictures")
    twice = [key for key, count in Counter(entry.key for entry in entries).items() if count > 1]
    if twice:
        raise ValueError(f"{str(path)!r} lists id {twice[0][0]!r} with seed {twice[0][1]} more than once")
    known = {Path(entry.name) for entry in entries}
    others = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f not in known)
    problems = tuple(Problem(str(file), "is not in the manifest") for file in others)
    return PictureSet(str(folder), tuple(entries), problems)


def _from_adm(path: Path) -> PictureSet:
    """Entries that read on in one stream, as long as they are read in order; going back starts it again."""
    count = statistics_file.count_pictures(path)
    stream = _Stream(path)
    entries = [
        Entry(picture_id(i), None, None, f"{path}[{i}]", partial(stream.picture, i), stream.size) for i in range(count)
    ]
    if not entries:
        raise ValueError(f"{str(path)!r} holds no pictures")
    return PictureSet(str(path), tuple(entries))


class _Stream:
    """Pictures of one file, read on from where it is. A copy in another process starts anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0
        self._pictures = statistics_file.read_pictures(path)
        height, width = statistics_file.picture_size(path)
        self.size = (width, height)

    def __reduce__(self) -> tuple[type[_Stream], tuple[Path]]:
        return _Stream, (self._path,)

    def picture(self, index: int) -> Picture:
        if index < self._next:
            self._pictures, self._next = statistics_file.read_pictures(self._path), 0
        for _ in range(index - self._next):
            next(self._pictures)
        self._next = index + 1
        return next(self._pictures)


def _read_prompts(path: Path) -> dict[Key, str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {str(path)!r}")
    try:
        data = _prompt_entries(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt file {str(path)!r} is not UTF-8 text: {error}") from None
    prompts: dict[Key, str] = {}
    for item in data:
        entry = columns.renamed(item, _PROMPT_KEYS) if isinstance(item, dict) else {}
        if not isinstance(entry.get("prompt"), str) or "id" not in entry:
            raise ValueError(f"prompt file {str(path)!r}: each entry needs an id and a prompt, got {str(item)[:80]}")
        seed = _seed(entry.get("seed"), f"prompt file {str(path)!r}")
        key = (str(entry["id"]).strip(), seed)
        if prompts.setdefault(key, entry["prompt"]) != entry["prompt"]:
            raise ValueError(f"prompt file {str(path)!r} has two prompts for id {key[0]!r} and seed {key[1]}")
    return prompts


def _prompt_entries(path: Path) -> list[Any]:
    """The entries of a prompt file, not checked yet."""
    if path.suffix.lower() in columns.TABLE_SUFFIXES:
        return [row for _, row in columns.rows(path, _PROMPT_KEYS)]
    text = path.read_text(encoding="utf-8-sig")
    try:
        if path.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        data = json.loads(text)
    except json.JSONDecodeError:
        raise ValueError(
            f"prompt file {str(path)!r} is not JSON: pictures and prompts are paired by id, never by position; give"
            ' an object {"id": "prompt"}, or JSON lines {"id": ..., "prompt": ..., "seed": ...}'
        ) from None
    if isinstance(data, dict):
        return [{"id": id, "prompt": prompt} for id, prompt in data.items()]
    return data if isinstance(data, list) else [data]


def _seed(value: Any, place: str) -> int | None:
    """A seed as a whole number, from one or its text; None for nothing."""
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"-?\d+(\.0)?", text):
        raise ValueError(f"{place}: a seed must be a whole number, got {value!r}")
    return int(text.removesuffix(".0"))
