"""`dita tune`: finds the method that comes nearest to the reference within a budget, and measures it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from dita import models
from dita.caching.adapters import adapter_for
from dita.caching.attachment import disable
from dita.caching.origin import call_facts, target_facts, with_call
from dita.caching.ownership import transformer_of
from dita.call_arguments import checked_call, for_json
from dita.clips import film_strip
from dita.compare import compare
from dita.comparison import Comparison, MethodResult, numbered_label
from dita.generation.sampling import silenced
from dita.methods import MadeFor, Method, Plain, WholeCall, from_json, write_method
from dita.metrics import Average, average
from dita.metrics import psnr as psnr_of
from dita.output_files import try_folder
from dita.plan import Plan
from dita.samplers import why_stochastic
from dita.shapes import Kind, Shape
from dita.sharing import Workers
from dita.stores import Store
from dita.tuning import report
from dita.tuning.candidates import group_of
from dita.tuning.crew import Crew, Load, WorkerLostError, crew_of, loader
from dita.tuning.journal import Journal
from dita.tuning.observing import Observed, observed
from dita.tuning.results import Candidate, Finalist, Goal, Reported, Tuning, pictures_of
from dita.tuning.search import SLACK, Costs, Search
from dita.tuning.trials import CONVERGED, REFERENCES, Bench, Model, Prompts, Sampled, Trial, at_pace
from dita.values import choice, integer

FINALISTS = 6
TOLERANCE = 0.97
"""Share of the wanted speed-up that counts as reached: the spread of medians of few pairs."""
NEAR = 1.15
"""A candidate is measured again if it took at most so many times the goal's seconds."""
PAIRS = 3
"""Calls of a finalist that are timed beside plain's, at least."""
LADDER = (6.0, 4.0, 3.0, 2.5, 2.0, 1.5)
"""Speed-ups that are tried, the fastest first, where the goal is a closeness."""
SHARES = (0.25, 0.35)
"""Of the prompts: for calibration and for the choice; the others are for the report."""
MOST = (8, 16)
"""Prompts of calibration and of the choice, at most."""
LEAST_PROMPTS = 2
DEFAULT_STEPS = 28


class Unreachable(ValueError):
    """No candidate reaches the goal; the message names the nearest."""


def split(prompts: Sequence[str], seed: int) -> tuple[tuple[Prompts, Prompts, Prompts], str | None]:
    """Prompts of calibration, choice and report, and what is to be said of them.

    No two sets share a prompt with a seed; with two prompts they share the prompts, with other noise.
    Raises `ValueError` for fewer than two.
    """
    texts = tuple(prompts)
    if len(texts) < LEAST_PROMPTS:
        raise ValueError(f"tuning needs at least {LEAST_PROMPTS} prompts, got {len(texts)}; better are 20 or more")
    seeds = range(seed, seed + 3 * len(texts))
    if len(texts) == 2:
        parts = [Prompts(texts, tuple(seeds[2 * i : 2 * i + 2])) for i in range(3)]
        return (parts[0], parts[1], parts[2]), "2 prompts: calibration, choice and report share them, with other noise."
    first = max(1, min(MOST[0], round(SHARES[0] * len(texts))))
    second = max(1, min(MOST[1], round(SHARES[1] * len(texts)), len(texts) - first - 1))
    cuts = [0, first, first + second, len(texts)]
    parts = [Prompts(texts[a:b], tuple(seeds[a:b])) for a, b in itertools.pairwise(cuts)]
    note = None if len(texts) >= 12 else f"{len(texts)} prompts are few: the intervals of the report are wide."
    return (parts[0], parts[1], parts[2]), note


