"""The one pipeline and its visitors: a line in which every picture waits its turn, and comparisons made of pictures."""

from __future__ import annotations

import dataclasses
import gc
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Generic, TypeVar, cast

import torch

from dita.demo.loaded import Loaded
from dita.demo.presets import presets
from dita.demo.request import Limits, Refused, Request, checked, limits_of
from dita.demo.sampling import Made, Seen, Stopped, sample
from dita.demo.scores import Scorer, Scores
from dita.methods import Method, Plain
from dita.shapes import Shape
from dita.version import __version__

logger = logging.getLogger("dita.demo")
T = TypeVar("T")
POLL = 0.2  # seconds between looks at the line
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Waiting:
    """Others are being served first: how many pictures."""

    ahead: int


@dataclass(frozen=True)
class Progress:
    """A step of picture `slot`: 0 is the plain one, then the methods in their order."""

    slot: int
    seen: Seen


@dataclass(frozen=True)
class Finished:
    """Picture `slot` is there, and was measured.

    Attributes:
        flops: of the transformer in the steps that ran, scoring and matching of tokens included.
        plain_flops: of the plain pipeline's.
        speedup: seconds of the plain picture over those of this one; the median over the draws.
        draws: the seconds of every draw, where there were several.
    """

    slot: int
    made: Made
    scores: Scores
    flops: float
    plain_flops: float
    speedup: float
    draws: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the picture; the median of its draws."""
        return median(self.draws or (self.made.seconds,))


@dataclass(frozen=True)
class Repeated:
    """Every picture was drawn again, one method after the other.

    Attributes:
        draw, of: how often they were drawn so far, and will be.
        finished: the pictures, with the medians of their draws so far.
    """

    draw: int
    of: int
    finished: tuple[Finished, ...]


Event = Waiting | Progress | Finished | Repeated


class Visit:
    """What one visitor has asked for: stopped as a whole."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.stop = threading.Event()


