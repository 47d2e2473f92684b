"""Bipartite soft matching: which tokens of a sequence are merged, and into which (ToMe, arXiv 2210.09461).

Destinations are spread over a grid of tokens, one in each cell, as ToMe for Stable Diffusion has them (arXiv
2303.17604, `tomesd`); the values are its own, the golden vectors say.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dita.merges import Cells


class Matching:
    """The pair `merge` and `unmerge` of one set of sequences.

    Merged sequences hold the tokens that stay alone first, then the destinations, in the order of `kept`.

    Attributes:
        kept: (b, n - r), the tokens that merged sequences hold, by number: those that stay alone in descending
            similarity to their best destination, then the destinations in ascending order.
        merged: (b, r), the tokens that are merged away, most similar first.
        row: (b, n), for every token the row of the merged sequence that stands for it.
        size: (b, n - r), how many tokens each row stands for.
    """

    def __init__(self, kept: Tensor, merged: Tensor, row: Tensor, size: Tensor) -> None:
        self.kept = kept
        self.merged = merged
        self.row = row
        self.size = size

    def total(self, x: Tensor) -> Tensor:
        """The sum of the tokens that each row stands for, in float32 at least: (b, n, C) -> (b, n - r, C)."""
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        out = gather(x, self.kept)
        into = flat(self.row.gather(1, self.merged), out.shape[1])
        sources = gather(x, self.merged).flatten(0, 1)
        rows = out.flatten(0, 1)
        if x.is_cuda:  # sorts, where `index_add_` adds in any order and so rounds another way each time
            rows.index_put_((into,), sources, accumulate=True)
        else:
            rows.index_add_(0, into, sources)
        return rows.view_as(out)

    def merge(self, x: Tensor) -> Tensor:
        """The mean of the tokens that each row stands for: (b, n, C) -> (b, n - r, C)."""
        total = self.total(x)
        return (total / self.size[..., None].to(total.dtype)).to(x.dtype)

    def unmerge(self, y: Tensor) -> Tensor:
        """Every token gets the value of the row that stands for it: (b, n - r, C) -> (b, n, C)."""
        return gather(y, self.row)

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that the matching holds in memory."""
        return self.kept, self.merged, self.row, self.size


def match(metric: Tensor, order: Tensor, destinations: int, removed: int) -> Matching:
    """Matches every source to the destination whose metric is most like its own, by cosine, and merges the best.

    metric: (b, n, C); order: (n,), the token numbers of the destinations, then those of the sources, as `cell_order`
    returns them; removed: r, the number of sources to merge. Equal similarities keep the lowest number first.
    """
    rows, tokens, _ = metric.shape
    metric = metric.detach()  # numbers of tokens are what comes out
    metric = metric / metric.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    dst, src = order[:destinations], order[destinations:]
    similarity, nearest = (metric.index_select(1, src) @ metric.index_select(1, dst).mT).max(dim=-1)  # (b, sources)
    best_first = similarity.sort(dim=-1, descending=True, stable=True).indices
    merged, alone = best_first[:, :removed], best_first[:, removed:]
    kept = torch.cat([src[alone], dst.expand(rows, -1)], dim=1)
    into = nearest.gather(1, merged) + alone.shape[1]
    merged = src[merged]
    places = torch.arange(kept.shape[1], device=kept.device).expand(rows, -1)
    row = torch.empty(rows, tokens, dtype=torch.int64, device=kept.device)
    row = row.scatter(1, kept, places).scatter(1, merged, into)
    size = torch.ones(kept.shape, device=kept.device).scatter_add(1, into, torch.ones_like(into, dtype=torch.float32))
    return Matching(kept, merged, row, size)


def cell_order(cells: Cells, offsets: Tensor) -> Tensor:
    """Token numbers of one sequence, its destinations first, ascending in either part: (..., n).

    offsets: (..., destinations), which token of each cell is its destination, counted row by row within the cell.
    """
    tokens = torch.arange(cells.tokens, device=offsets.device).view(cells.grid)
    for axis, step in enumerate(cells.stride):
        tokens = tokens.unfold(axis, step, step)  # what is left over is in no cell
    by_cell = tokens.reshape(cells.destinations, math.prod(cells.stride))
    destinations = by_cell[torch.arange(cells.destinations, device=offsets.device), offsets]
    is_destination = torch.zeros(*offsets.shape[:-1], cells.tokens, dtype=torch.uint8, device=offsets.device)
    is_destination.scatter_(-1, destinations, 1)
    return is_destination.sort(dim=-1, descending=True, stable=True).indices


def gather(x: Tensor, index: Tensor) -> Tensor:
    """The tokens `index` (b, k) of `x` (b, n, C): (b, k, C)."""
    rows = x.reshape(-1, x.shape[-1]).index_select(0, flat(index, x.shape[1]))
    return rows.view(*index.shape, x.shape[-1])


def flat(index: Tensor, tokens: int) -> Tensor:
    """Token numbers (b, k) as rows of the flattened (b * tokens)."""
    starts = torch.arange(index.shape[0], device=index.device)[:, None] * tokens
    return (index + starts).flatten()
