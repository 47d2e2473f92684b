"""Whether there is room for a feature store, asked before anything is stored."""

from __future__ import annotations

import psutil
import torch

from dita.footprint import Compiled, peak_bytes
from dita.plan import Plan


class CacheMemoryError(MemoryError):
    """The feature store of the plan would not fit into the memory that is free."""


def check_room(
    plan: Plan, device: torch.device, limit: int | None, held: int, compiled: Compiled, ranks: int = 1
) -> None:
    """Raises `CacheMemoryError` if a store beside `held` bytes would be larger than `limit`, or than what is free.

    ranks: of the processes that share the tokens, each holding its part.
    """
    place = device if plan.store.device is None else torch.device(plan.store.device)
    if limit is None:
        limit = held + _free_bytes(place)
    needed = held + peak_bytes(plan, compiled) // ranks
    if needed > limit:
        raise CacheMemoryError(
            f"the feature store of {plan.method.label()} needs {needed / 2**20:.1f} MiB and {limit / 2**20:.1f} MiB are"
            f" available on {place}; use a smaller batch or picture, a method that stores less (FORA), or a"
            " dita.Store(dtype='fp8'), Store(device='cpu') or Store(max_cache_bytes=...)"
        )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available
