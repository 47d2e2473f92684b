"""What the sites of one sampling run remember: stored features, selected rows, collected scores."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dita.caching.selection import SpatialBonus
from dita.shapes import Kind


class Slot:
    """One site's instruction for the current step, and its part of the feature store.

    Attributes:
        kind: what to do in this step.
        keep: in a full step, store the output.
        tokens: how many tokens of a sample a partial step computes.
        out: stored output, before the gate, (B, N, C); for attention a tuple with one tensor a stream.
        inner: stored attention output in front of the output projection, (B, N, C): FLUX single-stream blocks only.
        rows: the rows to compute in this step, numbered over the flattened (B * N), ascending within a sample.
        live_score: name of a score that needs the tokens of the partial step itself, else None.
        age: cached steps since a token was computed, (B, N), kept for live scores only.
        age_weight: added to a live score for each step of age (lambda_3 / N).
        spatial: the spatial bonus on a live score, if any.
    """

    def __init__(self) -> None:
        self.kind: Kind = Kind.FULL
        self.keep = False
        self.tokens = 0
        self.out: Tensor | tuple[Tensor, ...] | None = None
        self.inner: Tensor | None = None
        self.rows: Tensor | None = None
        self.live_score: str | None = None
        self.age: Tensor | None = None
        self.age_weight = 0.0
        self.spatial: SpatialBonus | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Everything that the slot holds in memory."""
        outputs = self.out if isinstance(self.out, tuple) else (self.out,)
        for tensor in (*outputs, self.inner, self.age):
            if tensor is not None:
                yield tensor


class Probe:
    """Collects in a full step what the scores of a block's tokens are made of.

    Attributes:
        score: the score to collect in this step, None for nothing.
        query, key: per stream (image or joint first, then text), (B, N, H, D): normalised, before rotary embedding.
        key_norms: per stream, mean over heads of the key's length before normalisation, (B, N).
        scores: the result over the joint sequence, (B, N), not yet normalised.
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


class BlockState:
    """The slots of one block by module name, and its probe. `cached`: some site of the block is not full now."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.slots = {module: Slot() for module in modules}
        self.probe = Probe()
        self.cached = False


def held_bytes(tensors: Iterator[Tensor]) -> int:
    """Bytes of memory that `tensors` keep alive, shared storage counted once."""
    storages: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """The rows `rows` (B * k) of `x` (B, N, C) as (B, k, C)."""
    batch, _, width = x.shape
    return x.reshape(-1, width).index_select(0, rows).view(batch, -1, width)


def scatter_rows(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """Writes `values` (B, k, C) into the rows `rows` (B * k) of `out` (B, N, C), in place."""
    out.view(-1, out.shape[-1]).index_copy_(0, rows, values.reshape(-1, out.shape[-1]).to(out.dtype))


def row_numbers(index: Tensor, batch: int, tokens: int) -> Tensor:
    """Token numbers (B or 1, k) as rows of the flattened (B * N)."""
    offsets = torch.arange(batch, device=index.device)[:, None] * tokens
    return (index + offsets).reshape(-1)
