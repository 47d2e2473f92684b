"""Measuring sets of pictures: what one set says by itself, beside the plain one, and against a reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dita.metrics import bootstrap, distribution, statistics_file
from dita.metrics.bootstrap import Average, average
from dita.metrics.catalogue import Metric, Need
from dita.metrics.clip import clip_score
from dita.metrics.distribution import Collector, Distance, Sample
from dita.metrics.features import Identity
from dita.metrics.fidelity import psnr, ssim
from dita.metrics.frechet import FeatureStatistics
from dita.metrics.images import MISSING, Picture, is_constant
from dita.metrics.lpips import lpips
from dita.metrics.picture_sets import Entry, Key, PictureSet, Problem, batches, open_pictures
from dita.networks import Networks
from dita.sharing import Alone, Tick, Workers

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
    """One set of pictures, measured by itself: samples of features by network, scores of text metrics by picture;
    `constant` are those of one colour."""

    entries: tuple[Entry, ...]
    samples: dict[Need, Sample]
    scores: dict[str, dict[Key, float]]
    truncated: dict[str, int]
    identities: dict[str, Identity]
    problems: tuple[Problem, ...]
    constant: tuple[Key, ...] = ()

    @property
    def keys(self) -> list[Key]:
        """Ids and seeds of the pictures that could be read, in order: row i of a sample's features is picture i."""
        return [entry.key for entry in self.entries]


def measure(
    pictures: PictureSet,
    metrics: Sequence[Metric],
    networks: Networks,
    *,
    batch: int = BATCH,
    tick: Tick | None = None,
    workers: Workers | None = None,
) -> Measured:
    """Everything that needs no second picture: features for distributions, scores for prompts.

    `workers` share the pictures, this process alone by default; the result is the same but for the order in which the
    statistics of batches are added, in float64. Raises `ValueError` where a worker lacks files that are there.
    """
    work = partial(_measure_share, tuple(metrics), batch)
    measured = joined(list((workers or Alone()).shares(work, networks, pictures.entries, batch, tick)))
    _check_all_see(measured.problems)
    problems = [*pictures.problems, *measured.problems]
    if of_kind(metrics, "text"):
        problems += [Problem(e.name, "has no prompt") for e in measured.entries if e.prompt is None]
    return dataclasses.replace(measured, problems=tuple(problems))


def _measure_share(
    metrics: Sequence[Metric], batch: int, networks: Networks, share: Sequence[Entry], tick: Tick
) -> Measured:
    problems: list[Problem] = []
    collectors = _collectors(metrics, networks)
    texts = of_kind(metrics, "text")
    scores: dict[str, dict[Key, float]] = {metric.name: {} for metric in texts}
    truncated = {metric.name: 0 for metric in texts}
    identities = {metric.name: _text_identity(metric, networks) for metric in texts}
    entries: list[Entry] = []
    constant: list[Key] = []
    for chosen, images in batches(share, batch, problems):
        constant += [entry.key for entry, image in zip(chosen, images, strict=True) if is_constant(image)]
        for collector in collectors.values():
            collector.add(images)
        told = [(entry, image) for entry, image in zip(chosen, images, strict=True) if entry.prompt is not None]
        for metric in texts if told else []:
            values, cut = _text_scores(metric, networks, [i for _, i in told], [str(e.prompt) for e, _ in told])
            truncated[metric.name] += cut
            scores[metric.name].update({e.key: float(v) for (e, _), v in zip(told, values, strict=True)})
        entries += chosen
        tick(len(images))
    samples = {need: collector.sample() for need, collector in collectors.items()}
    return Measured(tuple(entries), samples, scores, truncated, identities, tuple(problems), tuple(constant))


