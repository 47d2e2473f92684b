"""The benchmark itself: contenders are checked and counted once, then timed side by side, in turn, in one process."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import dita
from dita.bench import rivals as rival_caches
from dita.bench.budget import Budget, Clock, OutOfTime
from dita.bench.contenders import Accelerated, Claim, Contender, Control, Refused, blocks_of, check, twin
from dita.bench.counting import Counting, StepCount
from dita.bench.rivals import FirstBlockCache, Rival, Setting
from dita.bench.roofline import Peak, measured_peak
from dita.bench.sampling import Timed, sample, without_collector
from dita.bench.workloads import Inputs, Workload, sizes
from dita.freed_memory import keep_freed_memory
from dita.interrupted import Kept
from dita.methods import Method, MethodLike, Plain, TaylorSeer, as_methods
from dita.plan import Plan
from dita.shapes import Kind
from dita.values import choice, shown, whole
from dita.version import __version__

ROUNDS = "rounds"
COMPILES = ("none", "blocks", "model")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class StepTime:
    """The steps of one kind: how many in a run, and the median over all runs of one's seconds."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """What one contender cost, and how far it led from the plain transformer's latents.

    Attributes:
        label, role: of the contender.
        seconds: of the sampling loop, one for each timed run.
        seconds_ratio: plain's over these, the median over the runs that stood side by side.
        flops: of a run's transformer calls: of a method, those of its plan, which leave out what scores and matching
            cost; else `counted_flops`.
        flops_ratio: plain's over these.
        efficiency: seconds_ratio over flops_ratio: 1 where seconds shrink as FLOPs do.
        counted_flops: of every product that was executed, scores included.
        step_kinds: what each step was.
        steps: by kind of step.
        operations: executed in a step of each kind, on average.
        executed: share of plain's rows that went through each kind of layer.
        error: distance of the final latents to plain's, over the way that plain's went from the noise (L2).
        peak_bytes: the most memory that a run held beyond the model and its input; see `counting.Counting`; on CUDA
            that of the allocator.
        cache_bytes: of dita's feature store, at most.
        roofline_seconds: what the counted operations of a run would take at the measured peak, one after another.
        over_roofline: median seconds over these.
        page_faults: median of a run.
    """

    label: str
    role: str
    seconds: tuple[float, ...]
    seconds_ratio: float
    flops: float
    flops_ratio: float
    efficiency: float
    counted_flops: float
    step_kinds: tuple[str, ...]
    steps: dict[str, StepTime]
    operations: dict[str, float]
    executed: dict[str, float]
    error: float
    peak_bytes: int
    cache_bytes: int | None
    roofline_seconds: float
    over_roofline: float
    page_faults: float | None


@dataclass(frozen=True)
class Benchmark:
    """Everything that one benchmark measured; `rows` begin with plain, `refused` are (label, reason), and
    `earlier_rounds` of the repeats are of a benchmark that was interrupted."""

    sizes: dict[str, Any]
    steps: int
    repeats: int
    dtype: str
    device: str
    compile: str
    peak: Peak
    rows: tuple[Row, ...]
    refused: tuple[tuple[str, str], ...]
    keeps_freed_memory: bool
    earlier_rounds: int = 0
    threads: int = field(default_factory=torch.get_num_threads)
    machine: str = field(default_factory=lambda: platform.processor() or platform.machine())
    versions: dict[str, str] = field(default_factory=lambda: {"dita": __version__, **rival_caches.versions()})

    def row(self, label: str) -> Row:
        """The row of one contender. Raises `KeyError`."""
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(label)


@dataclass
class _Entry:
    """A contender with what its first runs showed, and its timed runs. `run_seconds`: of the last of the first ones."""

    contender: Contender
    counts: list[StepCount]
    claims: list[Claim]
    latents: torch.Tensor
    peak_bytes: int
    flops: float | None
    cache_bytes: int | None
    run_seconds: float
    runs: list[Timed] = field(default_factory=list)


@torch.no_grad()
def bench(
    workload: Workload,
    methods: Sequence[MethodLike],
    *,
    rivals: Sequence[type[Rival]] = (),
    steps: int = 50,
    repeats: int = 3,
    controls: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    compile: str = "none",
    backend: str = "inductor",
    seconds: float | None = None,
    clock: Clock = time.monotonic,
    tell: Tell = lambda _: None,
    keep: Callable[[Benchmark], None] | None = None,
    keep_beside: str | os.PathLike[str] | None = None,
) -> Benchmark:
    """Measures `methods` and `rivals` beside the plain transformer and, unless `controls` is False, two controls that
    must cost what it costs.

    Every contender is run once with everything counted, and refused unless it executed in every step what it claims;
    once more as a warm-up; and `repeats` times with the clock, in turn with all others, in another order each time.
    The rivals are set to compute as many full steps as the methods do: each rival once for each such number. `compile`
    is one of `COMPILES`: the blocks, or the whole model, without graph breaks but for rivals; `backend` is that of
    torch.compile. `tell` is told of it all; `keep` is given, after every round of runs but the last, what was measured
    until then. Rounds are kept beside the file `keep_beside`, with `.unfinished` behind its name, from where a second
    benchmark of the same settings goes on; the caller removes them (`dita.interrupted.remove`) when it is written.

    `seconds` bounds the whole, as well as can be foreseen: rivals enter as long as all repeats of all fit; of the
    methods, those behind the first as long as one repeat does; and there are as many repeats as then fit, at least one.
    Who stays outside is refused.

    Raises `ValueError` for steps or repeats below 1, a method that the family does not have, and one that does not do
    what its plan says; and `OutOfTime` where `seconds` are too few for plain, the controls and the first method.
    """
    if not isinstance(workload, Workload):
        raise ValueError(f"what is measured is a workload, such as workload('cpu-flux'), got {shown(workload)}")
    chosen, steps, repeats = as_methods(methods), whole("steps", steps), whole("repeats", repeats)
    if steps < 1 or repeats < 1:
        raise ValueError(f"steps and repeats must be at least 1, got {steps} and {repeats}")
    compile = choice("compile", compile, COMPILES)
    for method in chosen:
        method.check_family(workload.shape.family)
    budget = Budget(seconds, clock)
    kept = keep_freed_memory()
    place = torch.device(device)
    peak = measured_peak(workload.shape, dtype, place)
    tell(f"peak: {peak.flops / 1e9:.4g} GFLOP/s, {peak.bytes / 1e9:.4g} GB/s")
    model, inputs = workload.build(dtype, device), workload.inputs(dtype, device)
    plans = [(m, _plan(m.on(place.type), workload, steps)) for m in chosen if not isinstance(m, Plain)]
    step = step_seconds(workload, model, inputs) if budget.limited else 0.0
    least = [1.0] * (3 if controls else 1) + [1 / plan.flops_ratio() for _, plan in plans[:1]]
    needed = sum(_needed(step * steps * share, 1) for share in least)
    if needed > budget.left:
        raise OutOfTime(
            f"{budget.too_short_for(needed)} (for plain and what must stand beside it, at {1e3 * step:.3g} ms a plain"
            " step)"
        )
    entries: list[_Entry] = []
    refused: list[tuple[str, str]] = []

    def refuse(label: str, reason: str) -> None:
        refused.append((label, reason))
        tell(f"{label}: refused: {reason}")

    def enter(contender: Contender) -> _Entry:
        entry = _counted(workload, contender, inputs, entries[0].counts[0] if entries else None)
        entries.append(entry)
        tell(f"{contender.label}: executes what it claims")
        return entry

    def fits(label: str, expected: float, rounds: int, tuning: int = 0) -> bool:
        """Whether there is time for a contender whose runs are `expected` to take so long; else it is refused."""
        needed = _needed(expected, rounds, tuning) + (1 + rounds) * sum(entry.run_seconds for entry in entries)
        if needed > budget.left:
            refuse(label, budget.too_short_for(needed))
        return needed <= budget.left

    plain = enter(Contender("plain", twin(model), steps))
    for attached in (True, False) if controls else ():
        enter(Control(twin(model), steps, attached=attached))
    for number, (method, plan) in enumerate(plans):
        if number and not fits(method.label(), step * steps / plan.flops_ratio(), 1):
            continue
        try:
            enter(Accelerated(twin(model), method, plan, workload.timesteps(steps)))
        except Refused as error:
            raise ValueError(f"{method.label()}: {error}") from error
    for rival, setting in itertools.product(rivals, settings(workload, chosen, steps)):
        label = f"{rival.library}:{rival.name} @{len(setting.full_steps)}"
        half = step * (steps + len(setting.full_steps)) / 2  # cached steps as half of full ones: some compute MLPs
        if not fits(label, half, repeats, rival.tuning_runs):
            continue
        try:
            contender = rival(twin(model), setting)
            if isinstance(contender, FirstBlockCache):
                _tune(workload, contender, inputs, plain.counts[0])
            enter(contender)
        except Refused as error:
            refuse(label, str(error))
    noise = inputs["hidden_states"]
    earlier = 0

    def measured() -> Benchmark:
        return Benchmark(
            sizes=sizes(workload.shape),
            steps=steps,
            repeats=len(plain.runs),
            dtype=str(dtype).removeprefix("torch."),
            device=torch.cuda.get_device_name(place) if place.type == "cuda" else device,
            compile=compile,
            peak=peak,
            rows=tuple(_row(entry, plain, noise, peak) for entry in entries),
            refused=tuple(refused),
            keeps_freed_memory=kept,
            earlier_rounds=earlier,
        )

    with _compiling(compile, len(entries)):
        for entry in entries:
            _compile(entry.contender, compile, backend)
        entries = _warmed_up(workload, inputs, entries, budget, refuse)
        tell("warmed up")
        rounds = None
        if keep_beside is not None:
            settings_now = _settings(workload, steps, dtype, place, compile, entries)
            rounds = Kept(Path(keep_beside), settings_now, tell)
            earlier = _earlier_rounds(rounds, entries, noise, repeats)
            if earlier:
                tell(f"{rounds.folder}: going on after run {earlier} of {repeats}")
        for repeat in range(earlier + 1, repeats + 1):
            if repeat > 1 and sum(entry.runs[-1].seconds for entry in entries) > budget.left:
                tell(f"no time for run {repeat} of {repeats}")
                break
            shift = repeat % len(entries)
            for entry in entries[shift:] + entries[:shift]:
                entry.runs.append(_clean(workload, entry.contender, inputs))
            last = ", ".join(f"{entry.contender.label} {entry.runs[-1].seconds:.3f} s" for entry in entries)
            tell(f"run {repeat} of {repeats}: {last}")
            if rounds is not None:
                rounds.keep(ROUNDS, {entry.contender.label: [_times(run) for run in entry.runs] for entry in entries})
            if keep is not None and repeat < repeats:
                keep(measured())
    return measured()


def _settings(
    workload: Workload, steps: int, dtype: torch.dtype, place: torch.device, compile: str, entries: Sequence[_Entry]
) -> dict[str, Any]:
    """What rounds must have in common to stand in one benchmark."""
    return {
        "sizes": sizes(workload.shape),
        "steps": steps,
        "dtype": str(dtype),
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
        "compile": compile,
        "contenders": [entry.contender.label for entry in entries],
        "threads": torch.get_num_threads(),
        "machine": [platform.node(), platform.processor() or platform.machine()],
        "versions": {"dita": __version__, **rival_caches.versions()},
    }


def _times(run: Timed) -> dict[str, Any]:
    return {"seconds": run.seconds, "step_seconds": list(run.step_seconds), "faults": run.faults}


def _earlier_rounds(rounds: Kept, entries: Sequence[_Entry], latents: torch.Tensor, most: int) -> int:
    """Puts the runs of an interrupted benchmark before those to come; how many there are of each."""
    found = rounds.read(ROUNDS)
    if found is None:
        return 0
    for entry in entries:
        for times in found[0][entry.contender.label][:most]:
            faults = times["faults"]
            entry.runs.append(Timed(times["seconds"], tuple(times["step_seconds"]), faults, latents))
    return len(entries[0].runs)


def _needed(run_seconds: float, rounds: int, tuning: int = 0) -> float:
    """Seconds that a contender takes: runs that are counted, which last twice as long, one for memory, and those that
    warm up and are timed."""
    return (2 * (1 + tuning) + 1 + 1 + rounds) * run_seconds


def _plan(method: Method, workload: Workload, steps: int) -> Plan:
    return method.plan(workload.shape, steps, workload.timesteps(steps))


def step_seconds(workload: Workload, model: nn.Module, inputs: Inputs) -> float:
    """Of one plain step, after a first one."""
    plain = Contender("plain", twin(model), 1)
    return [sample(workload, plain, inputs).seconds for _ in range(2)][-1]


def settings(workload: Workload, methods: Sequence[Method], steps: int) -> list[Setting]:
    """What rivals are to match: for each number of full steps among the caching methods, the first one's."""
    order = next((part.order for method in methods if isinstance(part := method.caching, TaylorSeer)), 1)
    found: dict[int, Setting] = {}
    for method in methods:
        if method.run_steps(steps) != steps or isinstance(method, Plain):
            continue
        plan = _plan(method, workload, steps)
        full = tuple(s for s, kind in enumerate(plan.kinds) if kind is Kind.FULL)
        if len(full) < steps:
            found.setdefault(len(full), Setting(steps, full, order))
    return list(found.values())


def _warmed_up(
    workload: Workload, inputs: Inputs, entries: list[_Entry], budget: Budget, refuse: Callable[[str, str], None]
) -> list[_Entry]:
    """The `entries` that ran once more, compiled ones for the first time. Left out are rivals that fail, and where time
    runs short those behind the first method: compiling one is taken to last as long as the longest so far."""
    ready: list[_Entry] = []
    longest = 0.0
    for entry in entries:
        needed = longest + 2 * entry.run_seconds + sum(other.run_seconds for other in ready)
        if any(other.contender.role == "method" for other in ready) and needed > budget.left:
            refuse(entry.contender.label, budget.too_short_for(needed))
            continue
        before = budget.now()
        try:
            _clean(workload, entry.contender, inputs)
        except Exception as error:
            if not isinstance(entry.contender, Rival):
                raise
            refuse(entry.contender.label, f"{type(error).__name__}: {error}")
            continue
        longest = max(longest, budget.now() - before - entry.run_seconds)
        ready.append(entry)
    return ready


def _clean(workload: Workload, contender: Contender, inputs: Inputs) -> Timed:
    with without_collector():
        return sample(workload, contender, inputs)


def _counted(workload: Workload, contender: Contender, inputs: Inputs, plain: StepCount | None) -> _Entry:
    """Runs a contender once, counting. Raises `Refused` if it fails or does not execute what it claims."""
    device: torch.device = inputs["hidden_states"].device
    try:
        counts, peak, timed = _count(workload, contender, inputs)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            timed = sample(workload, contender, inputs)
            peak = torch.cuda.max_memory_allocated(device) - before
    except Exception as error:
        if not isinstance(contender, Rival):
            raise
        raise Refused(f"{type(error).__name__}: {error}") from error
    claims = check(contender, plain or counts[0], counts)
    summary = dita.summary(contender.module, show=False) if isinstance(contender, Accelerated) else None
    return _Entry(
        contender=contender,
        counts=counts,
        claims=claims,
        latents=timed.latents,
        peak_bytes=peak,
        flops=summary.flops if summary is not None else None,
        cache_bytes=summary.cache_bytes if summary is not None else None,
        run_seconds=timed.seconds,
    )


