"""The main job: the same prompts and seeds through several methods, timed side by side, next to the plain pipeline."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import dita
from dita import models, report
from dita.asking import asking
from dita.clips import is_clip
from dita.freed_memory import keeps_freed_memory
from dita.measurement import (
    NO_PAIRS,
    Result,
    measure,
    measure_pairs,
    open_reference,
    references_of,
    result_from_json,
    results_of,
)
from dita.methods import Composition, FewerSteps, Method, MethodLike, Plain, as_method
from dita.metrics import Average, average, psnr, ssim
from dita.metrics.catalogue import Metric, Need
from dita.metrics.distribution import Sample
from dita.metrics.efficiency import Meter
from dita.metrics.fidelity import Pictures, Values
from dita.metrics.picture_sets import PictureSet, from_memory
from dita.metrics.video import per_frame, temporal_flicker
from dita.miniature import judging
from dita.miniature.judge.tally import Tally
from dita.miniature.judge.tally import from_json as tally_from_json
from dita.networks import Networks
from dita.stores import Store
from dita.version import __version__

ENGINE_FREE = (Plain, FewerSteps)  # timed with nothing attached to the pipeline
ALWAYS = ("psnr", "ssim")  # columns of their own


@dataclass(frozen=True)
class Spread:
    """The median of `count` measurements between their quartiles."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Timing:
    """One timed pipeline call: wall-clock `seconds` for `images` pictures, as number `position` in its round.

    `peak_bytes` and `joules` are those of `dita.metrics.efficiency.Meter`, None where nothing reports them.
    """

    repeat: int
    batch: int
    position: int
    images: int
    seconds: float
    peak_bytes: int | None = None
    joules: float | None = None


@dataclass(frozen=True)
class MethodResult:
    """What one method cost and how close its pictures are to those of the plain pipeline.

    FLOPs are of the transformer calls that ran, for one picture; `tflops` includes `tflops_scores`, which are
    those of scoring tokens, and of matching the ones that are merged. `cache_bytes` is
    the measured peak, of the largest batch. `speedup` is of seconds, from pairs of calls for the same batch.
    `seconds_by_kind` is the median of one transformer call in each kind of step. `psnr_each` is in dB, None where the
    pictures are identical. `images` are paths relative to the results, in the order of the prompts. `judge` tells how
    many pictures show what their prompts say; only bundled models have it, for prompts of the shapes world. `metrics`
    are the further ones that were asked for.

    Of clips, PSNR and SSIM are means over the frames, `flicker` is `dita.metrics.video.temporal_flicker`, `images` are
    film strips and `previews` animations.

    Of pictures that were there already (`Comparison.folders`), nobody counted steps, FLOPs and bytes: they are None,
    and seconds are those that the folder's manifest notes.
    """

    label: str
    role: str
    method: dict[str, Any]
    step_kinds: tuple[str, ...]
    seconds_per_image: Spread
    speedup: Spread
    tflops: float | None
    tflops_scores: float | None
    flops_ratio: float | None
    token_share: float | None
    cache_bytes: int | None
    seconds_by_kind: dict[str, float]
    psnr: Average | None
    ssim: Average | None
    psnr_each: tuple[float | None, ...]
    ssim_each: tuple[float, ...]
    images: tuple[str, ...]
    timings: tuple[Timing, ...]
    judge: Tally | None = None
    metrics: tuple[Result, ...] = ()
    flicker: Average | None = None
    previews: tuple[str, ...] = ()

    @property
    def images_per_second(self) -> float:
        """From the median of seconds."""
        return 1 / self.seconds_per_image.median

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that any timed call held, where it was measured."""
        return max((t.peak_bytes for t in self.timings if t.peak_bytes is not None), default=None)

    @property
    def joules_per_image(self) -> float | None:
        """The median over timed calls, where the device reports it."""
        found = [t.joules / t.images for t in self.timings if t.joules is not None]
        return statistics.median(found) if found else None

    @property
    def steps(self) -> str:
        """The steps that ran, counted by kind: `9F+19p` is nine full and nineteen partial ones."""
        counts = {kind: self.step_kinds.count(kind) for kind in dict.fromkeys(self.step_kinds)}
        return "+".join(f"{count}{'F' if kind == 'full' else kind[0]}" for kind, count in counts.items())


@dataclass(frozen=True)
class Comparison:
    """Everything that one comparison measured, plain pipeline first: data that goes to JSON and comes back.

    `frames` is 0 for a pipeline that makes pictures, and the number of frames of its clips for one that makes videos,
    where an "image" of the other fields is a clip.
    `folders` are those that the pictures were read from, in the order of the results; empty where the comparison made
    them itself. Then `prompts` and `seeds` are of the pictures that the report shows, out of `count` of each method.
    """

    model: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    batch: int
    repeats: int
    warmup: int
    call: dict[str, Any]
    dtype: str
    device: str
    started: str
    versions: dict[str, str]
    machine: dict[str, Any]
    results: tuple[MethodResult, ...]
    reference: str | None = None
    bundled: tuple[str, ...] = ()
    frames: int = 0
    folders: tuple[str, ...] = ()
    count: int | None = None
    notes: tuple[str, ...] = ()
    store: dict[str, Any] | None = None

    @property
    def pictures(self) -> int:
        """Of each method."""
        return len(self.prompts) if self.count is None else self.count

    @property
    def makes(self) -> str:
        """What one call makes of a prompt: `image` or `clip`."""
        return "clip" if self.frames else "image"

    @property
    def a_picture(self) -> str:
        """`makes` with its article."""
        return "a clip" if self.frames else "an image"

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; `from_json` reads it back."""
        return dataclasses.asdict(self)


