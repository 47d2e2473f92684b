"""Token merging without torch: the cells that tokens are matched in, and what merging costs against what it saves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cells:
    """How the image tokens of a sample are matched: in `sequences` of their own, each a `grid` cut into cells.

    `stride` is the size of a cell along each axis of `grid`, in tokens; one token of each cell is a destination, all
    others are sources. What is left over at the end of an axis belongs to no cell and is source too. `interleaved`:
    the j-th sequence has the tokens j, j + sequences, j + 2 sequences ... of the sample; otherwise sequences follow one
    another. Raises `ValueError` for a grid that is smaller than one cell.
    """

    grid: tuple[int, ...]
    stride: tuple[int, ...]
    sequences: int = 1
    interleaved: bool = False

    def __post_init__(self) -> None:
        if any(side < step for side, step in zip(self.grid, self.stride, strict=True)):
            raise ValueError(
                f"a stride of {joined(self.stride)} tokens does not fit into a grid of {joined(self.grid)} tokens;"
                " choose a smaller stride, or a larger picture"
            )

    @property
    def tokens(self) -> int:
        """Of one sequence."""
        return math.prod(self.grid)

    @property
    def destinations(self) -> int:
        """Of one sequence: the number of its cells."""
        return math.prod(side // step for side, step in zip(self.grid, self.stride, strict=True))

    def removed(self, ratio: float) -> int:
        """Tokens of one sequence that merging takes away: `ratio` of them, and never more than there are sources."""
        return min(int(self.tokens * ratio), self.tokens - self.destinations)

    def matching_flops(self, width: int) -> float:
        """FLOPs of the cosines between sources and destinations, of one sample."""
        sources = self.tokens - self.destinations
        return 2.0 * self.sequences * sources * self.destinations * width


def joined(sizes: tuple[int, ...]) -> str:
    """Sizes as one word: `2x2`."""
    return "x".join(map(str, sizes))


MachineName = Literal["accelerator", "cpu"]


@dataclass(frozen=True)
class Machine:
    """What a cost model must know of a machine: what it reaches in practice, not what its data sheet says."""

    flops_per_second: float
    bytes_per_second: float
    seconds_per_operation: float
    """Of starting one kernel, or of one small operation."""

    def seconds(self, *, flops: float = 0.0, bytes_moved: float = 0.0, operations: int = 0) -> float:
        """The time of work whose arithmetic, memory traffic and starts do not overlap."""
        return (
            flops / self.flops_per_second
            + bytes_moved / self.bytes_per_second
            + operations * self.seconds_per_operation
        )


MACHINES: dict[MachineName, Machine] = {
    "accelerator": Machine(200e12, 1.5e12, 6e-6),  # a data-centre GPU in bfloat16, eager
    "cpu": Machine(100e9, 10e9, 10e-6),  # a few cores in float32
}
"""Orders of magnitude: merging that is refused or done by less than a factor of two is a coin toss."""

_MATCHING_OPERATIONS = 16  # norm, products, maximum, sort, gathers, row numbers
_MERGING_OPERATIONS = 8  # gathers, sum, division; and the way back


def matching_seconds(cells: Cells, *, rows: int, width: int, element_bytes: int, machine: Machine) -> float:
    """The time of one matching: cosines, the best destination of each source, and their order."""
    sources = cells.tokens - cells.destinations
    similarities = 2 * sources * cells.destinations  # written, and read for the maximum
    metric = 4 * cells.tokens * width  # read, normalised, and gathered as sources and destinations
    return machine.seconds(
        flops=cells.matching_flops(width) * rows,
        bytes_moved=(similarities + metric) * element_bytes * cells.sequences * rows,
        operations=_MATCHING_OPERATIONS,
    )


def merging_seconds(
    cells: Cells, removed: int, *, rows: int, width: int, element_bytes: int, machine: Machine
) -> float:
    """The time of merging before a module and unmerging behind it; `removed` tokens of one sequence."""
    numbers = 3 * (cells.tokens + cells.tokens - removed) * width
    bytes_moved = numbers * element_bytes * cells.sequences * rows
    return machine.seconds(bytes_moved=bytes_moved, operations=_MERGING_OPERATIONS)
