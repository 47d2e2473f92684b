"""What a block's attention hands out in a full step, for the scores of its tokens."""

from __future__ import annotations

from torch import Tensor


class Probe:
    """Collects in a full step what the scores of a block's tokens are made of.

    Attributes:
        score: the score to collect in this step, None for nothing.
        query, key: per stream (image or joint first, then text), (B, N, H, D): normalised, before rotary embedding.
        key_norms: per stream, mean over heads of the key's length before normalisation, (B, N).
        scores: the result over the block's tokens, (B, N) in float32, not yet normalised. For the entropy of attention
            to the text, cached steps write the rows that they compute anew.
    """

    def __init__(self) -> None:
        self.score: str | None = None
        self.query: dict[str, Tensor] = {}
        self.key: dict[str, Tensor] = {}
        self.key_norms: dict[str, Tensor] = {}
        self.scores: Tensor | None = None

    def forget_inputs(self) -> None:
        self.query.clear()
        self.key.clear()
        self.key_norms.clear()
