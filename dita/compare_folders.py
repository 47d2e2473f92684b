"""A comparison of pictures that `dita generate` made: the same report, of thousands of them, and nothing is run.

Pairs are those of one id and seed. Nothing was interleaved here: seconds are those that the manifests note, and are
called so.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from dita import models, report
from dita.compare import measuring
from dita.comparison import ALWAYS, Comparison, MethodResult, numbered_label, role, spread
from dita.generation.folder import read_manifest
from dita.generation.job import Key, Settings
from dita.measurement import BATCH, Result, check_same_prompts, key_text
from dita.methods import Method, Plain
from dita.metrics.catalogue import METRICS, Metric, check_metrics
from dita.metrics.images import Picture, UnusablePicture, is_constant
from dita.metrics.picture_sets import Entry, PictureSet, batches, open_pictures, without_odd_sizes
from dita.miniature import judging
from dita.networks import Networks
from dita.output_files import try_folder
from dita.values import shown
from dita.version import __version__

SHOWN = 32
"""Pictures of each method in the report."""

NAMED = 5
"""Unusable pictures of a folder that are named."""


@dataclass(frozen=True)
class _Folder:
    """Pictures of one method that have a counterpart in all other folders, in the order of the plain ones."""

    name: str
    path: Path
    settings: Settings
    entries: dict[Key, dict[str, Any]]
    pictures: PictureSet

    @property
    def method(self) -> Method:
        return self.settings.built_method()


def compare_folders(
    folders: Sequence[tuple[str, str | os.PathLike[str]]],
    *,
    out: str | os.PathLike[str],
    overwrite: bool = False,
    metrics: Sequence[Metric] = (),
    networks: Networks | None = None,
    reference: str | os.PathLike[str] | None = None,
    console: Console | None = None,
    tell: Callable[[Comparison], None] | None = None,
) -> Comparison:
    """Compares the pictures of folders that `dita generate` made, and writes the report to the folder `out`.

    Args:
        folders: each with what the report calls it; an empty name stands for the folder's own method. The plain
            pipeline's is the one named `plain`, or else the one whose method is plain.
        out, overwrite, metrics, networks, reference: as of `dita.compare`.
        console: where it says what it does; None is the standard error stream.
        tell: told of the comparison before its report is written.

    Raises `FileNotFoundError` for a folder that is not of `dita generate`; `ValueError` where none or several are
    plain, where the folders share no id and seed, and where the prompts of a pair differ.
    """
    check_metrics(metrics)
    _check_pairs(folders)
    out = report.check_folder(Path(out), overwrite)
    try_folder("out", out)
    chosen = [METRICS[name] for name in ALWAYS]
    chosen += [metric for metric in metrics if metric.name not in ALWAYS]
    networks = networks or Networks()
    measured_by = measuring(chosen, networks, reference)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    opened = _paired(_plain_first([_opened(name, Path(path)) for name, path in folders]))
    plain = opened[0]
    with (console or Console(stderr=True)).status(f"measuring {len(opened)} x {len(plain.pictures)} pictures"):
        measured = measured_by([folder.pictures for folder in opened])
        shown, pictures = _shown(opened)
        results = [_result(folder, plain, found, shown) for folder, found in zip(opened, measured, strict=True)]
    comparison = Comparison(
        model=plain.settings.model,
        prompts=tuple(plain.entries[key]["prompt"] for key in shown),
        seeds=tuple(seed for _, seed in shown),
        steps=plain.settings.steps,
        batch=0,
        repeats=0,
        warmup=0,
        call=plain.settings.call,
        dtype=plain.settings.dtype,
        device=plain.settings.device,
        started=started,
        versions={**_facts(plain).get("versions", {}), "dita": __version__},
        machine={},
        results=tuple(results),
        reference=os.fspath(reference) if reference is not None else None,
        bundled=tuple(networks.bundled),
        folders=tuple(str(folder.path) for folder in opened),
        count=len(plain.pictures),
        notes=_notes(opened, measured),
    )
    if tell is not None:
        tell(comparison)
    report.write(comparison, pictures, out)
    return comparison


def _check_pairs(given: object) -> None:
    """Raises `ValueError` for what are no folders with names."""
    pairs = given if isinstance(given, (list, tuple)) else [None]
    if not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in pairs):
        raise ValueError(f"folders must be pairs of a name and a path, got {shown(given)}")


def _opened(name: str, path: Path) -> _Folder:
    entries, settings = read_manifest(path)
    if settings.format == "mp4":
        raise ValueError(f"folder {str(path)!r} holds videos, as mp4: pictures are compared, clips are not")
    pictures = without_odd_sizes(open_pictures(path))
    if not pictures.entries:
        raise ValueError(f"folder {str(path)!r} holds no pictures that can be used")
    return _Folder(name or numbered_label(settings.built_method()), path, settings, entries, pictures)


def _plain_first(folders: Sequence[_Folder]) -> list[_Folder]:
    names = [folder.name for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two folders are named {twice!r}: give one another name, as NAME=DIR")
    plain = [folder for folder in folders if folder.name == "plain"]
    plain = plain or [folder for folder in folders if isinstance(folder.method, Plain)]
    if len(plain) != 1:
        found = ", ".join(f"{folder.name} ({numbered_label(folder.method)})" for folder in folders)
        raise ValueError(
            f"one folder must hold the plain pipeline's pictures: name it plain=DIR; of {found},"
            f" {'several are' if plain else 'none is'} plain"
        )
    if len(folders) < 2:
        raise ValueError("there is nothing to compare the plain pictures with: give a second folder")
    return [*plain, *(folder for folder in folders if folder is not plain[0])]


def _paired(folders: Sequence[_Folder]) -> list[_Folder]:
    """The folders with those pictures alone that all of them have, and can be read."""
    plain = folders[0]
    for folder in folders[1:]:
        check_same_prompts(folder.pictures, plain.pictures)
    readable = [_readable(folder.pictures) for folder in folders]
    shared = [key for key in readable[0] if all(key in other for other in readable)]
    if not shared:
        listed = ", ".join(repr(str(folder.path)) for folder in folders)
        raise ValueError(f"no picture is in all of {listed}: ids and seeds must agree")
    return [
        dataclasses.replace(
            folder, pictures=dataclasses.replace(folder.pictures, entries=tuple(known[key] for key in shared))
        )
        for folder, known in zip(folders, readable, strict=True)
    ]


def _readable(pictures: PictureSet) -> dict[Key, Entry]:
    return {_key(entry): entry for entry in pictures.entries}


def _shown(folders: Sequence[_Folder]) -> tuple[list[Key], dict[str, list[Picture]]]:
    """The first keys whose pictures can be read in all folders, and the pictures by name.

    Raises `ValueError` for none.
    """
    keys: list[Key] = []
    pictures: dict[str, list[Picture]] = {folder.name: [] for folder in folders}
    for row in zip(*(folder.pictures.entries for folder in folders), strict=True):
        try:
            loaded = [entry.load() for entry in row]
        except UnusablePicture:  # the notes name it
            continue
        keys.append(_key(row[0]))
        for folder, picture in zip(folders, loaded, strict=True):
            pictures[folder.name].append(picture)
        if len(keys) == SHOWN:
            break
    if not keys:
        raise ValueError(f"no pictures of {str(folders[0].path)!r} and the others can be read")
    return keys, pictures


def _result(folder: _Folder, plain: _Folder, found: Sequence[Result], shown: Sequence[Key]) -> MethodResult:
    """What one folder is, beside the plain one; single pictures are told of for those that are shown."""
    compared = folder is not plain
    by_name = {result.metric: result for result in found}
    keys = [_key(entry) for entry in folder.pictures.entries]
    mine, theirs = ([float(one.entries[key]["seconds"]) for key in keys] for one in (folder, plain))
    each = {name: [by_name[name].each.get(key_text(key)) for key in shown] for name in ALWAYS if compared}
    tallied = None
    if models.is_bundled(folder.settings.model):
        tallied = judging.tally_of(_read(folder.pictures.entries))
    return MethodResult(
        label=folder.name,
        role=role(folder.method, folder.settings.steps) if compared else "the reference",
        method=folder.settings.method,
        step_kinds=(),
        seconds_per_image=spread(mine),
        speedup=spread([a / b for a, b in zip(theirs, mine, strict=True) if b] or [1.0]),
        tflops=None,
        tflops_scores=None,
        flops_ratio=None,
        token_share=None,
        cache_bytes=None,
        seconds_by_kind={},
        psnr=by_name["psnr"].value if compared else None,
        ssim=by_name["ssim"].value if compared else None,
        psnr_each=tuple(each.get("psnr", ())),
        ssim_each=tuple(each.get("ssim", ())),
        images=report.image_paths(folder.name, len(shown)),
        timings=(),
        judge=tallied,
        metrics=tuple(result for result in found if result.metric not in ALWAYS),
        constant=_constant(folder.pictures.entries),
    )


def _constant(entries: Sequence[Entry]) -> tuple[int, ...]:
    """The numbers of the pictures of one colour."""
    numbers = {entry.key: number for number, entry in enumerate(entries)}
    read = (pair for some in batches(entries, BATCH, []) for pair in zip(*some, strict=True))
    return tuple(numbers[entry.key] for entry, picture in read if is_constant(picture))


def _read(entries: Sequence[Entry]) -> Iterator[tuple[str, Picture]]:
    for chosen, pictures in batches(entries, BATCH, []):
        yield from ((entry.prompt or "", picture) for entry, picture in zip(chosen, pictures, strict=True))


def _key(entry: Entry) -> Key:
    return entry.id, int(entry.seed or 0)


def _notes(folders: Sequence[_Folder], measured: Sequence[Sequence[Result]]) -> tuple[str, ...]:
    """What a reader must know of how the folders were made, and of what was left out."""
    plain = folders[0]
    notes = []
    for folder in folders[1:]:
        same = dataclasses.replace(folder.settings, method=plain.settings.method)
        difference = plain.settings.difference(same)
        if difference is not None:
            notes.append(f"{folder.name} was made with other settings than {plain.name}: {difference}")
    for folder, found in zip(folders, measured, strict=True):
        left = len(folder.entries) - len(folder.pictures)
        if left:
            notes.append(f"{left} of {folder.path} are left out: not readable, or without a counterpart everywhere")
        notes += [f"{problem.name}: {problem.reason}" for problem in folder.pictures.problems[:NAMED]]
        alone = [_key_text(entry) for entry in folder.pictures.entries if not _is_compared(entry, folder, plain, found)]
        if alone:
            listed = ", ".join(alone[:NAMED]) + (", ..." if len(alone) > NAMED else "")
            notes.append(
                f"{len(alone)} of {folder.path} are not compared, as they or the plain ones are damaged or of another"
                f" size, or both of one colour: {listed}"
            )
    return tuple(notes)


def _is_compared(entry: Entry, folder: _Folder, plain: _Folder, found: Sequence[Result]) -> bool:
    each = next((result.each for result in found if result.metric == ALWAYS[0]), {})
    return folder is plain or _key_text(entry) in each


def _key_text(entry: Entry) -> str:
    return key_text(_key(entry))


def _facts(folder: _Folder) -> dict[str, Any]:
    """The first line of the manifest."""
    return next(iter(folder.entries.values()))
