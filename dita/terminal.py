"""Tables for a terminal of any width: the labels stay whole or fold at their joints, and columns go on below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

LABEL_WIDTH = 24
"""Characters of a label that are never folded to make room for another column."""
_GAP = 1


@dataclass(frozen=True)
class Column:
    """A column beside the labels.

    Attributes:
        head: over it, of one line or more.
        rank: which columns stand in the first table where not all of them fit: those of the lowest ranks.
        left: whether its cells are text, and lie on the left.
    """

    head: str
    rank: int = 0
    left: bool = False


@dataclass
class FittingTable:
    """A line of cells for each label, as wide as the terminal at most.

    Where the columns do not fit, the labels fold behind `:`, `/` and `+`; where that is not enough, the columns of the
    highest ranks stand in further tables below, beside the labels again. Nothing is cut, and nothing left out, except
    that a single column wider than the terminal wraps.
    """

    label: str
    columns: Sequence[Column]
    rows: list[tuple[str, tuple[str, ...], str | None]] = field(default_factory=list)

    def add(self, label: str, cells: Iterable[str], style: str | None = None) -> None:
        """One more line; `style` is rich's."""
        self.rows.append((label, tuple(cells), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = options.max_width
        for number, part in enumerate(self.parts(width)):
            if number:
                yield Text()
            yield self._table(part, width)

    def parts(self, width: int) -> list[list[int]]:
        """The columns of each table, one below the other, by their numbers."""
        rest = sorted(range(len(self.columns)), key=lambda number: self.columns[number].rank)
        parts: list[list[int]] = []
        while rest or not parts:
            part: list[int] = []
            for number in rest:
                if self._needs([*part, number]) <= width:
                    part.append(number)
            parts.append(sorted(part or rest[:1]))
            rest = [number for number in rest if number not in parts[-1]]
        return parts

    def _needs(self, numbers: Sequence[int]) -> int:
        """The least width of a table of these columns."""
        return min(LABEL_WIDTH, self._label_width()) + sum(_GAP + self._width(number) for number in numbers)

    def _label_width(self) -> int:
        return max(_widths([self.label, *(label for label, _, _ in self.rows)]))

    def _width(self, number: int) -> int:
        return max(_widths([self.columns[number].head, *(cells[number] for _, cells, _ in self.rows)]))

    def _table(self, numbers: Sequence[int], width: int) -> Table:
        table = Table(header_style="bold", box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
        table.add_column(Text(self.label), no_wrap=True)
        room = width - sum(_GAP + self._width(number) for number in numbers)
        fits = room >= min(LABEL_WIDTH, self._label_width())
        for number in numbers:
            column = self.columns[number]
            table.add_column(Text(column.head), justify="left" if column.left else "right", no_wrap=fits)
        for label, cells, style in self.rows:
            name = Text("\n".join(folded(label, room if fits else LABEL_WIDTH)))
            table.add_row(name, *(Text(cells[number]) for number in numbers), style=style)
        return table


def terminal_width(most: int = 100) -> int:
    """Characters of a line of text: the terminal's, and `most` at most."""
    return min(Console().width, most)


def folded(label: str, width: int) -> list[str]:
    """A method's name in lines of at most `width` characters, broken after `:`, `/` and `+` where it has any."""
    lines = [""]
    for part in re.findall(r"[^:/+]+[:/+]?|[:/+]", label):
        for piece in (part[i : i + width] for i in range(0, len(part), width)):
            if len(lines[-1]) + len(piece) > width:
                lines.append("")
            lines[-1] += piece
    return lines


def _widths(cells: Iterable[str]) -> Iterator[int]:
    return (cell_len(line) for cell in cells for line in (cell.splitlines() or [""]))
