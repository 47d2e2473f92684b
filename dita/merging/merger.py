"""Merging in front of a module and unmerging behind it, for the blocks of a model that share a matching."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dita.merges import Cells
from dita.merging.matching import Matching, gather, match


class Merger:
    """One group of blocks through a sampling run: who is merged with whom, until it is matched anew.

    Attributes:
        cells: how the image tokens of a sample are matched; `tokens` and `destinations` of a sequence.
        removed: tokens of a sequence that are merged away.
        proportional: whether keys of self-attention weigh as much as the tokens that they stand for.
        order: (n,), destinations and sources of the next matching, as `cell_order` returns them.
    """

    def __init__(self, cells: Cells, removed: int, proportional: bool) -> None:
        self.cells = cells
        self.tokens, self.destinations = cells.tokens, cells.destinations  # numbers, which compiled blocks can read
        self.removed = removed
        self.proportional = proportional
        self.order: Tensor | None = None
        self._matching: Matching | None = None

    @property
    def matching(self) -> Matching:
        """The present one: over the samples' sequences, which follow one another, (B * sequences, n, C)."""
        assert self._matching is not None
        return self._matching

    @property
    def matched(self) -> bool:
        """Whether there is a matching."""
        return self._matching is not None

    def match(self, tokens: Tensor) -> None:
        """Matches anew, by the image tokens that enter a block: (B, N, C)."""
        assert self.order is not None
        self._matching = match(self.fold(tokens), self.order, self.destinations, self.removed)

    def forget(self) -> None:
        """Frees the matching."""
        self._matching = None

    def merge(self, tokens: Tensor) -> Tensor:
        """The merged tokens of every sample, in no certain order, (B, N, C) -> (B, N', C): for modules that work on
        tokens apart from each other. Those that work on sequences take `matching.merge`."""
        return self.matching.merge(self.fold(tokens)).reshape(tokens.shape[0], -1, tokens.shape[-1])

    def unmerge(self, merged: Tensor) -> Tensor:
        """Of what was computed on the tokens that `merge` returned, that of every token: (B, N', C) -> (B, N, C)."""
        sequences = merged.reshape(-1, self.matching.kept.shape[1], merged.shape[-1])
        return self.unfold(self.matching.unmerge(sequences), merged.shape[0])

    def key_bias(self, dtype: torch.dtype) -> Tensor | None:
        """What proportional attention adds to the scores of the merged keys, (b, n'): the log of their tokens."""
        return self.matching.size.log().to(dtype) if self.proportional else None

    def representatives(self) -> Tensor:
        """For every token of the samples the number of the one that stands for it, (B, N): its destination where it
        is merged, else itself."""
        row = self.matching.row
        batch, tokens = row.shape[0] // self.cells.sequences, self.tokens * self.cells.sequences
        numbers = self.fold(torch.arange(tokens, device=row.device).expand(batch, -1)[..., None])
        return self.unfold(gather(numbers, self.matching.kept.gather(1, row)), batch)[..., 0]

    def fold(self, x: Tensor) -> Tensor:
        """The tokens of samples as the sequences that are matched: (B, N, C) -> (B * sequences, n, C)."""
        if self.cells.sequences == 1:
            return x
        if self.cells.interleaved:
            return x.unflatten(1, (self.tokens, -1)).transpose(1, 2).flatten(0, 1)
        return x.unflatten(1, (-1, self.tokens)).flatten(0, 1)

    def unfold(self, sequences: Tensor, batch: int) -> Tensor:
        """What `fold` did, undone."""
        if self.cells.sequences == 1:
            return sequences
        x = sequences.unflatten(0, (batch, -1))
        return (x.transpose(1, 2) if self.cells.interleaved else x).flatten(1, 2)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that is held in memory from one step to a later one."""
        if self._matching is not None:
            yield from self._matching.tensors()

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Puts `change` of each tensor that is held in its place."""
        if self._matching is not None:
            self._matching = Matching(*(change(tensor) for tensor in self._matching.tensors()))


def unmerged_numbers(matching: Matching | Merger, numbers: Tensor) -> Tensor:
    """One number for each merged token, (b, n'), as one for every token, (b, n)."""
    return matching.unmerge(numbers[..., None])[..., 0]