def tune(
    model: Any,
    prompts: Sequence[str],
    *,
    out: str | Path,
    speedup: float | None = None,
    seconds: float | None = None,
    psnr: float | None = None,
    reference: str = "plain",
    minutes: float = 10.0,
    steps: int | None = None,
    seed: int = 0,
    batch: int = 1,
    call: Mapping[str, Any] | None = None,
    name: str | None = None,
    store: Store | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    workers: Workers | None = None,
    load: Load | None = None,
) -> Tuning:
    """Finds the method that comes nearest to the plain pictures, or to converged ones, within a budget.

    Methods are tried on a first set of prompts: fewer steps and other samplers, every published method at the budget,
    and those with full steps that are chosen one by one, which a search moves about. The best go on to a second set,
    which decides, and are measured on a third, interleaved with the plain pipeline. Where the answer is fewer steps, it
    says so.

    Args:
        model: a bundled name, a local folder or a hub id (`dita.models.load`), or a pipeline.
        prompts: at least 2, better 20 and more; they are divided into the three sets.
        out: a folder, new, empty or of an interrupted tuning with the same settings, which goes on.
        speedup, seconds, psnr: the goal, one of them; a speed-up of 3 by default. `seconds` are of an image, `psnr` is
            in decibels.
        reference: `plain`, the pictures of the plain pipeline; `converged`, those of four times its steps; or `both`,
            the least sum of the squared errors to the two.
        minutes: for all of it, about; the search gets what measuring leaves.
        steps: of the plain pipeline; None is the model's default, or 28.
        seed: of the first prompt's noise; the others' count up.
        batch: prompts in one pipeline call.
        call: more arguments of the pipeline calls.
        name: what to call the model.
        store: how features are kept.
        overwrite: start over where `out` holds another tuning.
        console: where progress is shown; None is the standard error stream.
        workers: who draw trials beside this process (`dita.sharing.opened`); this process alone by default. Errors are
            the same; seconds are measured while nobody else draws on the device.
        load: called with `device="cpu"`, say, gives workers the pipeline and the arguments of its calls; where `model`
            is a pipeline, None sends it to them.

    Returns what was found; `out` then holds `method.json`, `report.html` and `results.json`. Raises `ValueError` for
    arguments outside their range, for a sampler that draws noise in its steps, for a folder that holds something else,
    and, naming the nearest, for a goal that nothing reaches.
    """
    goal = check_goal(speedup, seconds, psnr)
    reference = choice("reference", reference, REFERENCES)
    if not 0 < minutes < 60 * 24 * 7:
        raise ValueError(f"minutes must be above 0, and less than a week, got {minutes}")
    sets, note = split(prompts, seed)
    folder = Path(out)
    try_folder("out", folder)
    arguments: dict[str, Any] = {}
    if isinstance(model, (str, Path)):
        name = name or str(model)
        load = load or loader(str(model))
        model, arguments = models.load(model)
    arguments = {**arguments, **(call or {})}
    default = arguments.pop("num_inference_steps", DEFAULT_STEPS)
    why = why_stochastic(model.scheduler)
    if why is not None:
        raise ValueError(
            f"{why}: two runs differ by their noise, so nothing can be told to be near the plain pictures; compare"
            " fewer steps and methods by other metrics (dita compare --metrics), or tune with a sampler without noise"
        )
    disable(model)
    steps = default if steps is None else integer("steps", steps, 2)
    job = _Job(
        Model(model, checked_call(model, arguments, steps), steps, integer("batch", batch), store),
        name or getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__,
        goal,
        reference,
        sets,
        folder,
        time.monotonic(),
        60 * minutes,
        console or Console(stderr=True),
        [note] if note else [],
    )
    with silenced(model), crew_of(workers, job.model, load) as crew:
        return job.run(crew, overwrite)


def check_goal(speedup: float | None, seconds: float | None, psnr: float | None) -> Goal:
    """The goal, a speed-up of 3 by default. Raises `ValueError` for two of them, and for one that cannot be."""
    given = {"speedup": speedup, "seconds": seconds, "psnr": psnr}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        raise ValueError(f"give one goal, got {' and '.join(named)}")
    for name, value in named.items():
        least = 1.0 if name == "speedup" else 0.0
        if not (isinstance(value, (int, float)) and value > least and value < float("inf")):
            raise ValueError(f"{name} must be a number above {least:g}, got {value!r}")
    return Goal(**(named or {"speedup": 3.0}))