def from_json(data: Mapping[str, Any]) -> Comparison:
    """The comparison that `Comparison.as_json` wrote."""
    fields = dict(data)
    fields["results"] = tuple(_result_from_json(result) for result in data["results"])
    for key in ("prompts", "seeds", "bundled", "folders", "notes"):
        fields[key] = tuple(data.get(key, ()))
    return Comparison(**fields)


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
) -> Comparison:
    """Make the pictures of `prompts` with each method, and write the report to the folder `out`.

    Every method gets the same initial latents: one generator a prompt, so a picture does not depend on its batch. For
    each batch all methods run in turn, in an order that rotates, after `warmup` untimed calls each. The plain pipeline
    is always among the methods; it and `steps:x` are timed with nothing attached. A method that was enabled on the
    pipeline before is replaced; afterwards the pipeline is plain.

    On a CPU, page faults can be a third of the plain pipeline's time. `dita compare` avoids them by a setting of the
    whole process, `dita.freed_memory.keep_freed_memory`; this function leaves that to its caller.

    Args:
        model: a bundled name, a local folder or a hub id (`dita.models.load`), or a pipeline.
        methods: methods or their short forms, such as `toca:4:0.9`.
        out: an empty or new folder, or one of an earlier comparison, whose files are replaced once all is measured.
        steps: denoising steps of the plain pipeline; None is the model's default, or 28.
        seeds: one for each prompt, or the first of consecutive ones.
        batch: prompts in one pipeline call.
        repeats: timed calls of each method and batch.
        call: more arguments for the pipeline calls, such as `height`; they win over the model's defaults.
        name: what to call the model in the report.
        overwrite: write into `out` whatever else it holds.
        metrics: further ones of `dita.metrics.catalogue.METRICS`; PSNR and SSIM are always there.
        networks: where their networks come from.
        reference: real pictures, or a `.npz` with statistics, for metrics of distributions.
        store: how the methods keep features.
        console: where progress bars go; None is the standard error stream.
        clock: seconds from any origin.

    Raises `ValueError` for arguments outside their range, and `FileExistsError` for an `out` that holds other files.
    """
    chosen = _with_plain_first([as_method(method) for method in methods])
    prompts = tuple(prompts)
    seeds = tuple(range(seeds, seeds + len(prompts))) if isinstance(seeds, int) else tuple(seeds)
    _check(prompts, seeds, batch=batch, repeats=repeats, warmup=warmup)
    out = report.check_folder(Path(out), overwrite)
    arguments: dict[str, Any] = {}
    if isinstance(model, (str, os.PathLike)):
        name = name or str(model)
        model, arguments = models.load(model)
    arguments = {**arguments, **(call or {})}
    default_steps = arguments.pop("num_inference_steps", 28)
    steps = default_steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

    measured_by = measuring([m for m in metrics if m.name not in ALWAYS], networks, reference)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    job = _Job(model, prompts, seeds, steps, batch, arguments, store)
    calls = _run(job, chosen, repeats, warmup, clock, console or Console(stderr=True))
    name = name or getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
    pictures = {numbered_label(method): _pictures(calls[method]) for method in chosen}
    tallies = judging.tallies(pictures, prompts) if models.is_bundled(name) else {}
    stills = {label: [_still(one) for one in group] for label, group in pictures.items()}
    measured = measured_by([from_memory(label, group, prompts, seeds) for label, group in stills.items()])
    first = pictures[numbered_label(chosen[0])][0]
    comparison = Comparison(
        model=name,
        prompts=prompts,
        seeds=seeds,
        steps=steps,
        batch=batch,
        repeats=repeats,
        warmup=warmup,
        call=arguments,
        dtype=str(getattr(model, "dtype", "unknown")).removeprefix("torch."),
        device=str(getattr(model, "_execution_device", getattr(model, "device", "cpu"))),
        started=started,
        versions=_versions(),
        machine=_machine(),
        results=tuple(
            dataclasses.replace(_result(method, calls, job), judge=tallies.get(numbered_label(method)), metrics=found)
            for method, found in zip(chosen, measured, strict=True)
        ),
        reference=os.fspath(reference) if reference is not None else None,
        bundled=tuple(networks.bundled) if networks else (),
        frames=len(first) if is_clip(first) else 0,
        store=None if store in (None, Store()) else dataclasses.asdict(store),
    )
    report.write(comparison, pictures, out)
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
        plain = measure(sets[0], metrics, networks)
        alone = [metric for metric in metrics if metric.kind != "paired"]
        results = [results_of(alone, plain, None, NO_PAIRS, references)]
        for one in sets[1:]:
            pairs = measure_pairs(one, sets[0], metrics, networks)
            results.append(results_of(metrics, measure(one, metrics, networks), plain, pairs, references))
        return results

    return measured