def _count(workload: Workload, contender: Contender, inputs: Inputs) -> tuple[list[StepCount], int, Timed]:
    counting = Counting(blocks_of(contender.module))
    told = contender.before_step

    def before_step(step: int) -> None:
        counting.next_step()
        told(step)

    contender.before_step = before_step  # type: ignore[method-assign]
    try:
        with counting:
            timed = sample(workload, contender, inputs)
    finally:
        del contender.__dict__["before_step"]
    return counting.steps, counting.peak_bytes, timed


def _tune(workload: Workload, contender: FirstBlockCache, inputs: Inputs, plain: StepCount) -> None:
    def run() -> int:
        counts, _, _ = _count(workload, contender, inputs)
        return sum(count.rows == plain.rows for count in counts)

    try:
        contender.tune(run)
    except Exception as error:
        raise Refused(f"{type(error).__name__}: {error}") from error


def _compile(contender: Contender, compile: str, backend: str) -> None:
    if compile == "blocks":
        for block in blocks_of(contender.module):
            block.compile(fullgraph=contender.fullgraph, backend=backend)
    elif compile == "model":
        contender.module.compile(fullgraph=contender.fullgraph, backend=backend)


def _compiling(compile: str, contenders: int) -> AbstractContextManager[object]:
    """As many graphs for each contender as one alone may have: they run the same code, and graphs are counted by it."""
    if compile == "none":
        return nullcontext()
    from torch._dynamo import config  # takes a second to import

    return config.patch(recompile_limit=contenders * config.recompile_limit)


