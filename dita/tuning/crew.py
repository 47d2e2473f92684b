"""Who draws trials: this process alone, or workers that draw several methods at once.

One process decides what is tried. Errors of latents do not depend on who drew them. Seconds do: where two workers draw
on one device at once, neither's count (`Drawn.crowded`), and the method is timed again while nobody else draws.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from dita import models, sharing
from dita.caching.attachment import disable
from dita.generation.sampling import silenced
from dita.methods import Method
from dita.tuning.trials import Bench, Model, Prompts, Sampled, Trial
from dita.workers import cluster

Load = Callable[..., tuple[Any, dict[str, Any]]]
"""As `dita.models.load`, but for the name: takes `device`. It travels."""

REFUSALS = (ValueError, MemoryError, RuntimeError)
"""What a method may raise that does not run on a model, or not with these arguments."""


PLACED = ("full_steps", "full_of", "weights")
"""Parameters that say where full steps lie, and what is made of their outputs: not how long either takes."""


@dataclass(frozen=True)
class Drawn:
    """What became of one method.

    Attributes:
        sampled: None where it raised one of `REFUSALS`.
        error: what it said then.
        place: the device it was drawn on, by a name that no other device has.
        crowded: whether others drew there at the same time.
    """

    sampled: Sampled | None
    error: str = ""
    place: str = ""
    crowded: bool = False


class WorkerLostError(RuntimeError):
    """A worker died, or failed at something that is not a method's fault."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"a worker was lost: {' '.join(str(error).split())}; what was found is kept, and goes on")


class Crew(Protocol):
    """Those who draw."""

    @property
    def count(self) -> int:
        """How many methods are drawn at once, at most."""

    def draw(self, methods: Sequence[Method], prompts: Prompts) -> list[Drawn]:
        """Draws `prompts` by each of `methods`, at most `count` of them, at once; returns when all are done.

        Raises `WorkerLostError`; alone, whatever is not one of `REFUSALS`.
        """


def drawn(model: Model, method: Method, prompts: Prompts) -> Drawn:
    """One method, by this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Drawn(model.sample(method, prompts), place=_place(model.pipe))
        except REFUSALS as error:
            return Drawn(None, " ".join(str(error).split()), _place(model.pipe))


class Solo:
    """This process alone."""

    count = 1

    def __init__(self, model: Model) -> None:
        self._model = model

    def draw(self, methods: Sequence[Method], prompts: Prompts) -> list[Drawn]:
        """One after the other."""
        return [drawn(self._model, method, prompts) for method in methods]


class Seat:
    """A pipeline and how it is called, for a worker, which loads it when it is first needed."""

    def __init__(self, model: Model, load: Load | None, device: str) -> None:
        self.device = torch.device(device)
        self._model: Model | None = model
        self._how = replace(model, pipe=None)
        self._load: Load = load or functools.partial(_carried, model.pipe)

    def on(self, device: str) -> Seat:
        """The same on another device, not loaded yet."""
        other = copy.copy(self)
        other.device, other._model = torch.device(device), None
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    @property
    def model(self) -> Model:
        """With its pipeline."""
        if self._model is None:
            pipe, _ = self._load(device=str(self.device))
            disable(pipe)
            self._model = replace(self._how, pipe=pipe)
        return self._model


def _carried(pipe: Any, *, device: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline that travelled itself."""
    return pipe.to(device), {}


def _draw_all(
    prompts: Prompts, seat: Seat, methods: Sequence[Method], tick: sharing.Tick = lambda count: None
) -> list[Drawn]:
    """What a worker does."""
    with silenced(seat.model.pipe):
        return [drawn(seat.model, method, prompts) for method in methods]


class Launched:
    """The processes of torchrun or `accelerate launch`, of which this one draws too."""

    def __init__(self, workers: sharing.Workers, seat: Seat) -> None:
        self._workers, self._seat = workers, seat

    @property
    def count(self) -> int:
        """Processes."""
        return self._workers.count

    def draw(self, methods: Sequence[Method], prompts: Prompts) -> list[Drawn]:
        """One method a process."""
        work = functools.partial(_draw_all, prompts)
        try:
            shares = list(self._workers.shares(work, self._seat, methods, 1))
        except RuntimeError as error:
            raise WorkerLostError(error) from error
        return _crowded([one for share in shares for one in share])


