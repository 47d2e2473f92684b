"""From scores to the token numbers that cached steps compute (ToCa section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SpatialBonus:
    """s4: the best token of each cell of `cell` x `cell` image tokens gets its score multiplied by 1 + `bonus`.

    The image tokens are those from `start` on, `grid` (height, width) of them in rows, or (frames, height, width) frame
    by frame. Where the cell does not divide the grid, the last cells of a row and the last row of cells are smaller.
    """

    bonus: float
    cell: int
    grid: tuple[int, ...]
    start: int = 0

    def apply(self, scores: Tensor) -> Tensor:
        """(..., N) -> (..., N)."""
        height, width = self.grid[-2:]
        g = self.cell
        stop = self.start + math.prod(self.grid)
        image = scores[..., self.start : stop].unflatten(-1, self.grid)
        padding = (0, -width % g, 0, -height % g)
        if any(padding):
            image = F.pad(image, padding, value=-torch.inf)
        cells = image.unflatten(-1, (-1, g)).unflatten(-3, (-1, g)).transpose(-3, -2)  # (..., rows, columns, g, g)
        flat = cells.flatten(-2)
        factor = torch.ones_like(flat).scatter_(-1, flat.argmax(dim=-1, keepdim=True), 1 + self.bonus)
        image = (flat * factor).unflatten(-1, (g, g)).transpose(-3, -2).flatten(-4, -3).flatten(-2)
        image = image[..., :height, :width].flatten(-len(self.grid))
        return torch.cat([scores[..., : self.start], image, scores[..., stop:]], dim=-1)


def best_first(scores: Tensor, count: int) -> Tensor:
    """The numbers of the `count` tokens of the highest scores, by descending score; equal scores keep the lowest number
    first. (..., N) -> (..., count).

    Finding the highest of integers that differ, a score's bits above and the token's number below, takes a tenth of the
    time of a stable sort.
    """
    bits = (scores.float() + 0.0).view(torch.int32).long()  # + 0.0 makes one zero of two
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # as integers in the order of the numbers
    keys = (ascending << 32) - torch.arange(scores.shape[-1], device=scores.device)
    return keys.topk(count, dim=-1).indices


def select_cycle(
    base: Callable[[int], Tensor],
    counts: Sequence[Sequence[int]],
    age_weight: float,
    spatial: SpatialBonus | None = None,
) -> list[list[Tensor | None]]:
    """All selections of a cycle, computed at its full step: `result[j][layer]` is (B, k) ascending, None where k = 0.

    base: j -> scores (L, B, N) of all layers at the j-th cached step, frozen or drawn anew.
    counts: `counts[j][layer]` tokens to choose.
    age_weight: added per cached step since a token was last computed (s3: lambda_3 / N). Ages start at 0 after a full
    step, count before the selection of a step is entered, and a chosen token's age returns to 0.
    """
    selections: list[list[Tensor | None]] = []
    age: Tensor | None = None
    for j, tokens in enumerate(counts):
        scores = base(j)
        if age is None:
            age = torch.zeros_like(scores)
        scores = scores + age_weight * age
        if spatial is not None:
            scores = spatial.apply(scores)
        best = best_first(scores, max(tokens))
        limit = torch.tensor(tokens, device=scores.device)[:, None, None]
        behind = torch.arange(best.shape[-1], device=scores.device) >= limit  # of a layer that chooses fewer
        # sorted ascending: the order of rows does not matter to the result, and memory likes it
        ascending = best.masked_fill(behind, scores.shape[-1]).sort(dim=-1).values
        selections.append([ascending[i, :, :k].clone() if k else None for i, k in enumerate(tokens)])
        if j + 1 < len(counts):
            age = age + 1
            age.scatter_(-1, best, age.gather(-1, best).masked_fill(~behind, 0.0))
    return selections
