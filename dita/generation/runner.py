"""A job from beginning to end: what is missing is made, written, listed; what fails is tried again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dita import models
from dita.asking import asking
from dita.caching.origin import warn_where_another
from dita.call_arguments import warn_of_cuts
from dita.generation import folder as folders
from dita.generation.files import encoded
from dita.generation.job import Item, Settings, file_of
from dita.generation.progress import Progress
from dita.generation.sampling import Made, Sampler
from dita.methods import MadeFor, SavedMethod
from dita.metrics.images import is_constant
from dita.version import __version__
from dita.whole_files import write_whole
from dita.workers.processes import Processes

ATTEMPTS = 2
"""How often an item is tried before it is listed as failed."""

GIVE_UP = 8
"""So many items in a row, with none made before, and the job is given up: it is not the items that are wrong."""

WAITING = 32
"""Files that may wait to be written while the next ones are made."""


class JobFailed(RuntimeError):
    """Nothing could be made; the message says why."""


@dataclass
class Outcome:
    """What became of a job: numbers of items `made` now and `found` already there, and the `failures`; and how many of
    those made are `constant`, of one colour.

    `first_process` is whether this process is to tell about it.
    """

    made: int = 0
    found: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    first_process: bool = True
    constant: int = 0

    def joined(self, other: Outcome) -> Outcome:
        """Both together; `found` is the same for all workers."""
        failures = self.failures + other.failures
        found, constant = max(self.found, other.found), self.constant + other.constant
        return Outcome(self.made + other.made, found, failures, self.first_process, constant)


@dataclass(frozen=True)
class File:
    """An encoded item, with what the manifest says about it and the settings do not: `constant` is a picture, or a
    video, of one colour."""

    item: Item
    data: bytes
    seconds: float
    sha256: str
    constant: bool = False


Failure = tuple[Item, str]
"""An item, and why it could not be made."""

Load = Callable[..., tuple[Any, dict[str, Any]]]
"""As `dita.models.load`."""


def run(
    settings: Settings,
    items: Sequence[Item],
    out: Path,
    *,
    batch_size: int,
    device: str | None = None,
    local_files_only: bool = False,
    repair: bool = False,
    progress: Progress | None = None,
    load: Load = models.load,
    made_for: MadeFor | None = None,
) -> Outcome:
    """Makes what `out` lacks of `items`, in this process or, under torchrun and `accelerate launch`, in all of them.

    Each process of a group takes its share of what is missing, on a device of its own; all return the same outcome.
    `device` is the settings' device, perhaps with a number; `repair` drops damaged lines of the manifest. What is
    not what the method was `made_for` is said once, as `dita.enable` does.
    Raises what `folder.opened` raises, and `JobFailed`, in every process.
    """
    progress = progress or Progress()
    with Processes() as processes:
        if processes.rank == 0:
            opened = folders.opened(out, settings, items, repair=repair, say=progress.say)
            done = processes.from_first(opened.__enter__)
        else:
            opened = None
            done = processes.from_first(None)
        try:
            missing = [item for item in items if item.key not in done]
            outcome = Outcome(found=len(items) - len(missing), first_process=processes.rank == 0)
            if missing:
                share = _share(missing, batch_size, processes)
                chosen = processes.device(device or settings.device)
                worker = Worker(settings, batch_size, local_files_only, chosen, progress.say, load)
                asking(worker.sampler.pipe, [item.prompt for item in missing])  # refuses the name of no class
                if processes.rank == 0:
                    worker.warn_where_another(made_for)
                    warn_of_cuts(worker.sampler.cuts((item.id, item.prompt) for item in missing))
                    folders.record_revision(out, worker.settings)
                progress.start(len(share), processes.rank, processes.count)
                made = worker.make(share)
                mine = write_all(made, out, worker.settings, progress, processes.rank, rest=worker.rest)
                for other in processes.gathered(mine):
                    outcome = outcome.joined(other)
            if processes.rank == 0:
                folders.join_manifests(out)
                folders.write_failures(out, outcome.failures)
            return outcome
        finally:
            if opened is not None:
                opened.__exit__(None, None, None)


def _share(missing: Sequence[Item], batch_size: int, processes: Processes) -> list[Item]:
    """What this process takes: batches in turn, so that all processes finish at about the same time."""
    batches = [missing[i : i + batch_size] for i in range(0, len(missing), batch_size)]
    if len(batches) < 4 * processes.count:  # few batches: divide items, not batches
        return list(missing[processes.rank :: processes.count])
    return [item for batch in batches[processes.rank :: processes.count] for item in batch]


def write_all(
    results: Iterable[File | Failure],
    out: Path,
    settings: Settings,
    progress: Progress,
    worker: int = 0,
    rest: Callable[[], Iterable[File]] = tuple,
) -> Outcome:
    """Writes files as they come, and counts. Raises `OSError` for a disk that is full or read-only.

    Where it is interrupted, `rest` gives what is drawn and did not come yet, which is written, too.
    """
    outcome = Outcome()
    try:
        with Writer(out, settings, worker) as writer:
            try:
                for result in results:
                    if isinstance(result, tuple):
                        outcome.failures.append(failure_entry(*result))
                        progress.advance(failed=1)
                    else:
                        writer.put(result)
                        outcome.made += 1
                        outcome.constant += result.constant
                        progress.advance(made=1)
            except KeyboardInterrupt:
                for file in rest():
                    writer.put(file)
                raise
    finally:
        progress.stop()
    return outcome


class Worker:
    """A pipeline, loaded, that makes files of items. The same class serves every engine."""

    def __init__(
        self,
        settings: Settings,
        batch_size: int,
        local_files_only: bool = False,
        device: str | None = None,
        say: Callable[[str], None] | None = None,
        load: Load = models.load,
    ) -> None:
        pipe, _ = load(
            settings.model, settings.dtype, device=device or settings.device, local_files_only=local_files_only
        )
        self.settings = replace(settings, revision=models.revision(settings.model))
        self.batch_size = batch_size
        self._drawn: deque[Made] = deque()
        self.sampler = Sampler(
            pipe,
            settings.built_method(),
            steps=settings.steps,
            call=settings.call,
            batch_size=batch_size,
            exact=settings.exact,
            store=settings.built_store(),
            say=say,
        )
        if (settings.format == "mp4") is not self.sampler.video:
            kind, fitting = ("videos", "mp4") if self.sampler.video else ("pictures", "png or webp")
            raise ValueError(f"{type(pipe).__name__} makes {kind}: --format must be {fitting}, got {settings.format}")

    def warn_where_another(self, made_for: MadeFor | None) -> None:
        """Warns where the pipeline, or its calls, are not what the method was made for."""
        saved = SavedMethod(self.settings.built_method(), made_for)
        asked = {**self.settings.call, "num_inference_steps": self.settings.steps}
        warn_where_another(saved, self.sampler.pipe, asked)

    def make(self, items: Sequence[Item]) -> Iterator[File | Failure]:
        """A file or a failure of each of `items`, the failures last. Raises `JobFailed` where nothing succeeds."""
        with self.sampler.held():
            yield from self._make(items)

    def _make(self, items: Sequence[Item]) -> Iterator[File | Failure]:
        failed: list[Failure] = []
        succeeded = False
        for start in range(0, len(items), self.batch_size):
            for result in self._attempt(items[start : start + self.batch_size]):
                if isinstance(result, tuple):
                    failed.append(result)
                    if not succeeded and len(failed) >= GIVE_UP:
                        raise JobFailed(f"the first {GIVE_UP} items failed, {failed[0][0].id!r} with: {failed[0][1]}")
                else:
                    succeeded = True
                    yield result
        for _ in range(ATTEMPTS - 1):
            again, failed = [item for item, _ in failed], []
            for item in again:
                for result in self._attempt([item]):
                    if isinstance(result, tuple):
                        failed.append(result)
                    else:
                        yield result
        yield from failed

    def rest(self) -> Iterator[File]:
        """What is drawn, and was not handed out before `make` was interrupted."""
        while self._drawn:
            yield self._file(self._drawn.popleft())

    def _attempt(self, batch: Sequence[Item]) -> Iterator[File | Failure]:
        """The batch; where it fails as a whole, what is left of it one by one."""
        done = 0
        try:
            for part in self.sampler.calls(batch):
                self._drawn.extend(part)
                while self._drawn:  # an item leaves it once the file is taken
                    file = self._file(self._drawn[0])
                    done += 1
                    yield file
                    self._drawn.popleft()
            return
        except Exception as error:
            self._drawn.clear()
            if len(batch) == 1:
                yield batch[0], reason(error)
                return
        for item in batch[done:]:
            yield from self._attempt([item])

    def _file(self, made: Made) -> File:
        data = encoded(made, self.settings.format, self.settings.fps)
        pixels = np.asarray(made.frames if made.picture is None else made.picture.convert("RGB"))
        return File(made.item, data, made.seconds, hashlib.sha256(data).hexdigest(), is_constant(pixels))


class Writer:
    """Writes files, then their lines in the manifest, in a thread of its own: the next batch is made meanwhile.

    A disk that is full or read-only ends the job: `put` and the end of the `with` block raise the `OSError`. What
    was put already is still written, as far as it fits.
    """

    def __init__(self, out: Path, settings: Settings, worker: int = 0) -> None:
        self.out = out
        self.settings = settings
        self._manifest = folders.Manifest(out, worker)
        self._facts = {
            "method": settings.method,
            "steps": settings.steps,
            "model": settings.model,
            "revision": settings.revision,
            "versions": versions(),
        }
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> Writer:
        return self

    def put(self, file: File) -> None:
        """Takes a file to write; waits where too many are waiting already."""
        while len(self._waiting) >= WAITING:
            self._waiting.pop(0).result()
        self._waiting.append(self._thread.submit(self._write, file))

    def __exit__(self, *_: object) -> None:
        try:
            wait(self._waiting)  # also after an exception: what was made is kept
        except KeyboardInterrupt:  # in `shutdown` it would leave the thread taken for ended, and files unwritten
            wait(self._waiting)
            raise
        self._thread.shutdown()
        self._manifest.close()
        for future in self._waiting:
            future.result()

    def _write(self, file: File) -> None:
        name = file_of(file.item, self.settings.format)
        write_whole(self.out / name, file.data)
        entry = {
            "id": file.item.id,
            "prompt": file.item.prompt,
            "seed": file.item.seed,
            "noise_seed": file.item.noise_seed,
            "file": name,
            "sha256": file.sha256,
            "bytes": len(file.data),
            "seconds": round(file.seconds, 4),
            **({"constant": True} if file.constant else {}),
            **self._facts,
        }
        self._manifest.append([entry])


def reason(error: BaseException) -> str:
    """Why something failed: whole, in one line, with what lies behind it where that says more."""
    parts: list[str] = []
    seen: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and behind not in seen:
        message = " ".join(str(behind).split())
        if not any(message and message in part for part in parts):
            parts.append(f"{type(behind).__name__}: {message}" if message else type(behind).__name__)
        seen.append(behind)
        behind = behind.__cause__
    return ", because of ".join(parts)


def failure_entry(item: Item, error: str) -> dict[str, Any]:
    """A line of `failures.jsonl`."""
    return {"id": item.id, "prompt": item.prompt, "seed": item.seed, "error": error, "time": round(time.time())}


def versions() -> dict[str, str]:
    """Of dita, Python, and the libraries that pixels depend on."""
    names = ("torch", "diffusers", "transformers")
    return {"dita": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }
