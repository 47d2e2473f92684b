"""The benchmark itself: contenders are checked and counted once, then timed side by side, in turn, in one process."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

import dita
from dita.bench import rivals as rival_caches
from dita.bench.contenders import Accelerated, Claim, Contender, Control, Refused, blocks_of, check, twin
from dita.bench.counting import Counting, StepCount
from dita.bench.rivals import FirstBlockCache, Rival, Setting
from dita.bench.roofline import Peak, measured_peak
from dita.bench.sampling import Timed, keep_freed_memory, sample
from dita.bench.workloads import Inputs, Workload, sizes
from dita.methods import Method, Plain, TaylorSeer
from dita.shapes import Kind
from dita.version import __version__

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
    """Everything that one benchmark measured; `rows` begin with plain, `refused` are (label, reason)."""

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
    """A contender with what its untimed run showed, and its timed runs."""

    contender: Contender
    counts: list[StepCount]
    claims: list[Claim]
    latents: torch.Tensor
    peak_bytes: int
    flops: float | None
    cache_bytes: int | None
    runs: list[Timed] = field(default_factory=list)


@torch.no_grad()
def bench(
    workload: Workload,
    methods: Sequence[Method],
    *,
    rivals: Sequence[type[Rival]] = (),
    steps: int = 50,
    repeats: int = 3,
    controls: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    compile: str = "none",
    tell: Tell = lambda _: None,
) -> Benchmark:
    """Measures `methods` and `rivals` beside the plain transformer and, unless `controls` is False, two controls that
    must cost what it costs.

    Every contender is run once with everything counted, and refused unless it executed in every step what it claims;
    once more as a warm-up; and `repeats` times with the clock, in turn with all others, in another order each time.
    The rivals are set to compute as many full steps as the methods do: each rival once for each such number. `compile`
    is one of `COMPILES`: the blocks, or the whole model, without graph breaks but for rivals. `tell` is told of it all.

    Raises `ValueError` for steps or repeats below 1, a method that the family does not have, and one that does not do
    what its plan says.
    """
    if steps < 1 or repeats < 1:
        raise ValueError(f"steps and repeats must be at least 1, got {steps} and {repeats}")
    if compile not in COMPILES:
        raise ValueError(f"unknown compile {compile!r}; known: {', '.join(COMPILES)}")
    for method in methods:
        method.check_family(workload.shape.family)
    kept = keep_freed_memory()
    place = torch.device(device)
    peak = measured_peak(workload.shape, dtype, place)
    tell(f"peak: {peak.flops / 1e9:.4g} GFLOP/s, {peak.bytes / 1e9:.4g} GB/s")
    model, inputs = workload.build(dtype, device), workload.inputs(dtype, device)
    entries: list[_Entry] = []
    refused: list[tuple[str, str]] = []

    def enter(contender: Contender) -> _Entry:
        entry = _counted(workload, contender, inputs, entries[0].counts[0] if entries else None)
        entries.append(entry)
        tell(f"{contender.label}: executes what it claims")
        return entry

    plain = enter(Contender("plain", twin(model), steps))
    for attached in (True, False) if controls else ():
        enter(Control(twin(model), steps, attached=attached))
    for method in methods:
        if not isinstance(method, Plain):
            try:
                enter(Accelerated(twin(model), method, steps, method.on(place.type).plan(workload.shape, steps)))
            except Refused as error:
                raise ValueError(f"{method.label()}: {error}") from error
    for setting in settings(workload, methods, steps):
        for rival in rivals:
            label = f"{rival.library}:{rival.name} @{len(setting.full_steps)}"
            try:
                contender = rival(twin(model), setting)
                if isinstance(contender, FirstBlockCache):
                    _tune(workload, contender, inputs, plain.counts[0])
                enter(contender)
            except Refused as error:
                refused.append((label, str(error)))
                tell(f"{label}: refused: {error}")
    for entry in entries:
        _compile(entry.contender, compile)
    for repeat in range(-1, repeats):  # the first round is the warm-up
        shift = repeat % len(entries)
        for entry in entries[shift:] + entries[:shift]:
            run = _clean(workload, entry.contender, inputs)
            if repeat >= 0:
                entry.runs.append(run)
        last = ", ".join(f"{e.contender.label} {e.runs[-1].seconds:.3f} s" for e in entries if e.runs)
        tell(f"run {repeat + 1} of {repeats}: {last}" if repeat >= 0 else "warmed up")
    noise = inputs["hidden_states"]
    return Benchmark(
        sizes=sizes(workload.shape),
        steps=steps,
        repeats=repeats,
        dtype=str(dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else device,
        compile=compile,
        peak=peak,
        rows=tuple(_row(entry, plain, noise, peak) for entry in entries),
        refused=tuple(refused),
        keeps_freed_memory=kept,
    )


def settings(workload: Workload, methods: Sequence[Method], steps: int) -> list[Setting]:
    """What rivals are to match: for each number of full steps among the caching methods, the first one's."""
    order = next((part.order for method in methods if isinstance(part := method.caching, TaylorSeer)), 1)
    found: dict[int, Setting] = {}
    for method in methods:
        if method.run_steps(steps) != steps or isinstance(method, Plain):
            continue
        plan = method.plan(workload.shape, steps)
        full = tuple(s for s, kind in enumerate(plan.kinds) if kind is Kind.FULL)
        if len(full) < steps:
            found.setdefault(len(full), Setting(steps, full, order))
    return list(found.values())


def _clean(workload: Workload, contender: Contender, inputs: Inputs) -> Timed:
    """One run, the collector of garbage kept out of it: cycles of an earlier contender would be collected in it."""
    gc.collect()
    gc.disable()
    try:
        return sample(workload, contender, inputs)
    finally:
        gc.enable()


def _counted(workload: Workload, contender: Contender, inputs: Inputs, plain: StepCount | None) -> _Entry:
    """Runs a contender once, counting. Raises `Refused` if it fails or does not execute what it claims."""
    device: torch.device = inputs["hidden_states"].device
    try:
        counts, peak, timed = _count(workload, contender, inputs)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            sample(workload, contender, inputs)
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


def _compile(contender: Contender, compile: str) -> None:
    if compile == "blocks":
        for block in blocks_of(contender.module):
            block.compile(fullgraph=contender.fullgraph)
    elif compile == "model":
        contender.module.compile(fullgraph=contender.fullgraph)


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
