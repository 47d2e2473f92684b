"""The group of processes that torchrun or `accelerate launch` started, known from the environment.

What goes between them goes over gloo, whatever the devices are: who does what, and what became of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.utils import get_cpu_distributed_information

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long the first process to finish waits for the last: as long as it takes. A dead one ends the group at once."""


class Processes:
    """This process as number `rank` of `count`; alone where nothing else was launched."""

    def __init__(self) -> None:
        known = get_cpu_distributed_information()  # of torchrun, and of the kinds of MPI
        self.count: int = known.world_size
        self.rank: int = known.rank if self.count > 1 else 0
        self.local_rank: int = known.local_rank if self.count > 1 else 0
        self._one_machine = known.local_world_size == self.count
        self._group: Any = None
        self._mine = False

    def __enter__(self) -> Processes:
        if self.count > 1:
            self._mine = not dist.is_initialized()
            if self._mine:
                if self._one_machine:  # MPI does not say where the processes meet
                    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
                os.environ.setdefault("MASTER_PORT", "29500")
                dist.init_process_group("gloo", rank=self.rank, world_size=self.count, timeout=PATIENCE)
            else:
                self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._mine and dist.is_initialized():
            dist.destroy_process_group()

    def device(self, device: str) -> str:
        """`cuda` as the device of this process's own number."""
        return f"cuda:{self.local_rank % torch.cuda.device_count()}" if device == "cuda" and self.count > 1 else device

    def from_first(self, ask: Callable[[], T] | None) -> T:
        """What `ask` returns in the first process, in all of them; or what it raises there."""
        answer: list[Any] = [None, None]
        if ask is not None:
            try:
                answer[0] = ask()
            except Exception as error:
                answer[1] = error
        if self.count > 1:
            dist.broadcast_object_list(answer, src=0, group=self._group)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def dealt(self, everyone: list[T] | None) -> T:
        """What the first process has for this one: `everyone` there is one for each process, elsewhere None."""
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, everyone, src=0, group=self._group)
        dealt: T = mine[0]
        return dealt

    def collected(self, mine: T) -> list[T]:
        """What every process hands in, by number, in the first process; nothing in the others."""
        everyone: list[Any] | None = [None] * self.count if self.rank == 0 else None
        dist.gather_object(mine, everyone, dst=0, group=self._group)
        return everyone or []

    def gathered(self, mine: T) -> list[T]:
        """What every process hands in, by number."""
        if self.count == 1:
            return [mine]
        everyone: list[Any] = [None] * self.count
        dist.all_gather_object(everyone, mine, group=self._group)
        return everyone
