"""The other main job: how good pictures are that exist already, against a reference, their prompts, and plain ones."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dita.evaluation_checkpoint import Checkpoint
from dita.interrupted import Kept, file_facts
from dita.measurement import (
    BATCH,
    KERNEL_DISTANCES,
    NO_PAIRS,
    Result,
    check_same_prompts,
    constant_note,
    first_problems,
    key_text,
    measure,
    measure_pairs,
    of_kind,
    open_reference,
    references_of,
    result_from_json,
    results_of,
)
from dita.metrics.catalogue import METRICS, Metric, check_metrics
from dita.metrics.distribution import Sample
from dita.metrics.picture_sets import Key, PictureSet, Problem, without_odd_sizes
from dita.metrics.statistics_file import statistics_bytes
from dita.networks import Networks
from dita.output_files import try_files, write_file
from dita.sharing import Alone, Tick, Workers
from dita.values import shown
from dita.version import __version__


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


def evaluate(
    pictures: PictureSet,
    metrics: Sequence[Metric],
    networks: Networks,
    *,
    reference: str | Path | PictureSet | None = None,
    plain: PictureSet | None = None,
    save_statistics: str | Path | None = None,
    batch: int = BATCH,
    workers: Workers | None = None,
    console: Console | None = None,
    tell: Callable[[Evaluation], None] | None = None,
    keep_beside: str | Path | None = None,
) -> Evaluation:
    """Measures `pictures` with `metrics`.

    Args:
        pictures: what is judged.
        metrics: of `dita.metrics.catalogue.METRICS`.
        networks: where their networks come from.
        reference: for distributions: a folder, a `.npz` with statistics or pictures, or a set.
        plain: the plain pipeline's pictures, paired by id and seed, or by name where there is no manifest; by default
            `reference`, where manifests or dita's own file names say that it has the same ids, seeds and prompts.
        save_statistics: a file for the statistics of `pictures`, to be a `reference` later; tried before anything is
            measured.
        batch: pictures read at a time; memory does not grow with their number, but for the features of KID and CMMD.
        workers: who share the pictures (`dita.sharing.opened`), this process alone by default; figures are the same.
        console: where progress bars go; None is the standard error stream.
        tell: told of the evaluation before statistics are written.
        keep_beside: a file that the results are for. What was measured is kept beside it, with `.unfinished` behind its
            name, and a second run of the same evaluation goes on from it; the caller removes it
            (`dita.interrupted.remove`) when its file is written.

    Raises `ValueError` where a metric lacks what it compares with, no picture can be used, sets do not fit, or nothing
    can be written; and `OSError` where writing fails after all.
    """
    if not isinstance(pictures, PictureSet):
        raise ValueError(f"pictures must be a set, as open_pictures(folder) gives it, got {shown(pictures)}")
    check_metrics(metrics)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    networks.locate(metrics)
    notes: list[str] = []
    pictures = without_odd_sizes(pictures)
    reference_set, reference_file = open_reference(reference)
    plain_set = without_odd_sizes(plain) if plain is not None else _shared(pictures, reference_set)
    # The reference's distance to itself says nothing: distances have a plain value only where plain is a third set.
    of_plain = metrics if plain is not None else of_kind(metrics, "text")
    _check_needs(
        pictures, metrics, plain_set, has_reference=reference is not None, from_file=reference_file is not None
    )
    if save_statistics is not None and not {"fid", "kid"} & {metric.name for metric in metrics}:
        raise ValueError("--save-statistics needs fid or kid among the metrics")
    try_files({"--save-statistics": Path(save_statistics) if save_statistics is not None else None})
    if plain_set is not None and plain is None and of_kind(metrics, "distribution"):
        notes.append(
            "the reference is the plain pipeline's own pictures: distances to it are drift, which is not 0 for equally"
            " good pictures and depends on their number; give real pictures as --reference for quality"
        )
    console = console or Console(stderr=True)
    if keep_beside is not None:
        settings = _settings(pictures, metrics, networks, reference, reference_set, plain_set, batch)

        def said(line: str) -> None:
            console.print(line, style="dim", highlight=False, soft_wrap=True)

        workers = Checkpoint(Kept(Path(keep_beside), settings, said), workers or Alone(), said)
    with _progress(console) as progress:
        total = len(pictures) + (len(plain_set) * 2 if plain_set else 0) + (len(reference_set) if reference_set else 0)
        bar = progress.add_task("", total=total)

        def stage(description: str) -> Tick:
            progress.update(bar, description=description)
            return lambda count: progress.advance(bar, count)

        tick = stage("reference")
        how: dict[str, Any] = {"batch": batch, "workers": workers}
        references, more = references_of(reference_set, reference_file, metrics, networks, **how, tick=tick)
        measured = measure(pictures, metrics, networks, **how, tick=stage("pictures"))
        if not measured.entries:
            raise ValueError(f"no picture of {pictures.name!r} can be used: {first_problems(measured.problems)}")
        beside, pairs = None, NO_PAIRS
        if plain_set is not None:
            beside = measure(plain_set, of_plain, networks, **how, tick=stage("plain pictures"))
            pairs = measure_pairs(pictures, plain_set, metrics, networks, **how, tick=stage("pairs"))
        progress.update(bar, description="distances", completed=total)
        results = results_of(metrics, measured, beside, pairs, references)
    problems = [*measured.problems, *(beside.problems if beside else ()), *more]
    notes += _pairing_notes(pictures, plain_set)
    notes += constant_note(pictures.name, measured.constant, len(measured.entries))
    if beside is not None and plain_set is not None:
        notes += constant_note(plain_set.name, beside.constant, len(beside.entries))
    if plain is None and reference_set is not None and _said(pictures) & _said(reference_set):
        other = _other_prompts(pictures, reference_set)
        notes += [f"the reference is not taken for the plain pipeline's pictures: {other}"] if other else []
    evaluation = Evaluation(
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
    if tell is not None:
        tell(evaluation)
    if save_statistics is not None:
        _save(measured.samples["inception"], Path(save_statistics))
    return evaluation


def _settings(
    pictures: PictureSet,
    metrics: Sequence[Metric],
    networks: Networks,
    reference: str | Path | PictureSet | None,
    reference_set: PictureSet | None,
    plain: PictureSet | None,
    batch: int,
) -> dict[str, Any]:
    """All that the measurements of an evaluation depend on, as data for JSON."""
    sets = {"pictures": pictures, "reference": reference_set, "plain": plain}
    found = networks.locate(metrics)
    return {
        "sets": {name: None if one is None else _facts(one) for name, one in sets.items()},
        "reference": None if isinstance(reference, PictureSet) or reference is None else file_facts(reference),
        "metrics": [metric.name for metric in metrics],
        "networks": {need: [one.origin, file_facts(one.source)] for need, one in sorted(found.items())},
        "resize": networks.resize,
        "device": networks.device.type,
        "batch": batch,
        "versions": _versions(),
    }


def _facts(pictures: PictureSet) -> list[Any]:
    """What tells one set of pictures from another."""
    entries = [[entry.id, entry.seed, entry.prompt, file_facts(entry.name)] for entry in pictures.entries]
    return [file_facts(pictures.name) if Path(pictures.name).is_file() else pictures.name, entries]


def available(
    pictures: PictureSet, networks: Networks, reference: str | Path | PictureSet | None, plain: PictureSet | None
) -> list[Metric]:
    """The metrics that can be computed from what is given, for a call that names none."""
    prompted = any(entry.prompt for entry in pictures.entries)
    reference_set, statistics = open_reference(reference)
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


def _shared(pictures: PictureSet, reference: PictureSet | None) -> PictureSet | None:
    """The reference as plain pictures, where both say the same ids, seeds and prompts; sizes must fit later.

    Equal names alone are not enough: photographs and what was made after them often have the same.
    """
    if reference is None or not _said(pictures) & _said(reference) or _other_prompts(pictures, reference):
        return None
    return without_odd_sizes(
        dataclasses.replace(reference, entries=tuple(e for e in reference.entries if e.says_its_seed))
    )


def _said(pictures: PictureSet) -> set[Key]:
    return {entry.key for entry in pictures.entries if entry.says_its_seed}


def _other_prompts(pictures: PictureSet, reference: PictureSet) -> str | None:
    """Why two sets are no pairs although ids and seeds agree; None where their prompts agree too."""
    try:
        check_same_prompts(pictures, reference)
    except ValueError as error:
        return str(error)
    return None


def _check_needs(
    pictures: PictureSet, metrics: Sequence[Metric], plain: PictureSet | None, *, has_reference: bool, from_file: bool
) -> None:
    """Raises `ValueError` where a metric lacks what it compares with."""
    if not pictures.entries:
        raise ValueError(f"no picture of {pictures.name!r} can be used: {first_problems(pictures.problems)}")
    for metric in metrics:
        if metric.kind == "distribution" and not has_reference:
            raise ValueError(f"{metric.name} needs --reference: a folder of pictures, or a .npz file")
        if metric.name in KERNEL_DISTANCES and from_file:
            raise ValueError(f"{metric.name} needs the reference's pictures: mu and sigma alone do not hold them")
        if metric.kind == "text" and not any(entry.prompt for entry in pictures.entries):
            raise ValueError(
                f"{metric.name} needs prompts: {pictures.name!r} has no manifest with them; give --prompts"
            )
        if metric.kind == "paired" and (plain is None or not plain.keys & pictures.keys):
            raise ValueError(
                f"{metric.name} needs the plain pipeline's pictures of the same ids and seeds: give them as --plain,"
                " with a manifest as dita compare writes it, or with the same file names; as --reference they need"
                " the manifest, as equal names of photographs are no pairs"
            )
        if metric.kind == "distribution" and len(pictures) < 2:
            raise ValueError(f"{metric.name} needs at least 2 pictures, got {len(pictures)} in {pictures.name!r}")
    if plain is not None:
        check_same_prompts(pictures, plain)


def _pairing_notes(pictures: PictureSet, plain: PictureSet | None) -> list[str]:
    if plain is None:
        return []
    notes = []
    if not any(entry.says_its_seed for entry in pictures.entries):
        notes.append("paired by file name: there is no manifest that says the seeds")
    for one, other in ((pictures, plain), (plain, pictures)):
        alone = sorted(key_text(entry.key) for entry in one.entries if entry.key not in other.keys)
        if alone:
            listed = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            notes.append(f"{len(alone)} of {one.name} have no counterpart in {other.name}: {listed}")
    return notes


def _save(sample: Sample, path: Path) -> None:
    assert sample.identity is not None  # only files of others lack it
    write_file(path, statistics_bytes(sample.statistics, sample.identity))


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
