"""Prompts with ids, from texts or from a file; seeds from their short form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dita import columns

SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet", ".tsv")
COLUMNS = ("prompt", "id")

Numbered = Iterator[tuple[str, Any]]
"""Where an entry stands in its file (`line 3`), and the entry: a text, or an object with `prompt` and perhaps `id`."""


@dataclass(frozen=True)
class Prompt:
    """A text to make pictures of, and the id that names it in files and manifests."""

    id: str
    text: str


def from_texts(texts: Iterable[str], name: str = "--prompt") -> list[Prompt]:
    """Prompts whose ids are their numbers, `00000` and on. Raises `ValueError` for an empty text, or none at all."""
    return _checked(name, ((f"number {i + 1}", {"id": f"{i:05d}", "prompt": t}) for i, t in enumerate(texts)))


def read(path: str | Path) -> list[Prompt]:
    """The prompts of a file: `.txt` (one a line), `.csv` or `.tsv` with a header, `.jsonl` or `.parquet`.

    All but the first have a column or key `prompt` and perhaps `id`, also with blanks, capitals or quotes (`Prompt`);
    commas, semicolons, tabs or bars are between the cells of a table. Without an id, it is the number of the line,
    counted from 0 as `00000`; blank lines of a text or JSONL file are skipped, and counted. UTF-8 only.
    Raises `FileNotFoundError`; and `ValueError`, with the number of the line, for an unknown suffix, a broken line, an
    empty prompt, an id that comes twice, and a file without prompts.
    """
    path = Path(path)
    reader = {
        ".txt": _text_lines,
        ".csv": _table_rows,
        ".tsv": _table_rows,
        ".jsonl": _json_lines,
        ".parquet": _parquet_rows,
    }.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"prompt file {str(path)!r} has an unknown extension; known: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {str(path)!r}")
    try:
        return _checked(f"prompt file {str(path)!r}", reader(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt file {str(path)!r} is not UTF-8 text: {error}") from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seed indices from `0..3` (both ends are in), `5`, or `0,2,7..9`. Raises `ValueError` for others and repeats."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        if not found:
            raise ValueError(f"seeds must be as 0..3, 5 or 0,2,7..9, got {text!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"seeds {part.strip()!r} end before they begin")
        seeds += range(first, last + 1)
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None) if len(set(seeds)) < len(seeds) else None
    if twice is not None:
        raise ValueError(f"seed {twice} comes more than once in {text!r}")
    return tuple(seeds)


def _checked(name: str, entries: Iterable[tuple[str, Any]]) -> list[Prompt]:
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    for number, (place, entry) in enumerate(entries):
        if isinstance(entry, str):
            entry = {"prompt": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
            raise ValueError(f"{name}, {place}: an entry needs a text 'prompt', got {str(entry)[:80]}")
        text = entry["prompt"].strip()
        if not text:
            raise ValueError(f"{name}, {place}: the prompt is empty")
        given = entry.get("id")
        if given is not None and (isinstance(given, (bool, dict, list)) or not str(given).strip()):
            raise ValueError(f"{name}, {place}: an id must be a text or a number, got {given!r}")
        id = f"{number:05d}" if given is None else str(given).strip()
        if id in places:
            raise ValueError(f"{name}, {place}: id {id!r} was there before, in {places[id]}; ids must differ")
        places[id] = place
        prompts.append(Prompt(id, text))
    if not prompts:
        raise ValueError(f"{name} holds no prompts")
    return prompts


def _text_lines(path: Path) -> Numbered:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            if line.strip():
                yield f"line {number + 1}", {"id": f"{number:05d}", "prompt": line}


def _json_lines(path: Path) -> Numbered:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"prompt file {str(path)!r}, line {number + 1}: not JSON: {error}") from None
            if isinstance(entry, str):
                entry = {"prompt": entry}
            if isinstance(entry, dict):
                entry = _spelt(f"prompt file {str(path)!r}, line {number + 1}", entry)
            if isinstance(entry, dict) and "id" not in entry:
                entry = {"id": f"{number:05d}", **entry}
            yield f"line {number + 1}", entry


def _table_rows(path: Path) -> Numbered:
    return ((f"line {number}", row) for number, row in columns.rows(path, COLUMNS))


def _parquet_rows(path: Path) -> Numbered:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError("reading Parquet needs pyarrow: pip install 'dita[parquet]'") from None
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"prompt file {str(path)!r} is not Parquet: {error}") from None
    names = file.schema_arrow.names
    spelt = _spelt(f"prompt file {str(path)!r}", {name: name for name in names})
    if "prompt" not in spelt:
        raise ValueError(f"prompt file {str(path)!r} has no column 'prompt', but {', '.join(names)}")
    number = 0
    for batch in file.iter_batches(columns=[spelt[name] for name in COLUMNS if name in spelt]):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", columns.renamed(row, COLUMNS)


def _spelt(place: str, entry: dict[str, Any]) -> dict[str, Any]:
    try:
        return columns.renamed(entry, COLUMNS)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