class Actors:
    """Actors of Ray, which keep their pipelines and are started again where they die."""

    def __init__(self, actors: tuple[int, int], seat: Seat) -> None:
        self._ray = cluster.connected(actors)
        cuda = seat.device.type == "cuda"
        self._least = actors[0]
        made = self._ray.remote(max_restarts=-1, max_task_retries=3, num_cpus=1, num_gpus=1 if cuda else 0)(_Actor)
        self._carried = self._ray.put(pickle.dumps(seat.on(seat.device.type)))  # an actor that starts again needs it
        self._all = [made.remote(self._carried) for _ in range(actors[1])]
        self._starting = {actor.ready.remote(): actor for actor in self._all}
        self._ready: list[Any] = []
        self._join()

    @property
    def count(self) -> int:
        """Actors that have their place by now."""
        self._join()
        return len(self._ready)

    def draw(self, methods: Sequence[Method], prompts: Prompts) -> list[Drawn]:
        """One method an actor."""
        work = functools.partial(_draw_all, prompts)
        asked = [
            actor.draw.remote(pickle.dumps((work, [method])))
            for actor, method in zip(self._ready, methods, strict=False)
        ]
        try:
            answers = self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            raise WorkerLostError(error) from None
        return _crowded([one for answer in answers for one in pickle.loads(answer)])

    def close(self) -> None:
        """Ends them."""
        for actor in self._all:
            self._ray.kill(actor)

    def _join(self) -> None:
        """Waits until the fewest are there, and for no others."""
        missing = max(0, self._least - len(self._ready))
        if self._starting:
            waited = {"num_returns": missing} if missing else {"num_returns": len(self._starting), "timeout": 0}
            there, _ = self._ray.wait(list(self._starting), **waited)
            self._ready += [self._starting.pop(one) for one in there]


class _Actor:
    """A worker in a process of Ray."""

    def __init__(self, seat: bytes) -> None:
        self._seat: Seat = pickle.loads(seat)

    def ready(self) -> bool:
        """Whether it has a place on the cluster."""
        return True

    def draw(self, errand: bytes) -> bytes:
        """What the errand's work gives."""
        work, methods = pickle.loads(errand)
        return pickle.dumps(work(self._seat, methods))


class Timing:
    """Seconds of methods on the prompts of a bench, where those of a crowd do not count.

    Moving full steps and other weights costs nothing: methods that differ by these alone, with as many steps of each
    kind and as many FLOPs, take as long. So each such group is timed once, by this process, while nobody else draws:
    one pipeline call of the bench's.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._known: dict[object, tuple[float, float | None]] = {}

    def of(self, method: Method, sampled: Sampled, crowded: bool) -> tuple[float, float | None]:
        """Seconds of all prompts, and of a full transformer call meanwhile."""
        if not crowded:
            return sampled.seconds, sampled.call
        like = self._like(method, sampled)
        if like is None or like not in self._known:
            part = self._bench.prompts.batches(self._bench.model.batch)[0]
            alone = self._bench.model.sample(method, part)
            self._known[like] = alone.seconds * len(self._bench.prompts) / len(part), alone.call
        return self._known[like]

    def _like(self, method: Method, sampled: Sampled) -> object:
        """The same for all methods that take as long; None where that cannot be told."""
        if sampled.shape is None or not dataclasses.is_dataclass(method):
            return None
        own = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
        settings = tuple((name, value) for name, value in own.items() if name not in PLACED)
        try:
            plan = method.plan(sampled.shape, self._bench.model.steps)
        except ValueError:
            return None
        kinds = tuple(sorted(Counter(kind.value for kind in plan.kinds).items()))
        return type(method), settings, kinds, round(plan.flops() / plan.plain_flops, 3)


def tried(crew: Crew, bench: Bench, timing: Timing, methods: Sequence[Method]) -> dict[Method, Trial | str]:
    """The trials of methods, at most `crew.count` of them, drawn at once; for those that do not run, why.

    Their errors are those of methods tried one by one. One that failed in a crowd, whose memory may have been short, is
    tried again alone.
    """
    found: dict[Method, Trial | str] = {}
    together = list(dict.fromkeys(methods))
    for method, one in zip(together, crew.draw(together, bench.prompts), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if one.sampled is None and one.crowded:
                one = drawn(bench.model, method, bench.prompts)
            if one.sampled is None:
                found[method] = one.error
            else:
                seconds, call = timing.of(method, one.sampled, one.crowded)
                found[method] = bench.add(method, one.sampled.latents, seconds, call)
    return found


@contextmanager
def crew_of(workers: sharing.Workers | None, model: Model, load: Load | None) -> Iterator[Crew]:
    """Who draws for `workers`, this process alone by default. `load` gives them the pipeline; None takes it along."""
    if isinstance(workers, sharing.Actors):
        actors = Actors(workers.actors, Seat(model, load, str(model.pipe.device)))
        try:
            yield actors
        finally:
            actors.close()
    elif workers is None or workers.count == 1:
        yield Solo(model)
    else:
        yield Launched(workers, Seat(model, load, str(model.pipe.device)))


def loader(name: str) -> Load:
    """What loads a model by its name on a worker."""
    return functools.partial(models.load, name)


def _crowded(together: list[Drawn]) -> list[Drawn]:
    """What was drawn together, each with whether it shared its device."""
    there = Counter(one.place for one in together)
    return [replace(one, crowded=there[one.place] > 1) for one in together]


def _place(pipe: Any) -> str:
    """The device that a pipeline computes on, with the machine."""
    device = getattr(pipe, "_execution_device", pipe.device)  # offloaded parts rest elsewhere
    if device.type != "cuda":
        return f"{socket.gethostname()}/{device.type}"
    return f"{socket.gethostname()}/{torch.cuda.get_device_properties(device).uuid}"
