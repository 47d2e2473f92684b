"""Work shared out to workers that hold networks, or a pipeline: this process, a launcher's, or Ray's actors.

Shares begin where a batch begins, and what they give is put together in their order: a network sees the same batches
whoever reads them, so that a picture's figures do not depend on the number of workers.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from dita.values import choice
from dita.workers import cluster
from dita.workers.processes import Processes

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Tools(Protocol):
    """What workers need for their work, such as `Networks`. It travels without what is loaded."""

    device: torch.device

    def on(self, device: str) -> Self:
        """The same for another device."""


H = TypeVar("H", bound=Tools)

Tick = Callable[[float], None]
"""Told how many more pictures are done."""

Work = Callable[[H, Sequence[Any], Tick], T]
"""What a worker does with its share. It travels: a function of a module, or a `partial` of one."""

ENGINES = ("local", "ray")
SHARES_EACH = 4
"""Shares for each of Ray's actors: what is lost with a dead one is made again by shares."""


class Workers(Protocol):
    """Those who do it."""

    @property
    def count(self) -> int:
        """How many there are, this process among them where it is one."""

    def device(self, device: str) -> str:
        """`cuda` as the device of this process."""

    def shares(
        self, work: Work[H, T], tools: H, items: Sequence[Any], batch: int, tick: Tick | None = None
    ) -> Iterator[T]:
        """What `work` gives for contiguous shares of `items` that begin at multiples of `batch`, in their order.

        There is at least one, of no items where there are none. Raises what `work` raises.
        """


@contextmanager
def opened(engine: str = "local", actors: tuple[int, int] = (1, 1)) -> Iterator[Workers | None]:
    """The workers of an engine, to be led by this process; None where this process was one, and is done.

    `local` is this process, or all that torchrun or `accelerate launch` started, of which the first one leads; `ray`
    has from `actors[0]` to `actors[1]` actors. Raises `ValueError` for another engine.
    """
    engine = choice("engine", engine, ENGINES)
    if engine == "ray":
        yield Actors(actors)
        return
    with Processes() as processes:
        if processes.count == 1:
            yield Alone()
        elif processes.rank > 0:
            _serve(processes)
            yield None
        else:
            with Launched(processes) as launched:
                yield launched


class Alone:
    """This process by itself: one share."""

    count = 1

    def device(self, device: str) -> str:
        """As given."""
        return device

    def shares(
        self, work: Work[H, T], tools: H, items: Sequence[Any], batch: int, tick: Tick | None = None
    ) -> Iterator[T]:
        """One share."""
        yield work(tools, items, tick or _silent)


@dataclass(frozen=True)
class _Errand:
    """What the first process has another one do; `tools` the first time, and when they are others."""

    work: Work[Any, Any]
    items: Sequence[Any]
    tools: Tools | None


@dataclass(frozen=True)
class _Answer:
    """What became of an errand. An error travels as text: not every exception can be pickled."""

    found: Any = None
    error: Exception | None = None


class Launched:
    """The processes of a launcher, led by the first, which this one is. The end of the `with` block ends the others."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._told: Tools | None = None
        self._waiting = True  # the others, for an errand

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._waiting:
            self._processes.dealt([None] * self._processes.count)

    @property
    def count(self) -> int:
        """Processes, this one too."""
        return self._processes.count

    def device(self, device: str) -> str:
        """`cuda` as the device of this process's number."""
        return self._processes.device(device)

    def shares(
        self, work: Work[H, T], tools: H, items: Sequence[Any], batch: int, tick: Tick | None = None
    ) -> Iterator[T]:
        """One share a process, but for those that there are no batches for."""
        portions = portioned(items, batch, self._processes.count)
        tell = tools if tools is not self._told else None
        errands: list[_Errand | None] = [_Errand(work, portion, tell) for portion in portions]
        errands += [_Errand(work, (), tell)] * (self._processes.count - len(portions))
        self._waiting, self._told = False, tools
        self._processes.dealt(errands)
        scale = len(items) / max(len(portions[0]), 1)  # the others are about as far
        mine = _done(work, tools, portions[0], lambda count: (tick or _silent)(count * scale))
        answers = self._processes.collected(mine)
        self._waiting = True
        for answer in answers[: len(portions)]:
            if answer.error is not None:
                raise answer.error
            yield answer.found


def _serve(processes: Processes) -> None:
    """Does what the first process says, until there is no more."""
    tools: Tools | None = None
    errand: _Errand | None
    while (errand := processes.dealt(None)) is not None:
        if errand.tools is not None:
            tools = errand.tools.on(processes.device(errand.tools.device.type))
        assert tools is not None
        answer = _done(errand.work, tools, errand.items) if errand.items else _Answer()
        processes.collected(_as_text(answer))


class Actors:
    """Actors of Ray Data: started again where they die, more of them while shares wait.

    They open the pictures by their paths: on a cluster, folders must lie on a disk that all machines share.
    """

    def __init__(self, actors: tuple[int, int]) -> None:
        self._actors = actors

    @property
    def count(self) -> int:
        """Actors, at most."""
        return self._actors[1]

    @property
    def actors(self) -> tuple[int, int]:
        """The fewest and the most."""
        return self._actors

    def device(self, device: str) -> str:
        """As given; each actor sees its own GPU only."""
        return device

    def shares(
        self, work: Work[H, T], tools: H, items: Sequence[Any], batch: int, tick: Tick | None = None
    ) -> Iterator[T]:
        """Some shares an actor."""
        ray = cluster.connected(self._actors)
        portions = portioned(items, batch, SHARES_EACH * self._actors[1])
        rows = [{"number": i, "errand": pickle.dumps((work, portion))} for i, portion in enumerate(portions)]
        given: dict[str, Any] = {"fn_constructor_args": (tools.on(tools.device.type),)}
        placed = cluster.mapping(self._actors, cuda=tools.device.type == "cuda")
        answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_Measurer, **given, **placed)
        early: dict[int, bytes] = {}
        number = 0
        for row in answered.iter_rows():
            early[row["number"]] = row["answer"]
            (tick or _silent)(len(portions[row["number"]]))
            while number in early:  # Ray hands them back in any order
                answer = pickle.loads(early.pop(number))
                if answer.error is not None:
                    raise answer.error
                yield answer.found
                number += 1


class _Measurer:
    """A worker in a process of Ray."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        work, items = pickle.loads(row["errand"])
        return {"number": row["number"], "answer": pickle.dumps(_as_text(_done(work, self._tools, items)))}


def portioned(items: Sequence[T], batch: int, count: int) -> list[Sequence[T]]:
    """At most `count` contiguous portions, about as large as each other, each beginning at a multiple of `batch`.

    >>> portioned("abcdefgh", batch=2, count=3)
    ['abcd', 'ef', 'gh']
    """
    batches = -(-len(items) // batch)
    count = max(min(count, batches), 1)
    starts = [-(-batches * i // count) * batch for i in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(starts)]


def _done(work: Work[Any, Any], tools: Tools, items: Sequence[Any], tick: Tick | None = None) -> _Answer:
    try:
        return _Answer(found=work(tools, items, tick or _silent))
    except Exception as error:
        return _Answer(error=error)


def _as_text(answer: _Answer) -> _Answer:
    """The answer with an error that can travel: what a user can mend stays a `ValueError`."""
    error = answer.error
    if error is None:
        return answer
    if isinstance(error, (ValueError, OSError, MemoryError)):
        return _Answer(error=ValueError(str(error)))
    return _Answer(error=RuntimeError(f"a worker failed: {type(error).__name__}: {error}"))


def _silent(count: float) -> None:
    pass