@dataclasses.dataclass
class _Job:
    model: Model
    name: str
    goal: Goal
    reference: str
    sets: tuple[Prompts, Prompts, Prompts]
    out: Path
    begun: float
    allowed: float
    console: Console
    notes: list[str]
    live: Any = None
    calibration: float | None = None

    def run(self, crew: Crew, overwrite: bool) -> Tuning:
        journal = Journal(self.out, self._settings(), overwrite)
        self._status("plain run")
        started = time.monotonic()
        calibrated = _calibrate(self.model, self.sets[0], self.reference)
        self.calibration = (time.monotonic() - started) / (calibrated.plain_seconds * len(self.sets[0]))
        known = {method: trial.paced(calibrated.call) for method, trial in journal.known.items()}
        bench = Bench(self.model, self.sets[0], calibrated.references, known, calibrated.call)
        try:
            for share, target in self._targets(calibrated):
                self._search(bench, crew, calibrated, target, share, journal)
        except (KeyboardInterrupt, WorkerLostError):
            self._keep_best(bench, calibrated)
            raise
        finalists = self._choice(bench, calibrated)
        chosen = self._chosen(finalists)
        return self._report(bench, calibrated, finalists, chosen)

    # ------------------------------------------------------------------------------------------------ search

    def _targets(self, calibrated: _Calibrated) -> list[tuple[float, float]]:
        """(share of the time, seconds of an image) to search at."""
        plain = calibrated.plain_seconds
        if self.goal.speedup is not None:
            return [(1.0, plain / self.goal.speedup)]
        if self.goal.seconds is not None:
            if self.goal.seconds >= plain:
                raise ValueError(
                    f"seconds must be less than the plain pipeline's {plain:.3g} an image, got {self.goal.seconds:g}"
                )
            return [(1.0, self.goal.seconds)]
        return [(1 / len(LADDER), plain / ratio) for ratio in LADDER]

    def _search(
        self, bench: Bench, crew: Crew, calibrated: _Calibrated, target: float, share: float, journal: Journal
    ) -> None:
        budget = (target - calibrated.decoding) * len(bench.prompts)
        least = calibrated.costs.seconds(1, 1)
        if budget < least:
            nearest = calibrated.plain_seconds / (least / len(bench.prompts) + calibrated.decoding)
            if self.goal.psnr is not None:
                return
            raise Unreachable(
                f"nothing reaches {self.goal}: a single step runs at {nearest:.2f} times the speed of the plain"
                " pipeline, as reading prompts and decoding take the rest; ask for less"
            )
        measuring = self._measuring_seconds(calibrated, target)
        until = self.begun + self.allowed - measuring
        now = time.monotonic()
        deadline = now + max((until - now), 0.25 * self.allowed) * share
        search = Search(
            bench,
            calibrated.shape,
            calibrated.family,
            self.model.steps,
            calibrated.observed,
            calibrated.costs,
            budget,
            self.reference,
            deadline,
            crew,
        )

        def told(trial: Trial) -> None:
            journal.add(trial)
            best = next(iter(search.ranked()), trial)
            self._status(
                f"{len(bench.known)} tried, {max(0.0, deadline - time.monotonic()):.0f} s left; best"
                f" {best.method.label()}, {_decibels(best, self.reference):.1f} dB of latents"
            )

        search.told = told
        with self.console.status("") as status:
            self.live = status
            search.run()
        self.live = None

    def _measuring_seconds(self, calibrated: _Calibrated, target: float) -> float:
        """What choice and report will take, about."""
        plain, batch = calibrated.plain_seconds, self.model.batch
        once = plain + FINALISTS * target
        choice, report = ((len(one) * self._repeats(one) + batch) * once for one in self.sets[1:])
        return 1.1 * (choice + report + len(self.sets[2]) * CONVERGED * plain)

    def _keep_best(self, bench: Bench, calibrated: _Calibrated) -> None:
        """After an interruption: the best so far, usable, and said to be unmeasured."""
        ranked = sorted(bench.known.values(), key=lambda trial: trial.error(self.reference))
        within = [trial for trial in ranked if self.goal.psnr is not None or self._fits(trial, bench, calibrated)]
        if within:
            answer = (
                f"Interrupted: {within[0].method.label()} was the best so far; it was not measured on other prompts."
            )
            self._write_method(within[0].method, {"answer": answer})

    def _fits(self, trial: Trial, bench: Bench, calibrated: _Calibrated) -> bool:
        target = self._targets(calibrated)[0][1]
        return trial.seconds <= SLACK * (target - calibrated.decoding) * len(bench.prompts)

    # ------------------------------------------------------------------------------------------------ choice

    def _choice(self, bench: Bench, calibrated: _Calibrated) -> list[Finalist]:
        """The best candidates in pictures of the second set."""
        methods: dict[Method, None] = {}
        for _, target in self._targets(calibrated):
            budget = (target - calibrated.decoding) * len(bench.prompts)
            ranked = calibrated.within(bench, budget, self.reference)
            near = calibrated.within(bench, NEAR * budget, self.reference)  # their seconds were measured once
            for trial in [*ranked[:3], *near[:2]]:
                methods.setdefault(trial.method)
            if self.goal.psnr is None:
                for group in ("fewer steps", "sampler", "published", "whole calls", "chosen steps", "tokens"):
                    first = next((trial for trial in ranked if group_of(trial.method) == group), None)
                    if first is not None:
                        methods.setdefault(first.method)
        methods = _each_label_once(methods, bench, self.reference)
        if not methods:
            fastest = min(bench.known.values(), key=lambda trial: trial.seconds, default=None)
            nearest = (
                ""
                if fastest is None
                else (
                    f"; the nearest is {fastest.method.label()}, at"
                    f" {calibrated.speedup(fastest, len(bench.prompts)):.2f} times the speed of plain"
                )
            )
            raise Unreachable(f"nothing that was tried reaches {self.goal}{nearest}")
        compared = self._compare(list(methods), self.sets[1], "choice")
        converged = self._converged(self.sets[1]) if self.reference != "plain" else None
        by_label = {numbered_label(method): method for method in methods}
        found = []
        for result in compared.results[1:]:
            method = by_label[result.label]
            values = {name: value[0] for name, value in self._distances(compared, result, "choice", converged).items()}
            speed = result.speedup.median
            found.append(
                Finalist(
                    result.label,
                    group_of(method),
                    method.as_json(),
                    speed,
                    result.seconds_per_image.median,
                    values,
                    self._reached(speed, result.seconds_per_image.median, values[self.reference]),
                )
            )
        return found

    def _reached(self, speedup: float, seconds: float, decibels: float) -> bool:
        if self.goal.psnr is not None:
            return decibels >= self.goal.psnr
        if self.goal.seconds is not None:
            return seconds <= self.goal.seconds / TOLERANCE
        assert self.goal.speedup is not None
        return speedup >= self.goal.speedup * TOLERANCE

    def _chosen(self, finalists: list[Finalist]) -> Finalist:
        reached = [one for one in finalists if one.fits]
        if not reached:
            if self.goal.psnr is not None:
                nearest = max(finalists, key=lambda one: one.psnr[self.reference])
                said = f"{nearest.psnr[self.reference]:.1f} dB at {nearest.speedup:.2f} times the speed of plain"
            else:
                nearest = max(finalists, key=lambda one: one.speedup)
                said = f"{nearest.speedup:.2f} times the speed of plain, {nearest.psnr[self.reference]:.1f} dB"
            raise Unreachable(f"nothing that was tried reaches {self.goal}; the nearest is {nearest.label}: {said}")
        if self.goal.psnr is not None:
            return max(reached, key=lambda one: one.speedup)
        return max(reached, key=lambda one: one.psnr[self.reference])

    # ------------------------------------------------------------------------------------------------ report

    def _report(self, bench: Bench, calibrated: _Calibrated, finalists: list[Finalist], chosen: Finalist) -> Tuning:
        roles = {chosen.label: "tuned"}
        reached = [one for one in finalists if one.fits] or finalists
        for group, role in (
            ("fewer steps", "fewer steps"),
            ("sampler", "best sampler"),
            ("published", "best published method"),
            ("tokens", "best token-wise method"),
        ):
            of_group = [one for one in reached if one.group == group]
            if of_group:
                best = max(of_group, key=lambda one: one.psnr[self.reference])
                roles.setdefault(best.label, role)
        methods = [from_json(one.method) for one in finalists if one.label in roles]
        compared = self._compare(methods, self.sets[2], "compare")
        converged = self._converged(self.sets[2])
        reported = []
        for result in compared.results:
            values = self._distances(compared, result, "compare", converged)
            reported.append(Reported(result.label, roles.get(result.label, "plain"), values))
        method = _of_steps(from_json(chosen.method), self.model.steps)
        answer = _answer(chosen, reported, compared, self.reference)
        made_for = self._made_for()
        tuning = Tuning(
            model=self.name,
            steps=self.model.steps,
            goal=self.goal,
            reference=self.reference,
            sets={"calibration": len(self.sets[0]), "choice": len(self.sets[1]), "report": len(self.sets[2])},
            plain_seconds=calibrated.plain_seconds,
            spent=time.monotonic() - self.begun,
            candidates=tuple(_candidate(trial, len(bench.prompts), calibrated) for trial in bench.known.values()),
            finalists=tuple(finalists),
            reported=tuple(reported),
            chosen=chosen.label,
            method=method.as_json(),
            answer=answer,
            comparison=compared.as_json(),
            made_for=made_for.as_json(),
            notes=tuple(self.notes),
            calibration=self.calibration,
        )
        self._write_method(method, {"answer": answer, "speedup": _result_of(compared, chosen.label).speedup.median})
        report.write(tuning, self.out, _plan(method, calibrated.shape, self.model.steps))
        return tuning

    def _compare(self, methods: Sequence[Method], prompts: Prompts, where: str) -> Comparison:
        self._status(f"{len(methods)} methods and plain on {len(prompts)} other prompts")
        return compare(
            self.model.pipe,
            methods,
            prompts.texts,
            out=self.out / where,
            steps=self.model.steps,
            seeds=prompts.seeds,
            batch=self.model.batch,
            call=self.model.arguments,
            name=self.name,
            store=self.model.store,
            overwrite=True,
            console=self.console,
            repeats=self._repeats(prompts),
        )

    def _repeats(self, prompts: Prompts) -> int:
        """How often a comparison runs: each method is to be timed at least `PAIRS` times."""
        return math.ceil(PAIRS / math.ceil(len(prompts) / self.model.batch))

    def _converged(self, prompts: Prompts) -> list[NDArray[np.uint8]]:
        """Pictures, or clips, of `CONVERGED` times the steps."""
        self._status(f"converged pictures of {len(prompts)} prompts")
        made: list[NDArray[np.uint8]] = []
        for part in prompts.batches(self.model.batch):
            made += self.model.pictures(part, self.model.steps * CONVERGED)
        return made

    def _distances(
        self, compared: Comparison, result: MethodResult, where: str, converged: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, tuple[float, float, float]]:
        """PSNR (mean, low, high) of pictures in the folder `where`, by reference; of clips, of their frames."""
        values = {} if result.psnr is None else {"plain": _of_average(result.psnr)}
        if converged is None:
            return values
        wanted = [film_strip(one) if one.ndim == 4 else one for one in converged]
        made = self._pictures(result, where)
        to_converged = [float(psnr_of(one, other)) for one, other in zip(made, wanted, strict=True)]
        values["converged"] = _of_average(average(to_converged))
        if self.reference == "both":
            plain = self._pictures(compared.results[0], where)
            to_plain = [float(psnr_of(one, other)) for one, other in zip(made, plain, strict=True)]
            values["both"] = _of_average(average(list(map(_of_both, to_plain, to_converged))))
        return values

    def _pictures(self, result: MethodResult, where: str) -> list[NDArray[np.uint8]]:
        found = []
        for path in result.images:
            with Image.open(self.out / where / path) as file:
                found.append(np.asarray(file.convert("RGB")))
        return found

    def _write_method(self, method: Method, found: Mapping[str, Any]) -> None:
        write_method(self.out, _of_steps(method, self.model.steps), self._made_for(), found)

    def _made_for(self) -> MadeFor:
        called = {**self.model.arguments, "num_inference_steps": self.model.steps}
        facts = with_call(target_facts(self.model.pipe), call_facts(self.model.pipe, called))
        revision = models.revision(self.name) if models.is_bundled(self.name) or Path(self.name).is_dir() else None
        model = self.name if models.is_bundled(self.name) else facts.model or self.name
        return dataclasses.replace(facts, model=model, revision=revision)

    def _settings(self) -> dict[str, Any]:
        """What trials depend on."""
        return {
            "model": self.name,
            "steps": self.model.steps,
            "batch": self.model.batch,
            "call": for_json(self.model.arguments),
            "reference": self.reference,
            "prompts": [list(self.sets[0].texts), list(self.sets[0].seeds)],
            "store": None if self.model.store is None else dataclasses.asdict(self.model.store),
        }

    def _status(self, text: str) -> None:
        if self.live is not None:
            self.live.update(text)
        else:
            self.console.print(text, style="dim", highlight=False)


