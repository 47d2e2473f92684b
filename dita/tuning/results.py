"""What a tuning found, as data that goes to JSON and comes back: candidates, finalists, and what is to be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Group = Literal["fewer steps", "sampler", "published", "whole calls", "chosen steps", "tokens"]
"""What a candidate is: fewer steps of the own sampler (its own spacing, or chosen steps of its grid) or of another one;
a method as published, with a cycle; whole calls, modules' outputs or tokens with chosen full steps."""


@dataclass(frozen=True)
class Goal:
    """What is asked for: one of the three.

    Attributes:
        speedup: times the speed of the plain pipeline, in seconds of whole calls.
        seconds: of an image, or clip, at most.
        psnr: mean decibels to the plain pictures (or the converged ones), at least, as fast as possible.
    """

    speedup: float | None = None
    seconds: float | None = None
    psnr: float | None = None

    def __str__(self) -> str:
        if self.psnr is not None:
            return f"{self.psnr:g} dB"
        return f"{self.speedup:g}x" if self.speedup is not None else f"{self.seconds:g} s an image"


@dataclass(frozen=True)
class Candidate:
    """One method that was tried on the prompts of calibration.

    Attributes:
        method: as `Method.as_json`.
        evaluations: full transformer calls in a run.
        seconds: of an image, of one run on the prompts of calibration, without decoding.
        decibels: 10 log10 of the mean square error of the final latents, its sign turned; a mean over prompts. By
            reference, `plain` and, if that was asked for, `converged` and `both`. It orders candidates; it is no PSNR.
    """

    label: str
    group: Group
    method: dict[str, Any]
    evaluations: int
    seconds: float
    decibels: dict[str, float]


@dataclass(frozen=True)
class Finalist:
    """A candidate on the second set of prompts, in pictures, interleaved with the plain pipeline.

    Attributes:
        speedup: the median of its pairs of calls.
        psnr: by reference, the mean over pictures.
        fits: whether it reaches the goal.
    """

    label: str
    group: Group
    method: dict[str, Any]
    speedup: float
    seconds: float
    psnr: dict[str, float]
    fits: bool


@dataclass(frozen=True)
class Reported:
    """What was measured of a method on the third set of prompts, beside the comparison of these.

    Attributes:
        role: why it is there: `tuned`, `fewer steps`, `best sampler`, `best published method`.
        psnr: by reference, (mean, low, high) of the interval of 95 %; `plain` and `converged`, always both of them, and
            `both` if the search was to come near that.
    """

    label: str
    role: str
    psnr: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Tuning:
    """A finished tuning.

    Attributes:
        reference: what the search was to come near: `plain`, `converged` or `both`.
        sets: prompts of calibration, choice and report.
        plain_seconds: of an image of the plain pipeline.
        calibration: seconds before the first trial, in plain runs of the prompts of calibration.
        chosen: the label of what is to be used.
        answer: one sentence: what to use, and what it brings over fewer steps.
        comparison: `dita.compare.Comparison.as_json` of the third set: plain and all that `reported` names.
        made_for: model, revision, steps, scheduler, size, type, device and version that this holds for.
        notes: what a reader must know, a sentence each.
    """

    model: str
    steps: int
    goal: Goal
    reference: str
    sets: dict[str, int]
    plain_seconds: float
    spent: float
    candidates: tuple[Candidate, ...]
    finalists: tuple[Finalist, ...]
    reported: tuple[Reported, ...]
    chosen: str
    method: dict[str, Any]
    answer: str
    comparison: dict[str, Any]
    made_for: dict[str, Any]
    notes: tuple[str, ...] = ()
    calibration: float | None = None

    def __repr__(self) -> str:
        """In one line: what was tuned, and the answer."""
        return f"<Tuning of {self.model} at {self.steps} steps, {len(self.candidates)} candidates: {self.answer}>"

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; `from_json` reads it back."""
        return dataclasses.asdict(self)


def pictures_of(reference: str) -> str:
    """A reference in words: "the plain pictures"."""
    return "the plain and the converged pictures" if reference == "both" else f"the {reference} pictures"


def from_json(data: Mapping[str, Any]) -> Tuning:
    """The tuning that `Tuning.as_json` wrote. Decibels without end may be words, as strict JSON has them: "inf"."""
    fields = dict(data)
    fields["goal"] = Goal(**data["goal"])
    fields["candidates"] = tuple(
        Candidate(**{**one, "decibels": {name: float(value) for name, value in one["decibels"].items()}})
        for one in data["candidates"]
    )
    fields["finalists"] = tuple(
        Finalist(**{**one, "psnr": {name: float(value) for name, value in one["psnr"].items()}})
        for one in data["finalists"]
    )
    fields["reported"] = tuple(
        Reported(one["label"], one["role"], {name: _interval(value) for name, value in one["psnr"].items()})
        for one in data["reported"]
    )
    fields["notes"] = tuple(data["notes"])
    return Tuning(**fields)


def _interval(values: Sequence[Any]) -> tuple[float, float, float]:
    mean, low, high = map(float, values)
    return mean, low, high
