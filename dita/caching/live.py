"""Selection inside a cached step, from what only that step knows: its tokens, or scores that it changes itself."""

from __future__ import annotations

import torch
from torch import Tensor

from dita.caching import selection
from dita.caching.context_parallel import Divided
from dita.caching.probe import Probe
from dita.caching.rows import row_numbers
from dita.caching.scores import combined, entropy_score, live
from dita.caching.selection import SpatialBonus


class LiveSelection:
    """Selects the tokens of one site through the cached steps of one cycle.

    Attributes:
        score: `norm`, `similarity`, or `entropy` (s2, whose values the block's probe holds).
        age_weight: added to a score for each cached step since its token was computed (lambda_3 / N).
        spatial: the spatial bonus, if any.
        parts, shared: of guidance that the call holds, 1 without any; and whether they compute the same tokens.
        divided: how ranks share the site's tokens; None where one process has them all.
        age: cached steps since a token was computed, (B, N), B the samples that choose; None before the first choice.
            Where ranks share tokens, those of all ranks.
        all_rows: then the rows of all ranks' tokens that were chosen last.
    """

    def __init__(
        self,
        score: str,
        age_weight: float,
        spatial: SpatialBonus | None,
        probe: Probe,
        *,
        parts: int = 1,
        shared: bool = False,
        divided: Divided | None = None,
    ) -> None:
        self.score = score
        self.age_weight = age_weight
        self.spatial = spatial
        self.probe = probe
        self.parts = parts
        self.shared = shared
        self.divided = divided
        self.age: Tensor | None = None
        self.all_rows: Tensor | None = None
        self._waited = 0

    def wait(self) -> None:
        """A cached step that computes no token here: all grow older."""
        self._waited += 1

    def rows(self, count: int, tokens: Tensor, stored: Tensor) -> Tensor:
        """`count` tokens of each sample, as ascending rows of the flattened (B * N); of these, where ranks share the
        tokens, those that this one holds.

        tokens: (B, N, C), the residual stream in front of the site's norm; stored: (B, N, C), the site's stored output.
        """
        scores = self._scores(tokens, stored)
        age = (torch.zeros_like(scores) if self.age is None else self.age) + self._waited
        scores = scores + self.age_weight * age
        if self.spatial is not None:
            scores = self.spatial.apply(scores)
        index = selection.best_first(scores, count).sort(dim=-1).values
        self.age = (age + 1).scatter_(1, index, 0.0)
        self._waited = 0
        rows = row_numbers(index, tokens.shape[0], scores.shape[-1])
        if self.divided is None:
            return rows
        self.all_rows = rows
        return self.divided.own([rows])[0]

    def _scores(self, tokens: Tensor, stored: Tensor) -> Tensor:
        if self.score == "entropy":
            assert self.probe.scores is not None
            return entropy_score(self.probe.scores, self.parts > 1, self.parts)
        scores = live(self.score, tokens, stored)
        scores = scores if self.divided is None else self.divided.joined(scores)
        return combined(scores, self.parts > 1 and self.shared, parts=self.parts)