def joined(parts: Sequence[Measured]) -> Measured:
    """What workers found in shares of one set, put together."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Measured(
        entries=tuple(entry for part in parts for entry in part.entries),
        samples={need: distribution.joined([part.samples[need] for part in parts]) for need in first.samples},
        scores={name: {k: v for part in parts for k, v in part.scores[name].items()} for name in first.scores},
        truncated={name: sum(part.truncated[name] for part in parts) for name in first.truncated},
        identities=first.identities,
        problems=tuple(problem for part in parts for problem in part.problems),
        constant=tuple(key for part in parts for key in part.constant),
    )


def _check_all_see(problems: Sequence[Problem]) -> None:
    """Raises `ValueError` where a worker on another machine did not find a file that is here."""
    for problem in problems:
        if problem.reason == MISSING and Path(problem.name).exists():
            raise ValueError(
                f"a worker found no file {problem.name!r}, which is here: the folders must lie on a disk that all"
                " machines share"
            )


@dataclass(frozen=True)
class Pairs:
    """Values of paired metrics by picture, and the networks that gave them (None where none is needed).

    `misfits` are the sizes in pixels of pairs that could not be compared. `constant` are pairs of two pictures of one
    colour, such as black ones that were made of NaN, which are not compared: they would look as close as can be.
    """

    values: dict[str, dict[Key, float]]
    identities: dict[str, Identity | None]
    misfits: frozenset[tuple[str, str]] = frozenset()
    constant: tuple[Key, ...] = ()


NO_PAIRS = Pairs({}, {})


def measure_pairs(
    pictures: PictureSet,
    plain: PictureSet,
    metrics: Sequence[Metric],
    networks: Networks,
    *,
    batch: int = BATCH,
    tick: Tick | None = None,
    workers: Workers | None = None,
) -> Pairs:
    """Paired metrics of every picture that has a counterpart of the same id, seed and size; unusable ones are left out,
    as they are named elsewhere. `workers` as for `measure`. Raises `ValueError` where no pair has one size."""
    chosen = tuple(of_kind(metrics, "paired"))
    if not chosen:
        return NO_PAIRS
    counterparts = {entry.key: entry for entry in plain.entries}
    shared = [(entry, counterparts[entry.key]) for entry in pictures.entries if entry.key in counterparts]
    work = partial(_measure_pairs_share, chosen, batch)
    found = joined_pairs(list((workers or Alone()).shares(work, networks, shared, batch, tick)))
    if found.misfits and not found.values[chosen[0].name]:
        one, other = sorted(found.misfits)[0]
        raise ValueError(
            f"pictures of {pictures.name!r} are {one} pixels, those of {plain.name!r} {other}: no pair fits"
        )
    return found


def joined_pairs(parts: Sequence[Pairs]) -> Pairs:
    """What workers found in shares of one set of pairs, put together."""
    first = parts[0]
    return Pairs(
        {name: {k: v for part in parts for k, v in part.values[name].items()} for name in first.values},
        first.identities,
        frozenset(sizes for part in parts for sizes in part.misfits),
        tuple(key for part in parts for key in part.constant),
    )


def _measure_pairs_share(
    metrics: Sequence[Metric], batch: int, networks: Networks, share: Sequence[tuple[Entry, Entry]], tick: Tick
) -> Pairs:
    values: dict[str, dict[Key, float]] = {metric.name: {} for metric in metrics}
    counterparts = {entry.key: other for entry, other in share}
    unusable: list[Problem] = []
    misfits: set[tuple[str, str]] = set()
    constant: list[Key] = []
    for entries, images in batches([entry for entry, _ in share], batch, unusable):
        others: dict[Key, Picture] = {}
        for beside, found in batches([counterparts[entry.key] for entry in entries], batch, unusable):
            others.update({entry.key: picture for entry, picture in zip(beside, found, strict=True)})
        both = [(e.key, i, others[e.key]) for e, i in zip(entries, images, strict=True) if e.key in others]
        misfits |= {(_pixels(mine), _pixels(theirs)) for _, mine, theirs in both if mine.shape != theirs.shape}
        both = [pair for pair in both if pair[1].shape == pair[2].shape]
        constant += [key for key, mine, theirs in both if is_constant(mine) and is_constant(theirs)]
        both = [pair for pair in both if pair[0] not in constant]
        for metric in metrics if both else []:
            scores = _paired_values(metric, networks, [a for _, a, _ in both], [b for _, _, b in both])
            values[metric.name].update({key: value for (key, _, _), value in zip(both, scores, strict=True)})
        tick(len(images))
    identities = {metric.name: _paired_identity(metric, networks) for metric in metrics}
    return Pairs(values, identities, frozenset(misfits), tuple(constant))


def check_same_prompts(pictures: PictureSet, plain: PictureSet) -> None:
    """Raises `ValueError` where two pictures of one id and seed have different prompts: they are not pairs."""
    prompts = {entry.key: entry.prompt for entry in plain.entries}
    for entry in pictures.entries:
        other = prompts.get(entry.key)
        if other is not None and entry.prompt is not None and other != entry.prompt:
            raise ValueError(
                f"picture {key_text(entry.key)} has the prompt {entry.prompt!r} in {pictures.name!r} and {other!r} in"
                f" {plain.name!r}: they are not pairs"
            )


def open_reference(
    reference: str | Path | PictureSet | None,
) -> tuple[PictureSet | None, statistics_file.Reference | None]:
    """A reference as pictures or as statistics: a folder, a `.npz` of either kind, or a set as it is.

    Raises as `open_pictures` and `statistics_file.read_statistics` do.
    """
    if reference is None or isinstance(reference, PictureSet):
        return reference, None
    path = Path(reference)
    if path.is_file():
        found = statistics_file.read_statistics(path)
        if found is not None:
            return None, found
    return open_pictures(path), None


def references_of(
    pictures: PictureSet | None,
    file: statistics_file.Reference | None,
    metrics: Sequence[Metric],
    networks: Networks,
    *,
    batch: int = BATCH,
    tick: Tick | None = None,
    workers: Workers | None = None,
) -> tuple[dict[Need, Sample], list[Problem]]:
    """The reference samples by network, from pictures or from a statistics file, and problems of the pictures.

    `workers` share the pictures, as for `measure`. A file's statistics stand for every network of `metrics`. Mixed
    sizes are no problem in a reference: they are resized anyway. Raises `ValueError` for statistics of another width,
    and where no picture can be used.
    """
    if file is not None:
        needs = {_FEATURES_OF[metric.name] for metric in of_kind(metrics, "distribution")}
        sample = Sample(file.identity, file.statistics)
        for need in needs:
            network = networks.features(need)
            distribution.check_width(Sample(network.identity, FeatureStatistics.empty(network.width)), sample)
        return dict.fromkeys(needs, sample), []
    if pictures is None or not of_kind(metrics, "distribution"):
        return {}, []
    found = measure(pictures, of_kind(metrics, "distribution"), networks, batch=batch, tick=tick, workers=workers)
    if not found.entries:
        raise ValueError(f"no picture of the reference {pictures.name!r} can be used: {first_problems(found.problems)}")
    return found.samples, list(found.problems)


def results_of(
    metrics: Sequence[Metric],
    measured: Measured,
    plain: Measured | None,
    pairs: Pairs,
    references: Mapping[Need, Sample],
) -> tuple[Result, ...]:
    """What was measured, put together: one result a metric, in their order."""
    results = []
    for metric in metrics:
        if metric.kind == "distribution":
            results.append(_distance_result(metric, measured, plain, references))
        elif metric.kind == "text":
            results.append(_text_result(metric, measured, plain))
        else:
            results.append(_paired_result(metric, pairs))
    return tuple(results)


def of_kind(metrics: Iterable[Metric], kind: str) -> list[Metric]:
    """The metrics of one kind, in their order."""
    return [metric for metric in metrics if metric.kind == kind]


def constant_note(name: str, constant: Sequence[Key], count: int) -> list[str]:
    """What a reader must know of pictures of one colour, such as black ones that were made of NaN; nothing for none."""
    if not constant:
        return []
    listed = ", ".join(map(key_text, constant[:5])) + (", ..." if len(constant) > 5 else "")
    return [f"{len(constant)} of {count} pictures of {name} are of one colour, as those made of NaN are: {listed}"]


def key_text(key: Key) -> str:
    """An id and a seed as people read them."""
    return key[0] if key[1] is None else f"{key[0]}, seed {key[1]}"


def first_problems(problems: Sequence[Problem]) -> str:
    """The first three, for a message."""
    listed = "; ".join(f"{problem.name} {problem.reason}" for problem in problems[:3])
    return listed + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


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


def _paired_result(metric: Metric, pairs: Pairs) -> Result:
    values, left_out = pairs.values[metric.name], len(pairs.constant)
    both = f"{left_out} pair{'s'[: left_out != 1]} left out, of which both pictures are of one colour"
    return _result(
        metric,
        average(list(values.values())),
        identity=pairs.identities[metric.name],
        each=values,
        warnings=(both,) if left_out else (),
    )


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
    finite = {key_text(key): v if np.isfinite(v) else None for key, v in (each or {}).items()}
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
    chosen = of_kind(metrics, "distribution")
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


def _pixels(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
