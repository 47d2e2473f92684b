"""What an evaluation has measured so far, kept beside the file that it writes, so that an interrupted one goes on.

Pictures are measured in portions, which begin where a batch begins, and added up in their order: whether a run was
interrupted does not change a bit of what it finds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from dita.interrupted import Arrays, Kept
from dita.measurement import Measured, Pairs, joined, joined_pairs
from dita.metrics.distribution import Sample
from dita.metrics.features import Identity
from dita.metrics.frechet import FeatureStatistics
from dita.metrics.picture_sets import Entry, Key, Problem
from dita.sharing import Tick, Tools, Work, Workers

BATCHES = 16
"""Of a portion."""
SECONDS = 20.0
"""Between two times that something is kept; what an interruption finds is kept at once."""

T = TypeVar("T")
H = TypeVar("H", bound=Tools)


@dataclass
class Checkpoint:
    """Those who measure for an evaluation that keeps what they find; stands in for `workers`.

    Each call of `shares` is a stage of the evaluation, in the order of the calls.
    """

    kept: Kept
    workers: Workers
    tell: Callable[[str], None] = lambda line: None
    seconds: float = SECONDS
    clock: Callable[[], float] = time.monotonic
    _stages: int = 0

    @property
    def count(self) -> int:
        """As the workers have it."""
        return self.workers.count

    def device(self, device: str) -> str:
        """As the workers have it."""
        return self.workers.device(device)

    def shares(
        self, work: Work[H, T], tools: H, items: Sequence[Any], batch: int, tick: Tick | None = None
    ) -> Iterator[T]:
        """One share, `Measured` or `Pairs`: what was kept of `items`, and what `work` gives for the others."""
        yield from self._shares(work, tools, items, batch, tick)

    def _shares(
        self, work: Work[Any, Any], tools: Any, items: Sequence[Any], batch: int, tick: Tick | None
    ) -> list[Any]:
        stage = f"stage-{self._stages}"
        self._stages += 1
        so_far: Any
        done, so_far = self._earlier(stage, items)
        if done and tick is not None:
            tick(done)
        noted, last = done, self.clock()
        try:
            for start in range(done, len(items), BATCHES * batch):
                portion = items[start : start + BATCHES * batch]
                found = list(self.workers.shares(work, tools, portion, batch, tick))
                so_far = _together([*([] if so_far is None else [so_far]), *found])
                done = start + len(portion)
                if self.clock() - last >= self.seconds:
                    self._keep(stage, done, so_far, items)
                    noted, last = done, self.clock()
        finally:  # also where it is interrupted
            if done > noted:
                self._keep(stage, done, so_far, items)
        return [so_far] if done else list(self.workers.shares(work, tools, items, batch, tick))

    def _earlier(self, stage: str, items: Sequence[Any]) -> tuple[int, Any]:
        found = self.kept.read(stage)
        if found is None:
            return 0, None
        data, arrays = found
        done = int(data["done"])
        if data["kind"] == "pairs":
            value: Any = _pairs_from(data)
        else:
            value = _measured_from(data, arrays, items[:done])
        self.tell(f"{self.kept.folder}: going on after {done} of {len(items)} pictures")
        return done, value

    def _keep(self, stage: str, done: int, value: Measured | Pairs, items: Sequence[Any]) -> None:
        if isinstance(value, Pairs):
            self.kept.keep(stage, {"kind": "pairs", "done": done, **_pairs_data(value)})
        else:
            data, arrays = _measured_data(value, items[:done])
            self.kept.keep(stage, {"kind": "pictures", "done": done, **data}, arrays)


def _together(parts: Sequence[Any]) -> Any:
    return joined_pairs(parts) if isinstance(parts[0], Pairs) else joined(parts)


# ------------------------------------------------------------------------------------------------ as data


def _measured_data(value: Measured, items: Sequence[Entry]) -> tuple[dict[str, Any], Arrays]:
    usable = {(entry.key, entry.name) for entry in value.entries}
    arrays: Arrays = {}
    samples: dict[str, Any] = {}
    for need, sample in value.samples.items():
        statistics = sample.statistics
        arrays[f"{need} mean"] = statistics.mean.cpu().numpy()
        arrays[f"{need} scatter"] = statistics.scatter.cpu().numpy()
        if sample.features is not None:
            arrays[f"{need} features"] = sample.features.cpu().numpy()
        samples[need] = {"count": statistics.count, "identity": _identity_data(sample.identity)}
    data = {
        "entries": [number for number, entry in enumerate(items) if (entry.key, entry.name) in usable],
        "samples": samples,
        "scores": {name: _by_key(scores) for name, scores in value.scores.items()},
        "truncated": value.truncated,
        "identities": {name: _identity_data(one) for name, one in value.identities.items()},
        "problems": [dataclasses.asdict(problem) for problem in value.problems],
        "constant": [list(key) for key in value.constant],
    }
    return data, arrays


def _measured_from(data: dict[str, Any], arrays: Arrays, items: Sequence[Entry]) -> Measured:
    samples: Any = {}
    for need, one in data["samples"].items():
        mean, scatter = (torch.from_numpy(arrays[f"{need} {what}"]) for what in ("mean", "scatter"))
        features = arrays.get(f"{need} features")
        samples[need] = Sample(
            _identity_from(one["identity"]),
            FeatureStatistics(one["count"], mean, scatter),
            None if features is None else torch.from_numpy(features),
        )
    identities: Any = {name: _identity_from(one) for name, one in data["identities"].items()}
    return Measured(
        entries=tuple(items[number] for number in data["entries"]),
        samples=samples,
        scores={name: _from_keys(scores) for name, scores in data["scores"].items()},
        truncated=data["truncated"],
        identities=identities,
        problems=tuple(Problem(**problem) for problem in data["problems"]),
        constant=tuple((key, seed) for key, seed in data["constant"]),
    )


def _pairs_data(value: Pairs) -> dict[str, Any]:
    return {
        "values": {name: _by_key(values) for name, values in value.values.items()},
        "identities": {name: _identity_data(one) for name, one in value.identities.items()},
        "misfits": sorted(list(one) for one in value.misfits),
        "constant": [list(key) for key in value.constant],
    }


def _pairs_from(data: dict[str, Any]) -> Pairs:
    return Pairs(
        {name: _from_keys(values) for name, values in data["values"].items()},
        {name: _identity_from(one) for name, one in data["identities"].items()},
        frozenset((mine, theirs) for mine, theirs in data["misfits"]),
        tuple((key, seed) for key, seed in data["constant"]),
    )


def _by_key(values: dict[Key, float]) -> list[list[Any]]:
    return [[key, seed, value] for (key, seed), value in values.items()]


def _from_keys(values: Iterable[Sequence[Any]]) -> dict[Key, float]:
    return {(key, seed): value for key, seed, value in values}


def _identity_data(identity: Identity | None) -> dict[str, Any] | None:
    return None if identity is None else dataclasses.asdict(identity)


def _identity_from(data: dict[str, Any] | None) -> Identity | None:
    return None if data is None else Identity(**data)