@dataclass(frozen=True)
class _Job:
    pipe: Any
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    batch: int
    arguments: dict[str, Any]
    store: Store | None = None

    @property
    def batches(self) -> list[slice]:
        return [slice(i, min(i + self.batch, len(self.prompts))) for i in range(0, len(self.prompts), self.batch)]


@dataclass(frozen=True)
class _Call:
    """One pipeline call: its pictures as uint8 (H, W, 3), or clips (T, H, W, 3), in the first timed repeat, and the
    summary of the engine where it was attached."""

    timing: Timing
    pictures: list[np.ndarray]
    summary: Any


def _run(
    job: _Job, methods: Sequence[Method], repeats: int, warmup: int, clock: Callable[[], float], console: Console
) -> dict[Method, list[_Call]]:
    """All calls by method: the warm-up first (its timing has `repeat` -1), then the timed ones in order."""
    calls: dict[Method, list[_Call]] = {method: [] for method in methods}
    sizes = {batch.stop - batch.start: i for i, batch in reversed(list(enumerate(job.batches)))}
    warm_ups = list(itertools.product(methods, sizes.values(), range(warmup)))
    rounds = list(itertools.product(range(repeats), range(len(job.batches))))
    with _silenced(job.pipe), _progress(console) as progress:
        bar = progress.add_task("", total=len(warm_ups) + len(rounds) * len(methods))
        for method, index, _ in warm_ups:
            progress.update(bar, description=f"warm-up, {numbered_label(method)}")
            calls[method].append(_timed_call(job, method, Timing(-1, index, 0, 0, 0.0), clock, attach=True))
            progress.advance(bar)
        for turn, (repeat, index) in enumerate(rounds):
            first = turn % len(methods)
            for position, method in enumerate([*methods[first:], *methods[:first]]):
                progress.update(bar, description=f"batch {turn + 1} of {len(rounds)}, {numbered_label(method)}")
                attach = not isinstance(method, ENGINE_FREE)
                timing = Timing(repeat, index, position, 0, 0.0)
                calls[method].append(_timed_call(job, method, timing, clock, attach=attach))
                progress.advance(bar)
        progress.update(bar, description="done")
    return calls


