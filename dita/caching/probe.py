"""What a block's attention hands out in a full step, for the scores of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from dita.caching.context_parallel import Divided

Made = TypeVar("Made")


class Common:
    """What the probes of all blocks make alike in a call, such as rotary angles as complex numbers: the first makes it.
    In compiled graphs each makes its own."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[tuple[Tensor, ...], Any]] = {}

    def made(self, name: Hashable, sources: tuple[Tensor, ...], compute: Callable[[], Made]) -> Made:
        """`compute()`, or what it was when it was last asked for this call, of the very same `sources`."""
        if torch.compiler.is_compiling():
            return compute()
        known = self._made.get(name)
        if known is None or any(old is not new for old, new in zip(known[0], sources, strict=True)):
            known = self._made[name] = sources, compute()
        return known[1]

    def forget(self) -> None:
        """Frees everything: the call has ended."""
        self._made.clear()


class Probe:
    """Collects in a full step what the scores of a block's tokens are made of.

    Attributes:
        score: the score to collect in this step, None for nothing.
        query, key: per stream (image or joint first, then text), (B, N, H, D): normalised, before rotary embedding.
        key_norms: per stream, mean over heads of the key's length before normalisation, (B, N).
        scores: the result over the block's tokens, (B, N) in float32, not yet normalised. For the entropy of attention
            to the text, cached steps write the rows that they compute anew.
        common: shared by the probes of all blocks.
        divided: how ranks share the tokens of the block; None where one process has them all.
    """

    def __init__(self) -> None:
        self.common = Common()
        self.score: str | None = None
        self.query: dict[str, Tensor] = {}
        self.key: dict[str, Tensor] = {}
        self.key_norms: dict[str, Tensor] = {}
        self.scores: Tensor | None = None
        self.divided: Divided | None = None

    def forget_inputs(self) -> None:
        self.query.clear()
        self.key.clear()
        self.key_norms.clear()
