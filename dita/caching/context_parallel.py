"""diffusers' context parallelism: every rank holds a part of the tokens, and attention alone sees all of them.

A cached step computes no attention, so that it takes no exchange between ranks at all. Each rank chooses among its own
tokens, as many as every other, so that none waits; the attention that they receive is counted over all ranks' queries.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

QUERY_CHUNK = 256
"""Queries whose attention to a rank's own keys is held at once."""


def degree(model: Any) -> int:
    """Among how many ranks the tokens of a transformer's blocks are divided; 1 without context parallelism.

    Raises `ValueError` for the modes that divide them unequally.
    """
    config = _context(getattr(model, "_parallel_config", None))
    if config is None:
        return 1
    if config.ulysses_anything or config.ring_anything:
        raise ValueError(
            "dita needs context parallelism to divide the tokens equally: leave out ulysses_anything and ring_anything"
        )
    return config.ring_degree * config.ulysses_degree


def ranks_of(attn: Any) -> Any:
    """The process group whose ranks share the tokens of an attention module; None without context parallelism."""
    config = _context(getattr(attn.processor, "_parallel_config", None))
    return None if config is None else config._flattened_mesh.get_group()


def received_attention(query: Tensor, key: Tensor, group: Any) -> Tensor:
    """Mean attention that each of this rank's keys receives from the queries of all ranks: (B, N).

    query: (B, M, H, D), key: (B, N, H, D), this rank's, as `scores.received_attention` takes them; M is the same on all
    ranks. Exchanged are the queries and one number for each of them and each head: its sum over a rank's keys.
    """
    queries = torch.cat(_of_all_ranks(query * query.shape[-1] ** -0.5, group), dim=1).transpose(1, 2)
    keys = key.permute(0, 2, 3, 1)  # (B, H, D, N)
    total = torch.zeros(key.shape[0], key.shape[1], device=key.device, dtype=torch.float32)
    for chunk in queries.split(QUERY_CHUNK, dim=2):
        logits = (chunk @ keys).float()
        sums = torch.stack(_of_all_ranks(logits.logsumexp(dim=-1), group)).logsumexp(dim=0)
        total += (logits - sums[..., None]).exp().sum(dim=(1, 2))
    return total / (queries.shape[1] * queries.shape[2])


def _of_all_ranks(x: Tensor, group: Any) -> list[Tensor]:
    x = x.contiguous()
    found = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, x, group=group)
    return found


def _context(parallel: Any) -> Any:
    return getattr(parallel, "context_parallel_config", None)
