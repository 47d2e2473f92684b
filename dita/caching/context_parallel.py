"""diffusers' context parallelism: every rank holds a part of the tokens, and attention alone sees all of them.

A rank's tokens are its part of the text, then its part of the image. The scores of all ranks' tokens are gathered, and
every rank chooses among all of them what one process would; of the chosen it computes those that it holds, as many as
they are. So a cached step computes what it would in one process, and exchanges nothing but where tokens are selected
inside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dita.caching.scores import QUERY_CHUNK, staggered_place


class Ranks:
    """The processes that share the tokens of a transformer's blocks, and which one of them this is."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.count = dist.get_world_size(group)
        self.number = dist.get_rank(group)

    def gathered(self, own: Tensor, dim: int, sizes: Sequence[int] | None = None) -> list[Tensor]:
        """What each rank has in place of `own`; sizes: of each in `dim`, where these are not all alike."""
        longest = own.shape[dim] if sizes is None else max(sizes)
        if own.shape[dim] < longest:
            missing = list(own.shape)
            missing[dim] = longest - own.shape[dim]
            own = torch.cat([own, own.new_zeros(missing)], dim=dim)
        own = own.contiguous()
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own, group=self.group)
        return found if sizes is None else [one.narrow(dim, 0, size) for one, size in zip(found, sizes, strict=True)]

    def received_attention(self, query: Tensor, key: Tensor, queries: Sequence[int] | None = None) -> Tensor:
        """Mean attention that each of this rank's keys receives from the queries of all ranks: (B, N).

        query: (B, M, H, D), key: (B, N, H, D), this rank's, as `scores.received_attention` takes them; queries: M of
        each rank, where these are not all alike. Exchanged are the queries and one number for each of them and each
        head: its sum over a rank's keys.
        """
        everyone = torch.cat(self.gathered(query * query.shape[-1] ** -0.5, 1, queries), dim=1).transpose(1, 2)
        keys = key.permute(0, 2, 3, 1)  # (B, H, D, N)
        total = torch.zeros(key.shape[0], key.shape[1], device=key.device, dtype=torch.float32)
        for chunk in everyone.split(QUERY_CHUNK, dim=2):
            logits = (chunk @ keys).float()
            sums = torch.stack(self.gathered(logits.logsumexp(dim=-1), -1)).logsumexp(dim=0)
            total += (logits - sums[..., None]).exp().sum(dim=(1, 2))
        return total / (everyone.shape[1] * everyone.shape[2])


class Divided:
    """How the tokens of one module are divided among `ranks`: `tokens` in all, of which the first `text` are text."""

    def __init__(self, ranks: Ranks, tokens: int, text: int) -> None:
        self.ranks = ranks
        self.tokens = tokens
        self.text = text
        self._own_text, self._own = text // ranks.count, tokens // ranks.count

    def joined(self, own: Tensor, dim: int = -1) -> Tensor:
        """A number or vector for each token, this rank's along `dim`: those of all ranks, as one process has them."""
        parts = [one.split([self._own_text, self._own - self._own_text], dim) for one in self.ranks.gathered(own, dim)]
        return torch.cat([text for text, _ in parts] + [image for _, image in parts], dim=dim)

    def own(self, chosen: Sequence[Tensor]) -> list[Tensor]:
        """Of rows (B * k) of all ranks' tokens those that this rank holds, as rows of its own.

        Waits for the device, once for all that are given: how many rows these are is not known before.
        """
        kept = [self._placed(rows) for rows in chosen]
        counts = torch.stack([held.sum() for _, held in kept]).tolist() if kept else []
        # held ones first, ascending as they are: what picks them by the mask itself would wait each time
        return [
            rows.masked_fill(~held, torch.iinfo(rows.dtype).max).sort().values[:count].clone()
            for (rows, held), count in zip(kept, counts, strict=True)
        ]

    def part(self, own: int) -> Divided:
        """Of a stream of which each rank has `own` tokens."""
        return Divided(self.ranks, self.ranks.count * own, 0)

    def staggered(self, count: int) -> list[list[int]]:
        """What `scores.staggered` takes of all tokens: of each rank the numbers among its own, ascending."""
        found: list[list[int]] = [[] for _ in range(self.ranks.count)]
        count = min(count, self.tokens)
        for place in (staggered_place(number, count, self.tokens) for number in range(count)):
            size, text = (self._own_text, 0) if place < self.text else (self._own - self._own_text, self.text)
            rank, number = divmod(place - text, size)
            found[rank].append(number + (0 if place < self.text else self._own_text))
        return found

    def _placed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where rows of all ranks' tokens are among this rank's, and whether they are there at all."""
        sample, number = rows // self.tokens, rows % self.tokens
        is_text = number < self.text
        length = torch.where(is_text, self._own_text, self._own - self._own_text)
        place = number - torch.where(is_text, 0, self.text) - self.ranks.number * length
        own = sample * self._own + torch.where(is_text, 0, self._own_text) + place
        return own, (place >= 0) & (place < length)


def ranks_of_model(model: Any) -> Ranks | None:
    """Those that share the tokens of a transformer's blocks; None without context parallelism.

    Raises `ValueError` for the modes that divide tokens unequally.
    """
    config = _context(getattr(model, "_parallel_config", None))
    if config is None:
        return None
    if config.ulysses_anything or config.ring_anything:
        raise ValueError(
            "dita needs context parallelism to divide the tokens equally: leave out ulysses_anything and ring_anything"
        )
    return Ranks(config._flattened_mesh.get_group())


def _context(parallel: Any) -> Any:
    return getattr(parallel, "context_parallel_config", None)
