"""What a comparison found, as data: times, FLOPs, quality, and files of the pictures; written as JSON and read back."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dita.measurement import Result, result_from_json
from dita.methods import Composition, FewerSteps, Method, Plain
from dita.metrics import Average
from dita.miniature.judge.tally import Tally
from dita.miniature.judge.tally import from_json as tally_from_json
from dita.timed_calls import Timing

ALWAYS = ("psnr", "ssim")  # columns of their own


@dataclass(frozen=True)
class Spread:
    """The median of `count` measurements between their quartiles."""

    median: float
    low: float
    high: float
    count: int


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

    `broken` are the numbers of the pictures that were made of NaN or infinity, and `constant` those of the pictures of
    one colour. A broken picture has no metrics, and nothing is compared with it, nor two pictures of one colour with
    each other: their `psnr_each` and `ssim_each` are None.

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
    ssim_each: tuple[float | None, ...]
    images: tuple[str, ...]
    timings: tuple[Timing, ...]
    judge: Tally | None = None
    metrics: tuple[Result, ...] = ()
    flicker: Average | None = None
    previews: tuple[str, ...] = ()
    broken: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()

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
        by = "" if method.sampler is None else f", sampler {method.sampler}"
        return f"fewer-steps baseline: {method.run_steps(steps)} of {steps}{by}"
    return "random-selection baseline" if getattr(method.caching, "score", None) == "random" else ""


def spread(values: Sequence[float]) -> Spread:
    """The median of `values`, at least one, between their quartiles."""
    low, median, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, low, high, len(values))


def _result_from_json(data: Mapping[str, Any]) -> MethodResult:
    fields = dict(data)
    for key in ("step_kinds", "psnr_each", "ssim_each", "images", "previews", "broken", "constant"):
        fields[key] = tuple(data.get(key, ()))
    for key in ("psnr", "ssim", "flicker"):
        fields[key] = Average(**data[key]) if data.get(key) else None
    for key in ("seconds_per_image", "speedup"):
        fields[key] = Spread(**data[key])
    fields["timings"] = tuple(Timing(**timing) for timing in data["timings"])
    fields["judge"] = tally_from_json(data["judge"]) if data.get("judge") else None
    fields["metrics"] = tuple(result_from_json(result) for result in data.get("metrics", ()))
    return MethodResult(**fields)
