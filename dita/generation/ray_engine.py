"""The same job on Ray Data: actors hold the pipeline, this process writes what they hand back.

A cluster thus needs no file system that its machines share. Ray restarts dead actors and gives their items to others,
starts more of them while items wait, and lets them wait while files are being written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

from dita import models
from dita.call_arguments import Cut, warn_of_cuts
from dita.generation import folder as folders
from dita.generation.job import Item, Settings, settings_from_json
from dita.generation.progress import Progress
from dita.generation.runner import GIVE_UP, Failure, File, JobFailed, Load, Outcome, Worker, write_all
from dita.methods import MadeFor, SavedMethod, warn_of_another
from dita.workers import cluster

BLOCKS = 1000
"""Portions that the work is divided into, at most: what a dead worker had begun is made again by portions."""


def run(
    settings: Settings,
    items: Sequence[Item],
    out: Path,
    *,
    batch_size: int,
    workers: tuple[int, int] = (1, 1),
    local_files_only: bool = False,
    repair: bool = False,
    progress: Progress | None = None,
    load: Load = models.load,
    made_for: MadeFor | None = None,
) -> Outcome:
    """Makes what `out` lacks of `items` on the Ray cluster of the environment (`RAY_ADDRESS`), else on a local one.

    `workers` are the fewest and the most actors; each takes a GPU where the settings' device is `cuda`, else a CPU.
    Raises what `folder.opened` raises, `ValueError` without Ray, and `JobFailed`.
    """
    ray = cluster.connected(workers)
    progress = progress or Progress()
    with folders.opened(out, settings, items, repair=repair, say=progress.say) as done:
        missing = [item for item in items if item.key not in done]
        outcome = Outcome(found=len(items) - len(missing))
        if missing:
            warn_of_another(SavedMethod(settings.built_method(), made_for), _facts(settings))
            constructor = (json.dumps(settings.as_json()), batch_size, local_files_only, load)
            rows = _rows(ray, missing, batch_size, workers, settings.device == "cuda", constructor)
            progress.start(len(missing))
            revision, results = _results(rows)
            known = replace(settings, revision=revision)
            folders.record_revision(out, known)
            outcome = outcome.joined(write_all(results, out, known, progress))
        folders.write_failures(out, outcome.failures)
    return outcome


def _facts(settings: Settings) -> MadeFor:
    """What is known of the model and its calls where no pipeline is loaded."""
    height, width = settings.call.get("height"), settings.call.get("width")
    return MadeFor(
        model=settings.model,
        steps=settings.steps,
        height=height,
        width=width,
        dtype=settings.dtype,
        device=settings.device,
    )


class Actor:
    """A worker in a process of Ray: takes a row with items as JSON, gives a row for each."""

    def __init__(self, settings: str, batch_size: int, local_files_only: bool, load: Load) -> None:
        self._worker = Worker(settings_from_json(json.loads(settings)), batch_size, local_files_only, load=load)

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of one batch; every one has all columns."""
        rows = []
        items = [Item(**data) for data in json.loads(row["items"])]
        cuts = json.dumps([asdict(cut) for cut in self._worker.sampler.cuts((item.id, item.prompt) for item in items)])
        for result in self._worker.make(items):
            item, error = result if isinstance(result, tuple) else (result.item, "")
            file = None if isinstance(result, tuple) else result
            rows.append(
                {
                    "item": json.dumps(asdict(item)),
                    "error": error,
                    "data": file.data if file else b"",
                    "seconds": file.seconds if file else 0.0,
                    "sha256": file.sha256 if file else "",
                    "constant": file.constant if file else False,
                    "revision": str(self._worker.settings.revision),
                    "cuts": cuts,
                }
            )
        return rows


def _rows(
    ray: Any,
    missing: Sequence[Item],
    batch_size: int,
    workers: tuple[int, int],
    cuda: bool,
    constructor: tuple[Any, ...],
) -> Iterable[dict[str, Any]]:
    batches = [missing[i : i + batch_size] for i in range(0, len(missing), batch_size)]
    rows = [{"items": json.dumps([asdict(item) for item in batch])} for batch in batches]
    made: Iterable[dict[str, Any]] = (
        ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))
        .flat_map(
            Actor,
            fn_constructor_args=constructor,
            **cluster.mapping(workers, cuda=cuda),
        )
        .iter_rows()
    )
    return made


def _results(rows: Iterable[dict[str, Any]]) -> tuple[str, Iterator[File | Failure]]:
    """The revision that the first worker loaded, and all results. Raises `JobFailed` where nothing succeeds."""
    source = iter(rows)
    first = next(source)

    def results() -> Iterator[File | Failure]:
        succeeded, failed = False, 0
        row: dict[str, Any] | None = first
        cuts: set[Cut] = set()
        while row is not None:
            cuts |= {Cut(**cut) for cut in json.loads(row["cuts"])}
            item = Item(**json.loads(row["item"]))
            if row["error"]:
                failed += 1
                if not succeeded and failed >= GIVE_UP:
                    raise JobFailed(f"the first {GIVE_UP} items failed, {item.id!r} with: {row['error']}")
                yield item, row["error"]
            else:
                succeeded = True
                yield File(item, row["data"], row["seconds"], row["sha256"], row["constant"])
            row = next(source, None)
        warn_of_cuts(sorted(cuts, key=astuple))

    return first["revision"], results()
