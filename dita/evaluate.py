"""The other main job: how good pictures are that exist already, against a reference, their prompts, and plain ones."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dita.metrics import bootstrap, distribution, statistics_file
from dita.metrics.bootstrap import Average, average
from dita.metrics.catalogue import METRICS, Metric, Need
from dita.metrics.clip import clip_score
from dita.metrics.distribution import Collector, Distance, Sample
from dita.metrics.features import Identity
from dita.metrics.fidelity import psnr, ssim
from dita.metrics.images import Picture
from dita.metrics.lpips import lpips
from dita.metrics.picture_sets import Entry, Key, PictureSet, Problem, batches, open_pictures, without_odd_sizes
from dita.networks import Networks
from dita.version import __version__

BATCH = 32  # pictures in memory at a time
KERNEL_DISTANCES = ("kid", "cmmd")
_FEATURES_OF: dict[str, Need] = {"kid": "inception", "fid": "inception", "cmmd": "cmmd", "fd-dinov2": "dino"}


@dataclass(frozen=True)
class Result:
    """What one metric says of one set of pictures.

    `value` is a mean over pictures with its interval, or a distance, which has none. `plain` is the same of the plain
    pipeline's pictures, and `difference` the paired one, `value - plain` from the same prompts and seeds, with its
    interval. `count` pictures are in it, of `reference_count` reference pictures (None: there is none, or unknown).
    `each` has the value of every picture by "id" or "id, seed s", for metrics of single pictures; an infinite one is
    None. `unbiased` is CMMD's second estimate. `truncated` prompts were longer than the network reads.
    """

    metric: str
    title: str
    better: str
    range: str
    value: Average
    plain: Average | None
    difference: Average | None
    count: int
    reference_count: int | None
    identity: Identity | None
    truncated: int
    unbiased: float | None
    warnings: tuple[str, ...]
    each: dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """Everything that one evaluation found: data that goes to JSON and comes back."""

    pictures: str
    reference: str | None
    plain: str | None
    count: int
    results: tuple[Result, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    bundled: tuple[str, ...]
    versions: dict[str, str]
    started: str

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; `from_json` reads it back."""
        return dataclasses.asdict(self)


def from_json(data: Mapping[str, Any]) -> Evaluation:
    """The evaluation that `Evaluation.as_json` wrote."""
    fields = dict(data)
    fields["results"] = tuple(result_from_json(result) for result in data["results"])
    fields["problems"] = tuple(Problem(**problem) for problem in data["problems"])
    for key in ("notes", "bundled"):
        fields[key] = tuple(data[key])
    return Evaluation(**fields)


def result_from_json(data: Mapping[str, Any]) -> Result:
    """One result of `Evaluation.as_json`."""
    fields = dict(data)
    for key in ("value", "plain", "difference"):
        fields[key] = Average(**data[key]) if data[key] else None
    fields["identity"] = Identity(**data["identity"]) if data["identity"] else None
    fields["warnings"] = tuple(data["warnings"])
    return Result(**fields)


@dataclass(frozen=True)
class Measured:
    """One set of pictures, measured by itself: samples of features by network, scores of text metrics by picture."""

    entries: tuple[Entry, ...]
    samples: dict[Need, Sample]
    scores: dict[str, dict[Key, float]]
    truncated: dict[str, int]
    identities: dict[str, Identity]
    problems: tuple[Problem, ...]

    @property
    def keys(self) -> list[Key]:
        """Ids and seeds of the pictures that could be read, in order: row i of a sample's features is picture i."""
        return [entry.key for entry in self.entries]


Tick = Callable[[int], None]