def _timed_call(job: _Job, method: Method, timing: Timing, clock: Callable[[], float], *, attach: bool) -> _Call:
    chosen = job.batches[timing.batch]
    prompts = list(job.prompts[chosen])
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in job.seeds[chosen]]
    stock = isinstance(method, ENGINE_FREE)
    if attach:
        dita.enable(job.pipe, Plain() if stock else method, store=job.store)
    try:
        with Meter(getattr(job.pipe, "_execution_device", "cpu")) as meter:
            _synchronise()
            start = clock()
            made = job.pipe(
                **asking(job.pipe, prompts),
                num_inference_steps=method.run_steps(job.steps) if stock else job.steps,
                generator=generators,
                output_type="pil",
                **job.arguments,
            )
            _synchronise()
            seconds = clock() - start
        summary = dita.summary(job.pipe, show=False) if attach else None
    finally:
        if attach:
            dita.disable(job.pipe)
    if hasattr(made, "images"):
        pictures = [np.asarray(image.convert("RGB")) for image in made.images]
    else:
        pictures = [np.stack([np.asarray(frame.convert("RGB")) for frame in clip]) for clip in made.frames]
    timing = dataclasses.replace(
        timing, images=len(pictures), seconds=seconds, peak_bytes=meter.peak_bytes, joules=meter.joules
    )
    return _Call(timing, pictures if timing.repeat == 0 else [], summary)


def _still(picture: np.ndarray) -> np.ndarray:
    """A picture itself; of a clip the frame in its middle, for metrics of pictures."""
    return picture[len(picture) // 2] if is_clip(picture) else picture


def _fidelity(metric: Callable[[Pictures, Pictures], Values], made: np.ndarray, plain: np.ndarray) -> float:
    """`metric` of a picture with the plain one; of clips, the mean over their frames."""
    return float(per_frame(made, plain, metric).mean() if is_clip(made) else metric(made, plain))


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def _silenced(pipe: Any) -> Iterator[None]:
    """Without the pipeline's own progress bar of steps, which would break into ours."""
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)


def _progress(console: Console) -> Progress:
    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description:<34}"), BarColumn(), *columns, console=console)


def _result(method: Method, calls: Mapping[Method, Sequence[_Call]], job: _Job) -> MethodResult:
    plain = next(m for m in calls if isinstance(m, Plain))
    timed = [call.timing for call in calls[method] if call.timing.repeat >= 0]
    reference = {(t.repeat, t.batch): t.seconds for t in (c.timing for c in calls[plain]) if t.repeat >= 0}
    attached = [call for call in calls[method] if call.summary is not None]
    summary = attached[-1].summary
    flops, score_flops = _flops_per_image(attached[-1])
    plain_flops = sum(_flops_per_image(calls[plain][0]))
    compared = method != plain
    pairs = list(zip(_pictures(calls[method]), _pictures(calls[plain]), strict=True)) if compared else []
    psnr_each = [_fidelity(psnr, picture, original) for picture, original in pairs]
    ssim_each = [_fidelity(ssim, picture, original) for picture, original in pairs]
    clips = [picture for picture in _pictures(calls[method]) if is_clip(picture) and len(picture) > 1]
    return MethodResult(
        label=numbered_label(method),
        role=role(method, job.steps),
        method=method.as_json(),
        step_kinds=tuple(kind.value for kind in summary.kinds),
        seconds_per_image=spread([t.seconds / t.images for t in timed]),
        speedup=spread([reference[t.repeat, t.batch] / t.seconds for t in timed]),
        tflops=(flops + score_flops) / 1e12,
        tflops_scores=score_flops / 1e12,
        flops_ratio=plain_flops / (flops + score_flops),
        token_share=summary.token_share,
        cache_bytes=max(call.summary.cache_bytes for call in attached),
        seconds_by_kind={kind.value: statistics.median(times) for kind, times in summary.seconds.items() if times},
        psnr=average(psnr_each) if compared else None,
        ssim=average(ssim_each) if compared else None,
        psnr_each=tuple(value if np.isfinite(value) else None for value in psnr_each),
        ssim_each=tuple(ssim_each),
        images=report.image_paths(numbered_label(method), len(job.prompts)),
        timings=tuple(timed),
        flicker=average([temporal_flicker(clip) for clip in clips]) if clips else None,
        previews=report.image_paths(numbered_label(method), len(job.prompts), "gif") if clips else (),
    )


