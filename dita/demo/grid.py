"""Quality against latency: one method at every N and R of a grid, on a few prompts, beside fewer steps."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dita.comparison import numbered_label
from dita.demo.request import Limits, Refused, Request
from dita.demo.sampling import Made
from dita.demo.scores import Scores
from dita.demo.studio import Studio, Waiting
from dita.methods import FewerSteps, Method, Plain
from dita.samplers import FAMILY_SAMPLERS

FRACTIONS = (0.7, 0.5, 0.35)
SAMPLER_FRACTIONS = (0.5, 0.35)
HIGHEST_PSNR = 99.0  # dB; stands for identical pictures, whose PSNR is infinite


@dataclass(frozen=True)
class Point:
    """One method on the prompts that it has drawn so far; means, and medians of seconds.

    Attributes:
        rival: whether it is the plain pipeline or fewer steps.
        prompts: how many it has drawn.
        seconds: of one picture. speedup: of seconds, picture by picture. flops_ratio: plain FLOPs over those that ran.
        psnr: beside the plain pictures, in dB; HIGHEST_PSNR where all are identical, None where none is compared.
        broken: how many pictures were made of NaN or infinity.
        right: share of the pictures that show all that their prompts say, by the judge; None where it cannot tell.
    """

    method: Method
    rival: bool
    prompts: int
    seconds: float
    speedup: float
    flops_ratio: float
    psnr: float | None
    ssim: float | None
    right: float | None
    broken: int = 0


@dataclass(frozen=True)
class Done:
    """How many of the exploration's pictures are made, and what is being made."""

    pictures: int
    of: int
    label: str


def grid_methods(base: Method, cycles: Sequence[int], ratios: Sequence[float]) -> list[Method]:
    """`base` with every cycle and ratio of the grid, of those that it has; full steps are those of the cycle.

    Raises `Refused` for a method with neither, and for values that it does not take.
    """
    fields = {field.name for field in dataclasses.fields(base)}
    if not fields & {"cycle", "ratio"}:
        raise Refused(f"{base.name} has neither a cycle N nor a ratio R: there is no grid to explore.")
    for name, values in (("cycle", cycles), ("ratio", ratios)):
        if name in fields and not values:
            raise Refused(f"Choose at least one {'N' if name == 'cycle' else 'R'}.")
    unchosen = {name: None for name in ("full_steps", "full_of", "ratios") if name in fields}
    changes = [
        {"cycle": cycle, "ratio": ratio}
        for cycle in (cycles if "cycle" in fields else (None,))
        for ratio in (ratios if "ratio" in fields else (None,))
    ]
    try:
        made = [
            dataclasses.replace(
                base, **unchosen, **{name: value for name, value in change.items() if value is not None}
            )
            for change in changes
        ]
    except ValueError as error:
        raise Refused(f"{error}.") from None
    return list(dict.fromkeys(made))


def check_grid(limits: Limits, methods: Sequence[Method], requests: Sequence[Request]) -> None:
    """Raises `Refused` for more points or prompts than are allowed, or none."""
    if len(methods) > limits.points:
        raise Refused(f"The grid has {len(methods)} points; at most {limits.points} are allowed.")
    if not requests:
        raise Refused("Write at least one prompt.")
    if len(requests) > limits.prompts:
        raise Refused(f"There are {len(requests)} prompts; at most {limits.prompts} are allowed.")


def rivals(family: str, steps: int, least: int) -> list[Method]:
    """Fewer steps, and fewer steps with each other sampler that a family has; runs of at least `least` steps."""
    found = [FewerSteps(fraction) for fraction in FRACTIONS]
    found += [FewerSteps(f, sampler) for sampler in FAMILY_SAMPLERS.get(family, ()) for f in SAMPLER_FRACTIONS]
    return [rival for rival in found if least <= rival.run_steps(steps) < steps]


def explore(
    studio: Studio, methods: Sequence[Method], requests: Sequence[Request], session: str = ""
) -> Iterator[Waiting | Done | Point]:
    """The points of the plain pipeline, of fewer steps, and of `methods`, each anew with every prompt it has drawn.

    Prompt by prompt all methods run in turn, so that a machine whose speed changes is unjust to none. Closing the
    iterator stops the work. Raises as `Studio.compare` does.
    """
    check_grid(studio.limits, methods, requests)
    others = rivals(studio.loaded.family, requests[0].steps, studio.loaded.least_steps)
    every = [Plain(), *others, *(method for method in methods if method not in others)]
    drawn: dict[Method, list[_Drawn]] = {method: [] for method in every}
    turns = [(request, method) for request in requests for method in every]
    with studio.visit(session) as visit:
        for count, (request, method) in enumerate(turns):
            yield Done(count, len(turns), numbered_label(method))
            for event in studio.sampled(visit, request, method):
                if isinstance(event, Waiting):
                    yield event
                elif isinstance(event, Made):
                    plain = event if method == Plain() else drawn[Plain()][-1].made
                    scores = studio.measured(visit, request, event, None if plain is event else plain)
                    flops, plain_flops = studio.flops(request, event)
                    one = _Drawn(event, scores, plain.seconds / event.seconds, plain_flops / flops)
                    drawn[method].append(one)
            yield _point(method, drawn[method])
        yield Done(len(turns), len(turns), "")


@dataclass(frozen=True)
class _Drawn:
    """One picture of a method, beside the plain one of the same prompt."""

    made: Made
    scores: Scores
    speedup: float
    flops_ratio: float


def _point(method: Method, drawn: Sequence[_Drawn]) -> Point:
    psnrs = [min(HIGHEST_PSNR, one.scores.psnr) for one in drawn if one.scores.psnr is not None]
    psnrs = [HIGHEST_PSNR] if isinstance(method, Plain) else psnrs
    ssims = [one.scores.ssim for one in drawn if one.scores.ssim is not None]
    verdicts = [one.scores.verdict.correct for one in drawn if one.scores.verdict is not None]
    return Point(
        method=method,
        rival=isinstance(method, (Plain, FewerSteps)),
        prompts=len(drawn),
        seconds=statistics.median(one.made.seconds for one in drawn),
        speedup=statistics.median(one.speedup for one in drawn),
        flops_ratio=statistics.mean(one.flops_ratio for one in drawn),
        psnr=statistics.mean(psnrs) if psnrs else None,
        ssim=statistics.mean(ssims) if ssims else None,
        right=statistics.mean(verdicts) if verdicts else None,
        broken=sum(one.made.broken for one in drawn),
    )
