"""Tables that people bring, such as prompts with their ids: columns found by name, whatever the spelling of the header.

Spreadsheets and scripts write `Prompt`, ` prompt`, or `"prompt"` behind a byte order mark, with commas, semicolons,
tabs or bars between.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

TABLE_SUFFIXES = (".csv", ".tsv")
SEPARATORS = (",", ";", "\t", "|")


def column(names: Iterable[str], wanted: str) -> str | None:
    """Which of `names` is the column `wanted`: so spelt, or but for blanks, capitals and quotes. None for none.

    Raises `ValueError` where several are.
    """
    given = [name for name in names if isinstance(name, str)]
    found = [name for name in given if name == wanted] or [name for name in given if _plain(name) == wanted]
    if len(found) > 1:
        raise ValueError(f"several columns are called {wanted!r}: {', '.join(repr(name) for name in found)}")
    return found[0] if found else None


def renamed(entry: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """The entry with its keys `wanted` so spelt; others stay as they are. Raises `ValueError` as `column` does."""
    spelt = {found: name for name in wanted if (found := column(entry, name)) is not None}
    return {spelt.get(key, key): value for key, value in entry.items()}


def rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with a header, as the number of their line and their cells by column.

    The first of `wanted` is a column that the table must have; all of them are so spelt in the rows. What stands
    between cells is one of `SEPARATORS`, the first with which the header has that column; UTF-8. Empty lines are left
    out. Raises `ValueError` with the number of the line.
    """
    with path.open(encoding="utf-8-sig", newline="") as lines:
        name = f"prompt file {str(path)!r}"
        before, header = _header(lines)
        separator, names = _named(name, before, header, wanted)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    more = "more" if len(cells) > len(names) else "fewer"
                    raise ValueError(
                        f"{name}, line {before + reader.line_num}: the row has {more} cells than the header"
                    )
                yield before + reader.line_num, dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise ValueError(f"{name}, line {before + reader.line_num}: not CSV: {error}") from None


def _header(lines: TextIO) -> tuple[int, str]:
    """The first line that is not blank, with the lines that a quoted name in it goes on to, and its number."""
    number, header = 0, ""
    for line in lines:
        number += 1
        header += line
        if header.strip("\ufeff \t\r\n") and header.count('"') % 2 == 0:
            return number, header.lstrip("\ufeff \r\n")
        header = header if header.strip() else ""
    return max(number, 1), header


def _named(name: str, number: int, header: str, wanted: Sequence[str]) -> tuple[str, list[str]]:
    """What stands between the cells of a header, and its columns, those of `wanted` so spelt."""
    for separator in SEPARATORS:
        names = _split(header, separator)
        if any(_plain(one) == wanted[0] for one in names):
            break
    else:
        given = ", ".join(_split(header, ",")) or "nothing"
        raise ValueError(f"{name}, line {number}: a CSV file needs a header with a column {wanted[0]!r}, got {given}")
    try:
        spelt = {found: one for one in wanted if (found := column(names, one)) is not None}
    except ValueError as error:
        raise ValueError(f"{name}, line {number}: {error}") from None
    return separator, [spelt.get(one, one) for one in names]


def _split(header: str, separator: str) -> list[str]:
    tidy = re.sub(rf'" +(?={re.escape(separator)}|\s*$)', '"', header.rstrip("\r\n"))
    return next(csv.reader(tidy.splitlines(keepends=True), delimiter=separator, skipinitialspace=True), [])


def _plain(name: str) -> str:
    return name.strip("\ufeff\"' \t\r\n\xa0").casefold()