def _flops_per_image(call: _Call) -> tuple[float, float]:
    """FLOPs of the executed steps without the scores and matchings, and of these."""
    chosen = call.summary.score_flops + call.summary.matching_flops
    return call.summary.flops / call.timing.images, chosen / call.timing.images


def _pictures(calls: Sequence[_Call]) -> list[np.ndarray]:
    """The pictures of the first timed repeat, in the order of the prompts."""
    first = sorted((c for c in calls if c.timing.repeat == 0), key=lambda call: call.timing.batch)
    return [picture for call in first for picture in call.pictures]


def numbered_label(method: Method) -> str:
    """What a comparison calls a method: the short form with all leading numbers, defaults too."""
    if isinstance(method, Composition):
        return "+".join(numbered_label(part) for part in method.methods)
    name, *parts = method.label().split(":")
    given = [part for part in parts if "=" not in part]
    numbers = [str(value) for f in method.positional if isinstance(value := getattr(method, f), (int, float))]
    return ":".join([name, *given, *numbers[len(given) :], *parts[len(given) :]])


def role(method: Method, steps: int) -> str:
    """What part a method plays in the comparison, where it is not one of the caches under test."""
    if isinstance(method, Plain):
        return "the reference"
    if isinstance(method, FewerSteps):
        return f"fewer-steps baseline: {method.run_steps(steps)} of {steps}"
    return "random-selection baseline" if getattr(method.caching, "score", None) == "random" else ""


def spread(values: Sequence[float]) -> Spread:
    """The median of `values`, at least one, between their quartiles."""
    low, median, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, low, high, len(values))


def _with_plain_first(methods: Sequence[Method]) -> list[Method]:
    labels = [numbered_label(method) for method in methods]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"methods must differ from each other, got more than once: {', '.join(twice)}")
    return [Plain(), *(method for method in methods if not isinstance(method, Plain))]


def _check(prompts: Sequence[str], seeds: Sequence[int], **counts: int) -> None:
    if not prompts:
        raise ValueError("there are no prompts: give at least one")
    if len(seeds) != len(prompts):
        raise ValueError(f"there must be one seed for each prompt, got {len(seeds)} seeds for {len(prompts)} prompts")
    for name, value in counts.items():
        if value < 1:
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


def _result_from_json(data: Mapping[str, Any]) -> MethodResult:
    fields = dict(data)
    for key in ("step_kinds", "psnr_each", "ssim_each", "images", "previews"):
        fields[key] = tuple(data.get(key, ()))
    for key in ("psnr", "ssim", "flicker"):
        fields[key] = Average(**data[key]) if data.get(key) else None
    for key in ("seconds_per_image", "speedup"):
        fields[key] = Spread(**data[key])
    fields["timings"] = tuple(Timing(**timing) for timing in data["timings"])
    fields["judge"] = tally_from_json(data["judge"]) if data.get("judge") else None
    fields["metrics"] = tuple(result_from_json(result) for result in data.get("metrics", ()))
    return MethodResult(**fields)