def _row(entry: _Entry, plain: _Entry, noise: torch.Tensor, peak: Peak) -> Row:
    counted = sum(count.flops for count in entry.counts)
    plain_counted = sum(count.flops for count in plain.counts)
    seconds = tuple(run.seconds for run in entry.runs)
    ratio = median(p.seconds / run.seconds for p, run in zip(plain.runs, entry.runs, strict=True))
    flops_ratio = plain_counted / counted
    if isinstance(entry.contender, Accelerated) and entry.flops is not None:
        flops_ratio = entry.contender.plan.plain_flops / entry.flops
    kinds = tuple(claim.kind for claim in entry.claims)
    numbers = {kind: [s for s, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)}
    roofline = sum(peak.seconds(count.pairs) for count in entry.counts)
    rows = {kind: sum(c.rows.get(kind, 0) for c in plain.counts) for kind in plain.counts[0].rows}
    faults = [run.faults for run in entry.runs if run.faults is not None]
    way = (plain.latents - noise).float().norm()
    return Row(
        label=entry.contender.label,
        role=entry.contender.role,
        seconds=seconds,
        seconds_ratio=ratio,
        flops=counted if entry.flops is None else entry.flops,
        flops_ratio=flops_ratio,
        efficiency=ratio / flops_ratio,
        counted_flops=counted,
        step_kinds=kinds,
        steps={
            kind: StepTime(len(steps), median(run.step_seconds[s] for run in entry.runs for s in steps))
            for kind, steps in numbers.items()
        },
        operations={
            kind: sum(entry.counts[s].operations for s in steps) / len(steps) for kind, steps in numbers.items()
        },
        executed={kind: sum(c.rows.get(kind, 0) for c in entry.counts) / total for kind, total in rows.items()},
        error=float((entry.latents - plain.latents).float().norm() / way),
        peak_bytes=entry.peak_bytes,
        cache_bytes=entry.cache_bytes,
        roofline_seconds=roofline,
        over_roofline=median(seconds) / roofline,
        page_faults=median(faults) if faults else None,
    )