class Studio:
    """Serves all visitors with one pipeline.

    A single thread owns the pipeline and makes one picture after the other, so that no two visitors' methods are ever
    attached at once, and nothing else computes while a picture is timed. Pictures, not comparisons, wait in line: a
    long exploration lets others in between.
    """

    def __init__(
        self,
        loaded: Loaded,
        limits: Limits | None = None,
        scorer: Scorer | None = None,
        own: Mapping[str, Method] | None = None,
    ) -> None:
        """own: the owner's presets by name, before all others; the first is chosen at the start.

        Raises `ValueError` for one that is not for the model.
        """
        for method in (own or {}).values():
            method.check_family(loaded.family)
        self.loaded = loaded
        self.own = dict(own or {})
        self.limits = limits or limits_of(loaded)
        self.scorer = scorer or Scorer(loaded)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dita-model")
        self._lock = threading.Lock()
        self._visits: list[Visit] = []
        self._submitted = self._done = 0
        self._shapes: dict[tuple[int, int, bool], Shape] = {}

    @property
    def presets(self) -> dict[str, Method]:
        """What visitors may choose by name: the owner's, then those that run on the model."""
        rest = presets(self.loaded.family, self.loaded.name).items()
        return {**self.own, **{name: method for name, method in rest if method not in self.own.values()}}

    def close(self) -> None:
        """Stops everything that runs or waits, and the thread."""
        with self._lock:
            visits = list(self._visits)
        for visit in visits:
            visit.stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def stop(self, session: str) -> int:
        """Stops what a visitor has running or waiting, at the next step; returns how many requests that are."""
        with self._lock:
            visits = [visit for visit in self._visits if visit.session == session]
        for visit in visits:
            visit.stop.set()
        return len(visits)

    @property
    def visits(self) -> int:
        """Requests being served or waiting."""
        return len(self._visits)

    @contextmanager
    def visit(self, session: str) -> Iterator[Visit]:
        """A place in line, given up at the end. Raises `Refused` where the line is full."""
        visit = Visit(session)
        with self._lock:
            own = Counter(other.session for other in self._visits)[session]
            if own >= self.limits.sessions:
                raise Refused("Your last request is still running: wait for it, or stop it.")
            if len(self._visits) >= self.limits.waiting:
                raise Refused(f"{len(self._visits)} requests are waiting already: please try again in a minute.")
            self._visits.append(visit)
        try:
            yield visit
        finally:
            visit.stop.set()
            with self._lock:
                self._visits.remove(visit)

    def compare(
        self, request: Request, methods: Sequence[Method], session: str = "", draws: int = 1
    ) -> Iterator[Event]:
        """The picture of `request` from the plain pipeline, then with each method: events as they happen.

        draws: how often all of that is drawn, for the seconds; the pictures are those of the first time.

        Closing the iterator stops the work. Raises `Stopped` when the visitor stopped it, `Refused` where the line is
        full or the pipeline does not take the request, `ServerError` for anything else.
        """
        with self.visit(session) as visit:
            every = [Plain(), *methods]
            finished: list[Finished] = []
            for slot, method in enumerate(every):
                made = yield from self._drawn(visit, slot, request, method)
                plain = finished[0].made if finished else made
                finished.append(self._finished(visit, slot, request, made, plain))
                yield finished[-1]
            seconds = [[one.made.seconds for one in finished]]
            for draw in range(2, draws + 1):
                seconds.append([])
                for slot, method in enumerate(every):
                    made = yield from self._drawn(visit, slot, request, method)
                    seconds[-1].append(made.seconds)
                yield Repeated(draw, draws, _medians(finished, seconds))

    def generate(self, request: Request, method: Method, session: str = "") -> Iterator[Waiting | Progress | Made]:
        """The picture of `request` with one method alone. Raises as `compare` does."""
        with self.visit(session) as visit:
            yield (yield from self._drawn(visit, 0, request, method))

    def _drawn(
        self, visit: Visit, slot: int, request: Request, method: Method
    ) -> Generator[Waiting | Progress, None, Made]:
        made: Made | None = None
        for event in self.sampled(visit, request, method):
            if isinstance(event, Made):
                made = event
            else:
                yield Progress(slot, event) if isinstance(event, Seen) else event
        assert made is not None
        return made

    def sampled(
        self, visit: Visit, request: Request, method: Method, record: bool = False
    ) -> Iterator[Waiting | Seen | Made]:
        """One picture in its turn: how many are ahead, its steps, and in the end itself. Raises as `compare` does."""

        def work(job: _Job[Waiting | Seen | Made]) -> Made:
            self.shape(request)
            return sample(self.loaded, request, method, job.events.put, visit.stop, record=record)

        yield from self._in_turn(visit, work)

    def shape(self, request: Request) -> Shape:
        """The sizes of the model and of a request's picture; called in the pipeline's thread.

        The first picture of a size is preceded by two untimed steps: they tell the sizes, and warm the pipeline up.
        """
        key = (request.height, request.width, request.guidance > 1)
        if key not in self._shapes:
            short = Request(request.prompt, 0, WARM_UP_STEPS, request.guidance, request.height, request.width)
            made = sample(self.loaded, short, Plain(), lambda _: None, threading.Event(), record=True)
            assert made.summary is not None and made.summary.shape is not None and made.summary.tokens is not None
            self._shapes[key] = _with_grid(made.summary.shape, made.summary.tokens.grid)
        return self._shapes[key]

    @property
    def default_shape(self) -> Shape | None:
        """That of the first picture ever made here, which `warm_up` makes of the model's own size."""
        return next(iter(self._shapes.values()), None)

    def health(self) -> dict[str, Any]:
        """JSON-ready: whether pictures can be made (`ok`, or `loading` before `warm_up`), of what, and who waits."""
        return {
            "status": "loading" if self.default_shape is None else "ok",
            "model": self.loaded.name,
            "family": self.loaded.family,
            "device": self.loaded.device,
            "version": __version__,
            "requests": self.visits,
            "most_requests": self.limits.waiting,
        }

    def warm_up(self) -> None:
        """Two steps of the model's own size, so that the first visitor need not wait for them."""
        request = checked(self.loaded, self.limits, self.loaded.examples(1)[0])
        self._worker.submit(self.shape, request).result()

    def measured(self, visit: Visit, request: Request, made: Made, plain: Made | None) -> Scores:
        """A picture's scores, in turn with the pictures of others, so that no timing is disturbed."""

        def work(_: _Job[Scores]) -> Scores:
            compared = plain is not None and not (made.broken or plain.broken)
            return self.scorer.scores(request.prompt, made.frames, plain.frames if plain and compared else None)

        found = [one for one in self._in_turn(visit, work) if isinstance(one, Scores)]
        return found[0]

    def flops(self, request: Request, made: Made) -> tuple[float, float]:
        """FLOPs of the transformer for a picture and for the plain one: of the steps that ran, or of the plan."""
        summary = made.summary
        if summary is not None and summary.flops:
            return summary.flops + summary.score_flops + summary.matching_flops, summary.plain_flops
        shape = self._shapes[(request.height, request.width, request.guidance > 1)]
        plan = made.method.plan(shape, request.steps)
        return plan.flops(), plan.plain_flops

    def _finished(self, visit: Visit, slot: int, request: Request, made: Made, plain: Made) -> Finished:
        scores = self.measured(visit, request, made, None if made is plain else plain)
        flops, plain_flops = self.flops(request, made)
        return Finished(slot, made, scores, flops, plain_flops, plain.seconds / made.seconds)

    def _in_turn(self, visit: Visit, work: Callable[[_Job[T]], T]) -> Iterator[T | Waiting]:
        """Runs `work` in the pipeline's thread, and yields what it puts into its events, and in the end its result."""
        job: _Job[T] = _Job(work, visit.stop)
        with self._lock:
            self._submitted += 1
            ticket = self._submitted
        future: Future[None] = self._worker.submit(job.run)
        future.add_done_callback(self._one_done)
        ahead, end = 0, None
        try:
            while end is None:
                if visit.stop.is_set() and future.cancel():
                    raise Stopped
                try:
                    event = job.events.get(timeout=POLL)
                except queue.Empty:
                    now = 0 if job.started.is_set() else max(ticket - self._done - 1, 0)
                    if now and now != ahead:
                        ahead = now
                        yield Waiting(now)
                    continue
                if isinstance(event, _End):
                    end = event
                else:
                    yield event
        finally:
            if end is None:  # the visitor has gone, or stopped
                visit.stop.set()
                future.cancel()
        if end.error is not None:
            raise end.error
        assert end.result is not None
        yield end.result

    def _one_done(self, _: object) -> None:
        with self._lock:
            self._done += 1