def evaluate(
    pictures: PictureSet,
    metrics: Sequence[Metric],
    networks: Networks,
    *,
    reference: str | Path | PictureSet | None = None,
    plain: PictureSet | None = None,
    save_statistics: str | Path | None = None,
    batch: int = BATCH,
    console: Console | None = None,
) -> Evaluation:
    """Measures `pictures` with `metrics`.

    Args:
        pictures: what is judged.
        metrics: of `dita.metrics.catalogue.METRICS`.
        networks: where their networks come from.
        reference: for distributions: a folder, a `.npz` with statistics or pictures, or a set.
        plain: the plain pipeline's pictures, paired by id and seed; by default `reference`, where it shares them.
        save_statistics: a file for the statistics of `pictures`, to be a `reference` later.
        batch: pictures read at a time; memory does not grow with their number, but for the features of KID and CMMD.
        console: where progress bars go; None is the standard error stream.

    Raises `ValueError` where a metric lacks what it compares with, no picture can be used, or sets do not fit.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    networks.locate(metrics)
    notes: list[str] = []
    pictures = without_odd_sizes(pictures)
    reference_set, reference_file = _reference(reference)
    plain_set = without_odd_sizes(plain) if plain is not None else _shared(pictures, reference_set)
    # The reference's distance to itself says nothing: distances have a plain value only where plain is a third set.
    of_plain = metrics if plain is not None else _of_kind(metrics, "text")
    _check_needs(pictures, metrics, reference, plain_set)
    if plain_set is not None and plain is None and _of_kind(metrics, "distribution"):
        notes.append(
            "the reference is the plain pipeline's own pictures: distances to it are drift, which is not 0 for equally"
            " good pictures and depends on their number; give real pictures as --reference for quality"
        )
    with _progress(console or Console(stderr=True)) as progress:
        total = len(pictures) + (len(plain_set) * 2 if plain_set else 0) + (len(reference_set) if reference_set else 0)
        bar = progress.add_task("", total=total)

        def stage(description: str) -> Tick:
            progress.update(bar, description=description)
            return lambda count: progress.advance(bar, count)

        measured = measure(pictures, metrics, networks, batch=batch, tick=stage("pictures"))
        if not measured.entries:
            raise ValueError(f"no picture of {pictures.name!r} can be used: {_first_problems(measured.problems)}")
        beside, pairs = None, dict[str, dict[Key, float]]()
        if plain_set is not None:
            beside = measure(plain_set, of_plain, networks, batch=batch, tick=stage("plain pictures"))
            pairs = measure_pairs(pictures, plain_set, metrics, networks, batch=batch, tick=stage("pairs"))
        references, more = references_of(
            reference_set, reference_file, metrics, networks, measured, batch=batch, tick=stage("reference")
        )
        progress.update(bar, description="distances", completed=total)
        results = results_of(metrics, measured, beside, pairs, references, networks)
    if save_statistics is not None:
        _save(measured, networks, save_statistics)
    problems = [*measured.problems, *(beside.problems if beside else ()), *more]
    notes += _pairing_notes(pictures, plain_set)
    return Evaluation(
        pictures=pictures.name,
        reference=str(getattr(reference, "name", reference)) if reference is not None else None,
        plain=plain_set.name if plain_set else None,
        count=len(measured.entries),
        results=results,
        problems=tuple(dict.fromkeys(problems)),
        notes=tuple(notes),
        bundled=tuple(networks.bundled),
        versions=_versions(),
        started=started,
    )


def available(
    pictures: PictureSet, networks: Networks, reference: str | Path | PictureSet | None, plain: PictureSet | None
) -> list[Metric]:
    """The metrics that can be computed from what is given, for a call that names none."""
    prompted = any(entry.prompt for entry in pictures.entries)
    reference_set, statistics = _reference(reference)
    paired = plain if plain is not None else _shared(pictures, reference_set)
    chosen = []
    for metric in METRICS.values():
        possible = {
            "paired": paired is not None,
            "text": prompted,
            "distribution": reference_set is not None
            or (statistics is not None and metric.name not in KERNEL_DISTANCES),
        }
        if possible[metric.kind] and networks.has(metric):
            chosen.append(metric)
    return chosen


def measure(
    pictures: PictureSet, metrics: Sequence[Metric], networks: Networks, *, batch: int = BATCH, tick: Tick | None = None
) -> Measured:
    """Everything that needs no second picture: features for distributions, scores for prompts."""
    problems = list(pictures.problems)
    collectors = _collectors(metrics, networks)
    texts = [metric for metric in metrics if metric.kind == "text"]
    scores: dict[str, dict[Key, float]] = {metric.name: {} for metric in texts}
    truncated = {metric.name: 0 for metric in texts}
    identities = {metric.name: _text_identity(metric, networks) for metric in texts}
    entries: list[Entry] = []
    for chosen, images in batches(pictures.entries, batch, problems):
        for collector in collectors.values():
            collector.add(images)
        told = [(entry, image) for entry, image in zip(chosen, images, strict=True) if entry.prompt is not None]
        for metric in texts if told else []:
            values, cut = _text_scores(metric, networks, [i for _, i in told], [str(e.prompt) for e, _ in told])
            truncated[metric.name] += cut
            scores[metric.name].update({e.key: float(v) for (e, _), v in zip(told, values, strict=True)})
        entries += chosen
        if tick:
            tick(len(images))
    if texts:
        problems += [Problem(e.name, "has no prompt") for e in entries if e.prompt is None]
    samples = {need: collector.sample() for need, collector in collectors.items()}
    return Measured(tuple(entries), samples, scores, truncated, identities, tuple(problems))


def measure_pairs(
    pictures: PictureSet,
    plain: PictureSet,
    metrics: Sequence[Metric],
    networks: Networks,
    *,
    batch: int = BATCH,
    tick: Tick | None = None,
) -> dict[str, dict[Key, float]]:
    """Paired metrics of every picture that has a counterpart of the same id, seed and size; unusable ones are left out,
    as they are named elsewhere. Raises `ValueError` where no pair has one size, and where prompts differ."""
    chosen = _of_kind(metrics, "paired")
    values: dict[str, dict[Key, float]] = {metric.name: {} for metric in chosen}
    if not chosen:
        return values
    counterparts = {entry.key: entry for entry in plain.entries}
    unusable: list[Problem] = []
    shared = [entry for entry in pictures.entries if entry.key in counterparts]
    sizes: set[tuple[str, str]] = set()
    for entries, images in batches(shared, batch, unusable):
        others: dict[Key, Picture] = {}
        for beside, found in batches([counterparts[entry.key] for entry in entries], batch, unusable):
            others.update({entry.key: picture for entry, picture in zip(beside, found, strict=True)})
        both = [(e.key, i, others[e.key]) for e, i in zip(entries, images, strict=True) if e.key in others]
        sizes |= {(_pixels(mine), _pixels(theirs)) for _, mine, theirs in both if mine.shape != theirs.shape}
        both = [pair for pair in both if pair[1].shape == pair[2].shape]
        for metric in chosen if both else []:
            scores = _paired_values(metric, networks, [a for _, a, _ in both], [b for _, _, b in both])
            values[metric.name].update({key: value for (key, _, _), value in zip(both, scores, strict=True)})
        if tick:
            tick(len(images))
    if sizes and not values[chosen[0].name]:
        one, other = sorted(sizes)[0]
        raise ValueError(
            f"pictures of {pictures.name!r} are {one} pixels, those of {plain.name!r} {other}: no pair fits"
        )
    return values


def references_of(
    pictures: PictureSet | None,
    file: statistics_file.Reference | None,
    metrics: Sequence[Metric],
    networks: Networks,
    measured: Measured | None = None,
    *,
    batch: int = BATCH,
    tick: Tick | None = None,
) -> tuple[dict[Need, Sample], list[Problem]]:
    """The reference samples by network, from pictures or from a statistics file, and problems of the pictures.

    A file's statistics stand for every network of `metrics`; a width that does not fit is refused when distances are
    computed. Mixed sizes are no problem in a reference: they are resized anyway.
    """
    if file is not None:
        needs = {_FEATURES_OF[metric.name] for metric in _of_kind(metrics, "distribution")}
        return {need: Sample(file.identity, file.statistics) for need in needs}, []
    if pictures is None or not _of_kind(metrics, "distribution"):
        return {}, []
    found = measure(pictures, _of_kind(metrics, "distribution"), networks, batch=batch, tick=tick)
    if not found.entries:
        raise ValueError(
            f"no picture of the reference {pictures.name!r} can be used: {_first_problems(found.problems)}"
        )
    return found.samples, list(found.problems)


def results_of(
    metrics: Sequence[Metric],
    measured: Measured,
    plain: Measured | None,
    pairs: Mapping[str, Mapping[Key, float]],
    references: Mapping[Need, Sample],
    networks: Networks,
) -> tuple[Result, ...]:
    """What was measured, put together: one result a metric, in their order."""
    results = []
    for metric in metrics:
        if metric.kind == "distribution":
            results.append(_distance_result(metric, measured, plain, references))
        elif metric.kind == "text":
            results.append(_text_result(metric, measured, plain))
        else:
            results.append(_paired_result(metric, pairs[metric.name], _paired_identity(metric, networks)))
    return tuple(results)


def _distance_result(
    metric: Metric, measured: Measured, plain: Measured | None, references: Mapping[Need, Sample]
) -> Result:
    need = _FEATURES_OF[metric.name]
    sample, reference = measured.samples[need], references[need]
    found = _distance(metric, sample, reference)
    remarks = list(found.warnings)
    plain_value = difference = None
    if plain is not None and need in plain.samples:
        if measured.keys == plain.keys:
            beside = plain.samples[need]
            plain_value = _lone(_distance(metric, beside, reference).value, beside.count or 0)
            difference = _difference(metric, sample, beside, reference)
        else:
            remarks.append("no paired difference: not every picture has a counterpart of the same id and seed")
    return _result(
        metric,
        _lone(found.value, found.count or 0),
        plain=plain_value,
        difference=difference,
        reference_count=found.reference_count,
        identity=found.identity,
        unbiased=found.unbiased,
        warnings=tuple(remarks),
    )


def _text_result(metric: Metric, measured: Measured, plain: Measured | None) -> Result:
    mine = measured.scores[metric.name]
    theirs = plain.scores[metric.name] if plain is not None else {}
    shared = [key for key in mine if key in theirs]
    return _result(
        metric,
        average(list(mine.values())),
        plain=average(list(theirs.values())) if theirs else None,
        difference=bootstrap.difference([mine[k] for k in shared], [theirs[k] for k in shared]) if shared else None,
        identity=measured.identities[metric.name],
        truncated=measured.truncated[metric.name],
        each=mine,
    )


def _paired_result(metric: Metric, values: Mapping[Key, float], identity: Identity | None) -> Result:
    return _result(metric, average(list(values.values())), identity=identity, each=values)


def _result(
    metric: Metric,
    value: Average,
    *,
    plain: Average | None = None,
    difference: Average | None = None,
    reference_count: int | None = None,
    identity: Identity | None = None,
    truncated: int = 0,
    unbiased: float | None = None,
    warnings: tuple[str, ...] = (),
    each: Mapping[Key, float] | None = None,
) -> Result:
    finite = {_key_text(key): v if np.isfinite(v) else None for key, v in (each or {}).items()}
    return Result(
        metric=metric.name,
        title=metric.title,
        better=metric.better,
        range=metric.range,
        value=value,
        plain=plain,
        difference=difference,
        count=value.count + value.infinite,
        reference_count=reference_count,
        identity=identity,
        truncated=truncated,
        unbiased=unbiased,
        warnings=warnings,
        each=finite,
    )


def _distance(metric: Metric, sample: Sample, reference: Sample) -> Distance:
    if metric.name == "kid":
        found = distribution.kernel_distance(sample, reference)
        return dataclasses.replace(found, value=1000 * found.value)  # as papers print it
    if metric.name == "cmmd":
        return distribution.clip_distance(sample, reference)
    return distribution.fid(sample, reference, metric=metric.name)


def _difference(metric: Metric, sample: Sample, plain: Sample, reference: Sample) -> Average:
    if metric.name == "cmmd":
        difference = _distance(metric, sample, reference).value - _distance(metric, plain, reference).value
        return _lone(difference, sample.count or 0)
    if metric.name != "kid":
        return distribution.paired_difference(sample, plain, reference)
    found = distribution.paired_difference(sample, plain, reference, metric="kid")
    mean, low, high = (None if v is None else 1000 * v for v in (found.mean, found.low, found.high))
    return Average(mean, low, high, found.count)


def _lone(value: float, count: int) -> Average:
    """A value without an interval."""
    return Average(value, None, None, count)


def _collectors(metrics: Sequence[Metric], networks: Networks) -> dict[Need, Collector]:
    chosen = _of_kind(metrics, "distribution")
    kept = {_FEATURES_OF[metric.name] for metric in chosen if metric.name in KERNEL_DISTANCES}
    needs = dict.fromkeys(_FEATURES_OF[metric.name] for metric in chosen)
    collectors = {}
    for need in needs:
        network = networks.features(need)
        # The features themselves serve kernel distances, and intervals of differences where they are few.
        collectors[need] = Collector(network, keep=need in kept or network.width <= distribution.BOOTSTRAP_WIDTH)
    return collectors


def _text_identity(metric: Metric, networks: Networks) -> Identity:
    scorer: Any = networks.reward() if metric.needs == "image-reward" else networks.clip(metric.needs)
    return Identity(scorer.name, scorer.weights, str(scorer.preparation))


def _text_scores(
    metric: Metric, networks: Networks, pictures: Sequence[Picture], prompts: Sequence[str]
) -> tuple[list[float], int]:
    """The score of each picture for its prompt, and how many prompts were truncated."""
    if metric.needs == "image-reward":
        rewards, cut = networks.reward().rewards(pictures, prompts)
        return rewards.tolist(), cut
    scorer = networks.clip(metric.needs)
    cosine, cut = scorer.cosines(pictures, prompts)
    if metric.name == "clip":
        cosine = clip_score(cosine)
    elif metric.name == "pickscore":
        cosine = scorer.pick_score(cosine)
    return cosine.tolist(), cut


def _paired_values(
    metric: Metric, networks: Networks, pictures: Sequence[Picture], plain: Sequence[Picture]
) -> list[float]:
    if metric.name in ("psnr", "ssim"):
        measure_pair = psnr if metric.name == "psnr" else ssim
        return [float(measure_pair(a, b)) for a, b in zip(pictures, plain, strict=True)]
    if metric.name.startswith("lpips"):
        network, _ = networks.lpips(metric.needs)
        a, b = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).float() / 255 for side in (pictures, plain))
        return lpips(a, b, network).tolist()
    extract = networks.clip("clip").image_embeddings if metric.needs == "clip" else networks.features("dino")
    x, y = (torch.nn.functional.normalize(extract(side), dim=-1).cpu() for side in (pictures, plain))
    return (x * y).sum(dim=-1).tolist()


def _paired_identity(metric: Metric, networks: Networks) -> Identity | None:
    if metric.needs == "none":
        return None
    if metric.needs == "clip":
        return _text_identity(metric, networks)
    return networks.lpips(metric.needs)[1] if metric.name.startswith("lpips") else networks.features("dino").identity


def _reference(
    reference: str | Path | PictureSet | None,
) -> tuple[PictureSet | None, statistics_file.Reference | None]:
    if reference is None or isinstance(reference, PictureSet):
        return reference, None
    path = Path(reference)
    if path.is_file():
        found = statistics_file.read_statistics(path)
        if found is not None:
            return None, found
    return open_pictures(path), None


def _shared(pictures: PictureSet, reference: PictureSet | None) -> PictureSet | None:
    """The reference as plain pictures, where both know their seeds and share ids; sizes must fit later."""
    if reference is None or not pictures.keys & reference.keys:
        return None
    return without_odd_sizes(reference)


def _check_needs(pictures: PictureSet, metrics: Sequence[Metric], reference: object, plain: PictureSet | None) -> None:
    """Raises `ValueError` where a metric lacks what it compares with."""
    if not pictures.entries:
        raise ValueError(f"no picture of {pictures.name!r} can be used: {_first_problems(pictures.problems)}")
    for metric in metrics:
        if metric.kind == "distribution" and reference is None:
            raise ValueError(f"{metric.name} needs --reference: a folder of pictures, or a .npz file")
        if metric.kind == "text" and not any(entry.prompt for entry in pictures.entries):
            raise ValueError(
                f"{metric.name} needs prompts: {pictures.name!r} has no manifest with them; give --prompts"
            )
        if metric.kind == "paired" and (plain is None or not plain.keys & pictures.keys):
            raise ValueError(
                f"{metric.name} needs the plain pipeline's pictures of the same ids and seeds: give them as --plain or"
                " --reference, with a manifest as dita compare writes it, or with the same file names"
            )
        if metric.kind == "distribution" and len(pictures) < 2:
            raise ValueError(f"{metric.name} needs at least 2 pictures, got {len(pictures)} in {pictures.name!r}")
    if plain is None:
        return
    prompts = {entry.key: entry.prompt for entry in plain.entries}
    for entry in pictures.entries:
        other = prompts.get(entry.key)
        if other is not None and entry.prompt is not None and other != entry.prompt:
            raise ValueError(
                f"picture {_key_text(entry.key)} has the prompt {entry.prompt!r} in {pictures.name!r} and {other!r} in"
                f" {plain.name!r}: they are not pairs"
            )


def _pairing_notes(pictures: PictureSet, plain: PictureSet | None) -> list[str]:
    if plain is None:
        return []
    notes = []
    for one, other in ((pictures, plain), (plain, pictures)):
        alone = sorted(_key_text(entry.key) for entry in one.entries if entry.key not in other.keys)
        if alone:
            listed = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            notes.append(f"{len(alone)} of {one.name} have no counterpart in {other.name}: {listed}")
    return notes


def _save(measured: Measured, networks: Networks, path: str | Path) -> None:
    if "inception" not in measured.samples:
        raise ValueError("--save-statistics needs fid or kid among the metrics")
    sample = measured.samples["inception"]
    statistics_file.write_statistics(path, sample.statistics, networks.features("inception").identity)


def _of_kind(metrics: Iterable[Metric], kind: str) -> list[Metric]:
    return [metric for metric in metrics if metric.kind == kind]


def _key_text(key: Key) -> str:
    return key[0] if key[1] is None else f"{key[0]}, seed {key[1]}"


def _pixels(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _first_problems(problems: Sequence[Problem]) -> str:
    listed = "; ".join(f"{problem.name} {problem.reason}" for problem in problems[:3])
    return listed + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "numpy", "pillow")
    return {"dita": __version__, "python": platform.python_version()} | {
        n: importlib.metadata.version(n) for n in names
    }


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description:<16}"), BarColumn(), *columns, console=console) as progress:
        yield progress
