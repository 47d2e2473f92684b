"""The main job: the same prompts and seeds through several methods, timed side by side, next to the plain pipeline."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import dita
from dita import comparison_journal, models, report
from dita.asking import asking, check_pipeline
from dita.caching.adapters import adapter_for
from dita.caching.attachment import transformer_of
from dita.caching.origin import warn_where_another
from dita.caching.selecting import check_cells
from dita.call_arguments import checked_call, cuts, for_json, listed, warn_of_cuts
from dita.clips import is_clip
from dita.comparison import ALWAYS, Comparison, MethodResult, Spread, from_json, numbered_label, role, spread
from dita.comparison_journal import Journal
from dita.fitting import with_store
from dita.freed_memory import keeps_freed_memory
from dita.generation.sampling import silenced
from dita.measurement import (
    NO_PAIRS,
    Result,
    measure,
    measure_pairs,
    open_reference,
    references_of,
    results_of,
)
from dita.methods import Method, MethodLike, Plain, ToCa, saved_methods
from dita.metrics import average, psnr, ssim
from dita.metrics.catalogue import Metric, Need, check_metrics
from dita.metrics.distribution import Sample
from dita.metrics.fidelity import Pictures, Values
from dita.metrics.images import is_constant
from dita.metrics.picture_sets import PictureSet, from_memory
from dita.metrics.video import per_frame, temporal_flicker
from dita.miniature import judging
from dita.networks import Networks
from dita.output_files import try_folder
from dita.stores import Store
from dita.timed_calls import ENGINE_FREE, WARM_UP, Call, Calls, Counted, Timing
from dita.values import LARGEST_SEED, shown, whole
from dita.version import __version__

__all__ = ["Comparison", "MethodResult", "Spread", "Timing", "compare", "from_json", "measuring", "numbered_label"]


def compare(
    model: str | os.PathLike[str] | Any,
    methods: Sequence[MethodLike],
    prompts: Sequence[str],
    *,
    out: str | os.PathLike[str],
    steps: int | None = None,
    seeds: int | Sequence[int] = 0,
    batch: int = 1,
    repeats: int = 1,
    warmup: int = 1,
    call: Mapping[str, Any] | None = None,
    name: str | None = None,
    overwrite: bool = False,
    metrics: Sequence[Metric] = (),
    networks: Networks | None = None,
    reference: str | os.PathLike[str] | None = None,
    store: Store | None = None,
    console: Console | None = None,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[Comparison], None] | None = None,
) -> Comparison:
    """Make the pictures of `prompts` with each method, and write the report to the folder `out`.

    Every method gets the same initial latents: one generator a prompt, so a picture does not depend on its batch. For
    each batch all methods run in turn, in an order that rotates, after `warmup` untimed calls each. The plain pipeline
    is always among the methods; it and `steps:x` are timed with nothing attached. A method that was enabled on the
    pipeline before is replaced; afterwards the pipeline is plain.

    Pictures are written into `out/unfinished` as they are drawn, and timings as soon as a batch has gone through all
    methods. Where a comparison is interrupted, by whatever, the same call goes on: what was drawn and timed is kept,
    methods are warmed up again, and a batch that was interrupted is drawn and timed again by all of them.

    On a CPU, page faults can be a third of the plain pipeline's time. `dita compare` avoids them by a setting of the
    whole process, `dita.freed_memory.keep_freed_memory`; this function leaves that to its caller.

    Args:
        model: a bundled name, a local folder or a hub id (`dita.models.load`), or a pipeline.
        methods: methods, their short forms such as `toca:4:0.9`, or paths of their files, with a warning of everything
            in which the model or its calls are not what a file was made for.
        out: an empty or new folder; one of an earlier comparison, whose files are replaced once all is measured; or
            that of an interrupted one with the same settings, which goes on.
        steps: denoising steps of the plain pipeline; None is the model's default, or 28.
        seeds: one for each prompt, or the first of consecutive ones.
        batch: prompts in one pipeline call.
        repeats: timed calls of each method and batch.
        call: more arguments for the pipeline calls, such as `height`; they win over the model's defaults.
        name: what to call the model in the report.
        overwrite: write into `out` whatever else it holds, and start over where a comparison with other settings was
            interrupted.
        metrics: further ones of `dita.metrics.catalogue.METRICS`; PSNR and SSIM are always there.
        networks: where their networks come from.
        reference: real pictures, or a `.npz` with statistics, for metrics of distributions.
        store: how the methods keep features.
        console: where progress bars go; None is the standard error stream.
        clock: seconds from any origin.
        tell: told of the comparison before its report is written.

    Raises, before anything is drawn, `ValueError` for arguments outside their range, methods that do not fit the model,
    and an interrupted comparison with other settings; `FileExistsError` for an `out` that holds other files. Raises
    `OSError` where there is no room to write; what was drawn until then is kept.
    """
    saved = saved_methods(methods)
    chosen = _with_plain_first([one.method for one in saved])
    check_metrics(metrics)
    prompts = tuple(listed("prompts", prompts))
    seeds = _checked_seeds(seeds, len(prompts))
    _check(prompts, seeds, batch=batch, repeats=repeats, warmup=warmup)
    out = report.check_folder(Path(out), overwrite, resumes=True)
    try_folder("out", out)
    arguments: dict[str, Any] = {}
    if isinstance(model, (str, os.PathLike)):
        name = name or str(model)
        model, arguments = models.load(model)
    check_pipeline(model)
    arguments = {**arguments, **(call or {})}
    default_steps = arguments.pop("num_inference_steps", 28)
    steps = whole("steps", default_steps if steps is None else steps)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

    name = name or getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
    arguments = checked_call(model, arguments, steps)
    warn_of_cuts(cuts(model, enumerate(prompts), arguments))
    for one in saved:
        warn_where_another(one, model, {**arguments, "num_inference_steps": steps})
    job = Calls(model, prompts, seeds, steps, batch, arguments, store)
    asking(model, prompts)  # refuses what is the name of no class
    _check_methods(job, chosen)
    measured_by = measuring([m for m in metrics if m.name not in ALWAYS], networks, reference)
    blank = Comparison(
        model=name,
        prompts=prompts,
        seeds=seeds,
        steps=steps,
        batch=batch,
        repeats=repeats,
        warmup=warmup,
        call=for_json(arguments),
        dtype=str(getattr(model, "dtype", "unknown")).removeprefix("torch."),
        device=str(getattr(model, "_execution_device", getattr(model, "device", "cpu"))),
        started="",
        versions=_versions(),
        machine=_machine(),
        results=(),
        reference=os.fspath(reference) if reference is not None else None,
        bundled=tuple(networks.bundled) if networks else (),
        store=None if store in (None, Store()) else dataclasses.asdict(store),
    )
    with comparison_journal.opened(out, _settings(blank, job, chosen), overwrite=overwrite) as journal:
        calls = _run(job, chosen, repeats, warmup, clock, console or Console(stderr=True), journal)
        pictures = {numbered_label(method): _pictures(calls[method]) for method in chosen}
        tallies = judging.tallies(pictures, prompts) if models.is_bundled(name) else {}
        stills = {label: [_still(one) for one in group] for label, group in pictures.items()}
        broken = {numbered_label(method): set(_broken(calls[method], job)) for method in chosen}
        sets = [_whole(from_memory(label, some, prompts, seeds), broken[label]) for label, some in stills.items()]
        measured = measured_by(sets)
        first = pictures[numbered_label(chosen[0])][0]
        results = (
            dataclasses.replace(_result(method, calls, job), judge=tallies.get(numbered_label(method)), metrics=found)
            for method, found in zip(chosen, measured, strict=True)
        )
        comparison = dataclasses.replace(
            blank,
            started=journal.started[0],
            results=tuple(results),
            frames=len(first) if is_clip(first) else 0,
            bundled=tuple(networks.bundled) if networks else (),
            notes=_interruptions(calls, journal),
        )
        if tell is not None:
            tell(comparison)
        report.write(comparison, pictures, out, drawn=journal.images)
        journal.finish()
    return comparison


Measuring = Callable[[Sequence[PictureSet]], list[tuple[Result, ...]]]


def measuring(
    metrics: Sequence[Metric], networks: Networks | None, reference: str | os.PathLike[str] | None
) -> Measuring:
    """What measures the pictures of all methods, plain first, once everything that it needs is known to be there.

    Raises `ValueError` where a network is nowhere, or a metric of distributions has no reference.
    """
    networks = networks or Networks()
    networks.locate(metrics)
    needing = [metric.name for metric in metrics if metric.kind == "distribution"]
    if needing and reference is None:
        raise ValueError(f"{needing[0]} needs --reference: a folder of real pictures, or a .npz with mu and sigma")
    references: dict[Need, Sample] = {}
    if needing and reference is not None:
        references, _ = references_of(*open_reference(Path(reference)), metrics, networks)

    def measured(sets: Sequence[PictureSet]) -> list[tuple[Result, ...]]:
        if not metrics:
            return [()] * len(sets)
        plain = measure(sets[0], metrics, networks) if sets[0].entries else None
        alone = [metric for metric in metrics if metric.kind != "paired"]
        results = [() if plain is None else results_of(alone, plain, None, NO_PAIRS, references)]
        for one in sets[1:]:
            if not one.entries:  # all of them broken
                results.append(())
                continue
            chosen = alone if plain is None else metrics
            pairs = measure_pairs(one, sets[0], chosen, networks)
            results.append(results_of(chosen, measure(one, metrics, networks), plain, pairs, references))
        return results

    return measured


def _settings(blank: Comparison, job: Calls, methods: Sequence[Method]) -> dict[str, Any]:
    """All that the pictures and their timings come from: what a comparison must agree in with the one it goes on."""
    data = blank.as_json()
    same = ("model", "steps", "batch", "repeats", "warmup", "call", "dtype", "store", "prompts", "seeds")
    packages = {name: version for name, version in blank.versions.items() if name != "python"}
    machine = {name: value for name, value in blank.machine.items() if name != "platform"}
    return {
        **{name: data[name] for name in same},
        "methods": [method.as_json() for method in methods],
        "device": blank.device.partition(":")[0],
        "weights": models.fingerprint(job.pipe),
        "versions": packages,
        "machine": machine,
    }


def _check_methods(job: Calls, methods: Sequence[Method]) -> None:
    """Raises, before anything is drawn, what the engine would say of a method on this model: of its family, of the
    number of steps, of the size of the pictures, or of what is on the transformer already."""
    if isinstance(job.pipe, DiffusionPipeline):
        family = adapter_for(transformer_of(job.pipe)).family
        for method in methods:
            method.check_family(family)
        shape = models.shape_of(job.pipe, job.arguments, min(job.batch, len(job.prompts)))
        device = torch.device(getattr(job.pipe, "_execution_device", "cpu")).type
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the runs will say it
            if shape is not None:
                for method in methods:
                    with_store(method.on(device).plan(shape, job.steps), job.store or Store())
                    if isinstance(method.caching, ToCa):
                        check_cells(method.caching, family, shape.grid)
    for method in methods:
        dita.enable(job.pipe, method, store=job.store)
        dita.disable(job.pipe)


def _run(
    job: Calls,
    methods: Sequence[Method],
    repeats: int,
    warmup: int,
    clock: Callable[[], float],
    console: Console,
    journal: Journal,
) -> dict[Method, list[Call]]:
    """All calls by method: the warm-up first (its timing has `repeat` -1), then the timed ones in order.

    Rounds that the journal holds are not made again; the others are noted there.
    """
    labels = {method: numbered_label(method) for method in methods}
    rounds = list(itertools.product(range(repeats), range(len(job.batches))))
    made = {one: kept for one in rounds if set(kept := journal.rounds.get(one, {})) == set(labels.values())}
    warm_ups = journal.warm_ups
    missing = [(turn, one) for turn, one in enumerate(rounds) if one not in made]
    if made:
        console.print(f"going on: {len(made)} of {len(rounds)} batches were drawn and timed before", highlight=False)
    if missing or set(warm_ups) != set(labels.values()):
        journal.begin()
        warm = list(itertools.product(methods, _sizes(job), range(warmup)))
        with silenced(job.pipe), _progress(console) as progress:
            total = len(warm) + len(rounds) * len(methods)
            bar = progress.add_task("", total=total, completed=len(made) * len(methods))
            warm_ups = {label: [] for label in labels.values()}
            for method, index, _ in warm:
                progress.update(bar, description=f"warm-up, {labels[method]}")
                timing = Timing(WARM_UP, index, 0, 0, 0.0, run=journal.run)
                warm_ups[labels[method]].append(job.timed(method, timing, clock, attach=True))
                progress.advance(bar)
            journal.keep_warm_ups(warm_ups)
            for turn, (repeat, index) in missing:
                first = turn % len(methods)
                calls: dict[str, Call] = {}
                for position, method in enumerate([*methods[first:], *methods[:first]]):
                    progress.update(bar, description=f"batch {turn + 1} of {len(rounds)}, {labels[method]}")
                    timing = Timing(repeat, index, position, 0, 0.0, run=journal.run)
                    call = job.timed(method, timing, clock, attach=not isinstance(method, ENGINE_FREE))
                    calls[labels[method]] = call
                    journal.keep_pictures(labels[method], job.batches[index].start, call.pictures)
                    progress.advance(bar)
                journal.keep_round((repeat, index), calls)
                made[repeat, index] = calls
            progress.update(bar, description="done")
    return {method: [*warm_ups[label], *(made[one][label] for one in rounds)] for method, label in labels.items()}


def _sizes(job: Calls) -> list[int]:
    """The first batch of each size."""
    return list({batch.stop - batch.start: i for i, batch in reversed(list(enumerate(job.batches)))}.values())


def _interruptions(calls: Mapping[Method, Sequence[Call]], journal: Journal) -> tuple[str, ...]:
    """What a reader must know of a comparison that was made in several runs."""
    runs = sorted({c.timing.run for some in calls.values() for c in some if c.timing.repeat != WARM_UP})
    if len(runs) < 2:
        return ()
    started = ", ".join(journal.started[run] for run in runs)
    return (
        f"interrupted and resumed: drawn in {len(runs)} runs, which began {started}. All calls for one batch and repeat"
        " are of one run, each behind a warm-up of its own, so that speed-ups compare what ran side by side; seconds of"
        " different runs stand beside each other in the medians",
    )


def _still(picture: np.ndarray) -> np.ndarray:
    """A picture itself; of a clip the frame in its middle, for metrics of pictures."""
    return picture[len(picture) // 2] if is_clip(picture) else picture


def _fidelity(metric: Callable[[Pictures, Pictures], Values], made: np.ndarray, plain: np.ndarray) -> float:
    """`metric` of a picture with the plain one; of clips, the mean over their frames."""
    return float(per_frame(made, plain, metric).mean() if is_clip(made) else metric(made, plain))


def _progress(console: Console) -> Progress:
    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description:<34}"), BarColumn(), *columns, console=console)


def _result(method: Method, calls: Mapping[Method, Sequence[Call]], job: Calls) -> MethodResult:
    plain = next(m for m in calls if isinstance(m, Plain))
    timed = [call.timing for call in calls[method] if call.timing.repeat >= 0]
    reference = {(t.repeat, t.batch): t.seconds for t in (c.timing for c in calls[plain]) if t.repeat >= 0}
    attached = [(call.timing.images, call.counted) for call in calls[method] if call.counted is not None]
    images, counted = attached[-1]
    flops, score_flops = _flops_per_image(counted, images)
    plain_flops = next(sum(_flops_per_image(c.counted, c.timing.images)) for c in calls[plain] if c.counted is not None)
    compared = method != plain
    pictures, originals = _pictures(calls[method]), _pictures(calls[plain])
    broken = _broken(calls[method], job)
    constant = [i for i, one in enumerate(pictures) if i not in broken and is_constant(one)]
    unlike = {*broken, *_broken(calls[plain], job)} | {i for i in constant if is_constant(originals[i])}
    pairs = [None if i in unlike else one for i, one in enumerate(zip(pictures, originals, strict=True))]
    psnr_each = [None if pair is None else _fidelity(psnr, *pair) for pair in pairs if compared]
    ssim_each = [None if pair is None else _fidelity(ssim, *pair) for pair in pairs if compared]
    clips = [one for i, one in enumerate(pictures) if is_clip(one) and len(one) > 1 and i not in broken]
    return MethodResult(
        label=numbered_label(method),
        role=role(method, job.steps),
        method=method.as_json(),
        step_kinds=counted.kinds,
        seconds_per_image=spread([t.seconds / t.images for t in timed]),
        speedup=spread([reference[t.repeat, t.batch] / t.seconds for t in timed]),
        tflops=(flops + score_flops) / 1e12,
        tflops_scores=score_flops / 1e12,
        flops_ratio=plain_flops / (flops + score_flops),
        token_share=counted.token_share,
        cache_bytes=max(one.cache_bytes for _, one in attached),
        seconds_by_kind={kind: statistics.median(times) for kind, times in counted.seconds.items() if times},
        psnr=average([value for value in psnr_each if value is not None]) if compared else None,
        ssim=average([value for value in ssim_each if value is not None]) if compared else None,
        psnr_each=tuple(value if value is not None and np.isfinite(value) else None for value in psnr_each),
        ssim_each=tuple(ssim_each),
        images=report.image_paths(numbered_label(method), len(job.prompts)),
        timings=tuple(timed),
        flicker=average([temporal_flicker(clip) for clip in clips]) if clips else None,
        previews=report.image_paths(numbered_label(method), len(job.prompts), "gif") if is_clip(pictures[0]) else (),
        broken=tuple(broken),
        constant=tuple(constant),
    )


def _flops_per_image(counted: Counted, images: int) -> tuple[float, float]:
    """FLOPs of the executed steps without the scores and matchings, and of these."""
    return counted.flops / images, (counted.score_flops + counted.matching_flops) / images


def _pictures(calls: Sequence[Call]) -> list[np.ndarray]:
    """The pictures of the first timed repeat, in the order of the prompts."""
    first = sorted((c for c in calls if c.timing.repeat == 0), key=lambda call: call.timing.batch)
    return [picture for call in first for picture in call.pictures]


def _broken(calls: Sequence[Call], job: Calls) -> list[int]:
    """The numbers of the pictures of the first timed repeat that were made of NaN or infinity."""
    first = (call for call in calls if call.timing.repeat == 0)
    return sorted(job.batches[call.timing.batch].start + number for call in first for number in call.broken)


def _whole(pictures: PictureSet, broken: set[int]) -> PictureSet:
    """The set without the pictures of these numbers."""
    kept = tuple(entry for number, entry in enumerate(pictures.entries) if number not in broken)
    return dataclasses.replace(pictures, entries=kept)


def _with_plain_first(methods: Sequence[Method]) -> list[Method]:
    labels = [numbered_label(method) for method in methods]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"methods must differ from each other, got more than once: {', '.join(twice)}")
    return [Plain(), *(method for method in methods if not isinstance(method, Plain))]


def _checked_seeds(given: object, count: int) -> tuple[int, ...]:
    """The seeds of `count` pictures: those that are given, or counted up from the first one."""
    if isinstance(given, (list, tuple, range)):
        return tuple(whole("each of the seeds", seed, 0, LARGEST_SEED) for seed in given)
    first = whole("seeds", given, 0, LARGEST_SEED - count)
    return tuple(range(first, first + count))


def _check(prompts: Sequence[str], seeds: Sequence[int], **counts: int) -> None:
    if not prompts:
        raise ValueError("there are no prompts: give at least one")
    for prompt in prompts:
        if not (isinstance(prompt, str) and prompt.strip()):
            raise ValueError(f"each of the prompts must be a text that is not empty, got {shown(prompt)}")
    if len(seeds) != len(prompts):
        raise ValueError(f"there must be one seed for each prompt, got {len(seeds)} seeds for {len(prompts)} prompts")
    for name, value in counts.items():
        if whole(name, value) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _versions() -> dict[str, str]:
    found = {"dita": __version__, "python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "keeps freed memory": keeps_freed_memory(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