class ServerError(RuntimeError):
    """Something failed that the visitor cannot mend; the server's log says what."""


@dataclass(frozen=True)
class _End(Generic[T]):
    """How a job ended; an error without its traceback, which would hold the run's tensors."""

    result: T | None = None
    error: Exception | None = None


class _Job(Generic[T]):
    """Work for the pipeline's thread, with what it reports."""

    def __init__(self, work: Callable[[_Job[T]], T], stop: threading.Event) -> None:
        self.work = work
        self.stop = stop
        self.started = threading.Event()
        self.events: queue.SimpleQueue[T | _End[T]] = queue.SimpleQueue()

    def run(self) -> None:
        self.started.set()
        end: _End[T]
        try:
            if self.stop.is_set():
                raise Stopped
            end = _End(self.work(self))
        except Stopped:
            end = _End(error=Stopped())
        except (Refused, ValueError) as error:  # the pipeline's or the method's own words
            end = _End(error=Refused(_said(error)))
        except (MemoryError, torch.OutOfMemoryError):
            logger.exception("out of memory")
            end = _End(error=Refused("The server ran out of memory: ask for a smaller picture."))
        except Exception as error:
            logger.exception("a run failed")
            ours = type(error).__module__.startswith("dita.")
            end = _End(error=Refused(_said(error)) if ours else ServerError("The server could not make this picture."))
        if end.error is not None:
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        self.events.put(end)


def _medians(finished: Sequence[Finished], seconds: Sequence[Sequence[float]]) -> tuple[Finished, ...]:
    """`finished` with all its draws: `seconds` of each draw of all pictures, the plain one's first."""
    return tuple(
        dataclasses.replace(
            one,
            draws=tuple(draw[slot] for draw in seconds),
            speedup=median(draw[0] / draw[slot] for draw in seconds),
        )
        for slot, one in enumerate(finished)
    )


def _with_grid(shape: Shape, seen: tuple[int, ...]) -> Shape:
    """`shape` that knows how its image tokens lie, which a run without merging does not ask FLUX for."""
    if getattr(shape, "grid", None) is None and len(seen) == 2:
        return dataclasses.replace(cast(Any, shape), grid=seen)
    return shape


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:400] or type(error).__name__
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