# ------------------------------------------------------------------------------------------------ calibration


@dataclasses.dataclass(frozen=True)
class _Calibrated:
    """What few runs of the plain pipeline tell.

    Attributes:
        plain_seconds: of an image, with its decoding.
        decoding: of that, what comes after the last step.
        call: of a full transformer call, the median.
    """

    family: str
    shape: Shape
    observed: Observed
    costs: Costs
    references: dict[str, NDArray[np.float32]]
    plain_seconds: float
    decoding: float
    call: float | None

    def within(self, bench: Bench, budget: float, reference: str) -> list[Trial]:
        """Trials within `budget` seconds of a run on the prompts of calibration, the nearest first."""
        fitting = [trial for trial in bench.known.values() if trial.seconds <= SLACK * budget]
        return sorted(fitting, key=lambda trial: trial.error(reference))

    def speedup(self, trial: Trial, prompts: int) -> float:
        """Of a trial, as it was measured once."""
        return self.plain_seconds / (trial.seconds / prompts + self.decoding)


def _calibrate(model: Model, prompts: Prompts, reference: str) -> _Calibrated:
    """Few runs of the plain pipeline: one that is watched, one that is timed, one of few steps; one of whole calls;
    and some of two steps, with pictures and without."""
    short = max(2, model.steps // 4)
    model.sample(Plain(), prompts.batches(model.batch)[0], steps=2)  # warms up
    with observed(model.pipe) as seen:
        watched = model.sample(Plain(), prompts.batches(model.batch)[0])
    references = {"plain": watched.latents}
    timed = model.sample(Plain(), prompts) if len(prompts) > model.batch else watched
    references["plain"] = timed.latents
    fewer = model.sample(Plain(), prompts, steps=short)
    few = at_pace(fewer.seconds, fewer.call, timed.call)
    step = max(1e-9, (timed.seconds - few) / (model.steps - short))
    fixed = max(0.0, timed.seconds - model.steps * step)
    first = _first_steps(model, prompts, short)
    cached = (at_pace(first.seconds, first.call, timed.call) - few) / max(1, model.steps - short)
    decoding = _decoding(model, prompts.batches(model.batch)[0], timed.call)
    if reference != "plain":
        references["converged"] = model.sample(Plain(), prompts, steps=model.steps * CONVERGED).latents
    if reference == "both":
        references["both"] = np.mean([references["plain"], references["converged"]], axis=0, dtype=np.float32)
    assert timed.shape is not None
    return _Calibrated(
        adapter_for(transformer_of(model.pipe)).family,
        timed.shape,
        seen,
        Costs(fixed, step, min(max(0.0, cached), step / 2)),
        references,
        timed.seconds / len(prompts) + decoding,
        decoding,
        timed.call,
    )


def _first_steps(model: Model, prompts: Prompts, number: int) -> Sampled:
    """A run of which the first `number` steps are full, and the others without a transformer call."""
    try:
        return model.sample(WholeCall(order=1, full_steps=tuple(range(number))), prompts)
    except ValueError:  # of a sampler that whole calls cannot be forecast for
        return model.sample(Plain(), prompts, steps=number)


def _decoding(model: Model, prompts: Prompts, call: float | None, times: int = 3) -> float:
    """Seconds of an image behind the last step: what a run of 2 steps takes longer with pictures than without."""
    longer = []
    for _ in range(times):
        latents = model.sample(Plain(), prompts, steps=2)
        started = time.perf_counter()
        model.pictures(prompts, 2)
        more = time.perf_counter() - started - latents.seconds
        longer.append(at_pace(more, latents.call, call) / len(prompts))
    return max(0.0, min(longer))


# ------------------------------------------------------------------------------------------------ pieces


def _decibels(trial: Trial, reference: str) -> float:
    return -10 * math.log10(trial.error(reference))


def _candidate(trial: Trial, prompts: int, calibrated: _Calibrated) -> Candidate:
    plan = _plan(trial.method, calibrated.shape, calibrated.observed.steps)
    kinds = plan.kinds if plan is not None else ()
    return Candidate(
        numbered_label(trial.method),
        group_of(trial.method),
        trial.method.as_json(),
        sum(kind is not Kind.CALL for kind in kinds)
        if group_of(trial.method) == "whole calls"
        else kinds.count(Kind.FULL),
        trial.seconds / prompts,
        {name: _decibels(trial, name) for name in trial.errors},
    )


def _of_steps(method: Method, steps: int) -> Method:
    """The method, and for how many steps its full ones were chosen, by which other runs carry them over."""
    if getattr(method, "full_steps", None) is None:
        return method
    told: Method = dataclasses.replace(method, full_of=steps)  # type: ignore[call-arg]
    return told


def _each_label_once(methods: Iterable[Method], bench: Bench, reference: str) -> dict[Method, None]:
    """Of methods that differ by their fitted weights alone, the nearest."""
    ranked = sorted(methods, key=lambda method: bench.known[method].error(reference))
    by_label: dict[str, Method] = {}
    for method in ranked:
        by_label.setdefault(numbered_label(method), method)
    return dict.fromkeys(by_label.values())


def _plan(method: Method, shape: Shape, steps: int) -> Plan | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return method.plan(shape, steps)
        except ValueError:
            return None


def _of_average(found: Average | None) -> tuple[float, float, float]:
    """Mean and interval; infinite where all pictures are identical."""
    if found is None or found.mean is None:
        return (math.inf, math.inf, math.inf)
    return (
        found.mean,
        found.mean if found.low is None else found.low,
        found.mean if found.high is None else found.high,
    )


def _of_both(to_plain: float, to_converged: float) -> float:
    """Decibels of the mean of two squared errors, given in decibels each."""
    mean = (10 ** (-to_plain / 10) + 10 ** (-to_converged / 10)) / 2
    return -10 * math.log10(mean) if mean else math.inf


def _result_of(comparison: Comparison, label: str) -> MethodResult:
    return next(result for result in comparison.results if result.label == label)


def _answer(chosen: Finalist, reported: Sequence[Reported], comparison: Comparison, reference: str) -> str:
    """One sentence: what to use, and what it brings over fewer steps."""
    by_role = {one.role: one for one in reported}
    own = by_role["tuned"]
    result = _result_of(comparison, own.label)
    said = (
        f"{own.label}: {result.speedup.median:.2f} times the speed of plain, {own.psnr[reference][0]:.1f} dB from"
        f" {pictures_of(reference)}"
    )
    others = [
        f"{own.psnr[reference][0] - one.psnr[reference][0]:+.1f} dB against {role} ({one.label}, "
        f"{_result_of(comparison, one.label).speedup.median:.2f} times the speed)"
        for role in ("fewer steps", "best sampler", "best published method")
        if (one := by_role.get(role)) is not None
    ]
    against = f"; {'; '.join(others)}" if others else ""
    if chosen.group in ("fewer steps", "sampler"):
        return f"Take fewer steps, no cache: {said}{against}."
    return f"Use {said}{against}."
