"""What dita is worth on a GPU: the published models at their own sizes, unattended, in less than nine minutes.

    python benchmarks/gpu.py                    everything, the most important parts first
    python benchmarks/gpu.py --minutes 4        the same in less time: fewer repeats, fewer rivals, fewer parts
    python benchmarks/gpu.py --only flux-dev    some parts; --list names them all
    python benchmarks/gpu.py --dry              small models on the CPU: shows that it runs, and measures nothing

Random weights in bfloat16: nothing is downloaded. results.json and table.md are written anew after each part, so that
a run that is killed loses one part. What there was no time for, or what failed, is named in them, with the reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import psutil
import torch
from rich.console import Console

from dita.bench import rivals as caches
from dita.bench import table
from dita.bench.budget import Budget, Clock, OutOfTime
from dita.bench.job import bench
from dita.bench.precision import precision
from dita.bench.workloads import workload
from dita.methods import parse
from dita.version import __version__
from dita.whole_files import write_whole

MINUTES = 9.0
KEPT_BACK = 0.03
"""Share of the time that is left to writing and to leaving."""
GRACE = 1.5
"""A part is stopped once it has taken so many times what it may: what it compiles cannot be foreseen."""
RINGS_AGAIN = 10.0
"""Seconds after which the alarm is repeated: an exception that is raised inside a callback is lost."""

DRY_SCALE, DRY_STEPS, DRY_BATCH = 0.06, 5, 2
DRY_RIVALS = ("cache-dit:dbcache-taylorseer", "diffusers:pab")

RIVALS = (
    "diffusers:taylorseer-modules",
    "cache-dit:dbcache-taylorseer",
    "cache-dit:dbcache",
    "diffusers:magcache",
    "diffusers:taylorseer-lite",
    "diffusers:pab",
    "diffusers:taylorseer",
    "diffusers:fastercache",
    "diffusers:first-block",
)
"""Those first that are most like dita's methods, and last the one that takes a dozen runs to set."""

BAR = 0.9
BAR_METHOD = "toca:4:0.9"
BAR_PARTS = {"eager": "flux-dev", "compiled": "flux-dev-compiled"}
"""The project's bar: this method's efficiency in that part whose plain runs are faster."""

Tell = Callable[[str], None]


class TimeIsUp(BaseException):
    """Raised by the alarm; no `except Exception` on its way shall catch it."""


@dataclass(frozen=True)
class Place:
    """Where it runs; `dry`: at a reduced size."""

    device: str
    dtype: torch.dtype = torch.bfloat16
    dry: bool = False


@dataclass(frozen=True)
class Found:
    """What a part measured: for programs, and one table or several under a heading each."""

    data: dict[str, Any]
    tables: tuple[tuple[str, Sequence[str], list[tuple[str, ...]]], ...]
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Speed:
    """Methods and rivals beside plain. `seconds` is its share of nine minutes, which are shared out anew as they go."""

    legend: ClassVar[str] = table.LEGEND

    name: str
    seconds: float
    shape: str
    steps: int
    methods: tuple[str, ...]
    batch: int = 1
    text_tokens: int | None = None
    rivals: tuple[str, ...] = ()
    controls: bool = False
    compile: str = "none"
    repeats: int = 3

    def about(self) -> str:
        """What it measures, in a line."""
        size = f"{self.shape}, batch {self.batch}, {self.steps} steps"
        count = len(self.rivals)
        beside = f" and {count} rival{'s' if count > 1 else ''}" if count else ""
        how = "" if self.compile == "none" else f", compiled by {self.compile}"
        return f"{size}: {', '.join(self.methods)}{beside}{how}"

    def measure(self, place: Place, seconds: float, tell: Tell) -> Found:
        """Raises what `bench` does."""
        dry = place.dry
        rivals, absent = available([name for name in self.rivals if name in DRY_RIVALS or not dry])
        result = bench(
            workload(
                self.shape,
                scale=DRY_SCALE if dry else 1.0,
                batch=DRY_BATCH if dry else self.batch,
                text_tokens=self.text_tokens,
                dtype=place.dtype,
            ),
            [parse(text) for text in self.methods],
            rivals=rivals,
            steps=DRY_STEPS if dry else self.steps,
            repeats=1 if dry else self.repeats,
            controls=self.controls,
            dtype=place.dtype,
            device=place.device,
            compile=self.compile,
            backend="eager" if dry else "inductor",  # a CPU takes minutes to generate the code
            seconds=seconds,
            tell=tell,
        )
        runs = f"{result.repeats} timed run{'s' if result.repeats > 1 else ''} of each"
        heading = f"{table.heading(result)}; {runs}"
        left_out = (*absent, *result.refused)
        return Found(table.as_json(result), ((heading, table.HEADS, table.lines(result)),), left_out)


@dataclass(frozen=True)
class Correctness:
    """bfloat16 against float32 on a few layers of full width: what it changes with a method, beside what without.

    `slices` are (shape, layers of each stack, methods). ToCa stands there twice, as it is and with random scores: these
    do not depend on the type, so that both runs compute the same tokens.
    """

    legend: ClassVar[str] = table.PRECISION_LEGEND

    name: str
    seconds: float
    slices: tuple[tuple[str, int, tuple[str, ...]], ...]
    steps: int = 8

    def about(self) -> str:
        """What it measures, in a line."""
        parts = ", ".join(f"{layers} layers of {shape}" for shape, layers, _ in self.slices)
        return f"bfloat16 against float32: {parts}, {self.steps} steps"

    def measure(self, place: Place, seconds: float, tell: Tell) -> Found:
        """Slices that there is no time for are left out. Raises what `precision` does, `OutOfTime` where none fits."""
        steps = DRY_STEPS if place.dry else self.steps
        budget = Budget(seconds)
        data, tables, left_out = {}, [], []
        for shape, layers, methods in self.slices:
            work = workload(shape, scale=DRY_SCALE if place.dry else 1.0, layers=layers, dtype=place.dtype)
            chosen = [parse(text) for text in methods]
            try:
                found = precision(
                    work, chosen, steps=steps, dtype=place.dtype, device=place.device, seconds=budget.left
                )
            except OutOfTime as error:
                left_out.append((work.shape.name, str(error)))
                continue
            tell(f"{work.shape.name}: plain {found[0].error:.2e}")
            data[work.shape.name] = [dataclasses.asdict(one) for one in found]
            heading = f"{work.shape.name} in each stack, {work.shape.width} wide, {steps} steps"
            tables.append((heading, table.PRECISION_HEADS, table.precision_lines(found)))
            release(place)
        if not data:
            raise OutOfTime("; ".join(f"{name}: {why}" for name, why in left_out))
        return Found(data, tuple(tables), tuple(left_out))


Part = Speed | Correctness

FLUX = ("toca:4:0.9", "fora:4", "taylorseer:4:1")
PIXART = ("toca:3:0.7", "fora:3", "taylorseer:3:1")
OPENSORA = ("toca:3:0.9", "fora:3")  # a forecast of first order holds 37 GB
VIDEO = "opensora-1.2-480p-2s"

PARTS: tuple[Part, ...] = (
    Speed("flux-dev", 170, "flux-dev", 50, FLUX, rivals=RIVALS),
    Speed("flux-dev-compiled", 150, "flux-dev", 50, FLUX, compile="blocks"),
    Correctness(
        "correctness",
        20,
        (
            ("flux-dev", 2, ("toca:4:0.9", "toca:4:0.9:random", "fora:4", "taylorseer:4:1")),
            ("pixart-alpha-1024", 4, ("toca:3:0.7", "toca:3:0.7:random", "fora:3", "taylorseer:3:1")),
            (VIDEO, 2, ("toca:3:0.9", "toca:3:0.9:random", "fora:3")),
        ),
    ),
    Speed("pixart-1024", 40, "pixart-alpha-1024", 20, PIXART, text_tokens=120, rivals=RIVALS, controls=True),
    Speed("pixart-256", 35, "pixart-alpha-256", 20, PIXART, batch=100, text_tokens=120, rivals=RIVALS),
    Speed("opensora-480p", 75, VIDEO, 30, OPENSORA, rivals=("diffusers:pab", "diffusers:fastercache")),
    Speed("pixart-1024-compiled", 15, "pixart-alpha-1024", 20, PIXART, text_tokens=120, compile="blocks"),
    Speed("pixart-256-compiled", 15, "pixart-alpha-256", 20, PIXART, batch=100, text_tokens=120, compile="blocks"),
    Speed("opensora-480p-compiled", 10, VIDEO, 30, OPENSORA, compile="blocks"),
    Speed("flux-dev-compiled-rivals", 10, "flux-dev", 50, FLUX[1:], rivals=RIVALS[:4], compile="blocks"),
)
"""The most important first."""


def available(names: Sequence[str]) -> tuple[list[type[caches.Rival]], list[tuple[str, str]]]:
    """The rivals that are installed, and (name, why not) of the others."""
    found, absent = [], []
    for name in names:
        try:
            found += caches.chosen(name)
        except ValueError as error:
            absent.append((name, str(error)))
    return found, absent


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raises `TimeIsUp` once so many seconds have passed, where the system has alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), RINGS_AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


def release(place: Place) -> None:
    """Frees what a part leaves: models in cycles, compiled code, the allocator's memory.

    What remains belongs to libraries, and the collector need not look through it before each timed run.
    """
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    gc.freeze()
    if place.device == "cuda":
        torch.cuda.empty_cache()


def attempt(part: Part, place: Place, limit: float, last: float, tell: Tell) -> tuple[str, str, Found | None]:
    """How a part went that may take `limit` seconds and is stopped after `last`: status, why, and what it found."""
    try:
        with stopped_after(last):
            return "done", "", part.measure(place, limit, tell)
    except OutOfTime as error:
        return "left out", str(error), None
    except TimeIsUp:
        return "stopped", f"after {last:.0f} s, when {limit:.0f} s had been its share", None
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"[:2000], None


def run(parts: Sequence[Part], place: Place, out: Path, minutes: float, budget: Budget, tell: Tell) -> dict[str, Any]:
    """All parts, each in its share of the time that is left; files are written whole after each. Returns the report."""
    report: dict[str, Any] = {"dry": place.dry, "minutes": minutes, "machine": machine(place), "parts": []}
    report |= {"finished": False, "bar": verdict([], place.dry)}
    document: list[str] = []
    console = Console(width=max(Console().width, 120))
    release(place)
    for number, part in enumerate(parts):
        left = budget.left
        limit = left * part.seconds / sum(other.seconds for other in parts[number:])
        tell(f"{part.name}: {limit:.0f} of {max(left, 0):.0f} s")
        status, why, found = "left out", "no time is left", None
        if left > 0:
            status, why, found = attempt(part, place, limit, min(left, GRACE * limit), tell)
            release(place)
        entry = {
            "name": part.name,
            "about": part.about(),
            "status": status,
            "why": why,
            "seconds": left - budget.left,
            "limit": limit,
            "settings": dataclasses.asdict(part),
            "left_out": [{"label": label, "reason": reason} for label, reason in found.left_out] if found else [],
            "result": found.data if found else None,
        }
        report["parts"].append(entry)
        report |= {"finished": number + 1 == len(parts), "bar": verdict(report["parts"], place.dry)}
        document.append(section(part, entry, found))
        write(out, report, document)
        show(console, entry, found)
    return report


def show(console: Console, entry: dict[str, Any], found: Found | None) -> None:
    """A part in the terminal."""
    console.print(f"\n[bold]{entry['name']}[/bold]: {entry['about']}", highlight=False)
    if found is None:
        console.print(f"{entry['status']}: {entry['why']}", highlight=False, markup=False)
        return
    for heading, heads, lines in found.tables:
        console.print(heading, highlight=False, markup=False)
        console.print(table.terminal(heads, lines))
    for label, reason in found.left_out:
        console.print(f"{label} is left out: {reason}", highlight=False, markup=False)


def section(part: Part, entry: dict[str, Any], found: Found | None) -> str:
    """A part in Markdown."""
    text = f"## {part.name}\n\n{part.about()}\n"
    if found is None:
        return f"{text}\n{entry['status']}: {' '.join(entry['why'].split())}\n"
    for heading, heads, lines in found.tables:
        text += f"\n{heading}\n\n{table.markdown(heads, lines)}"
    if found.left_out:
        text += "\n" + "".join(f"* {label} is left out: {' '.join(why.split())}\n" for label, why in found.left_out)
    return f"{text}\n{part.legend}\n"


def write(out: Path, report: dict[str, Any], sections: Sequence[str]) -> None:
    """results.json and table.md, each whole or as it was."""
    what = report["machine"]
    cuda = f", driver {what['driver']}, CUDA {what['cuda']}" if what["gpu"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in what["versions"].items())
    where = f"{what['gpu'] or what['cpu']}{cuda}; {versions}; {what['date']}"
    dry = "A dry run on the CPU, at a reduced size: these are no measurements.\n\n" if report["dry"] else ""
    unfinished = "" if report["finished"] else "Not finished: parts are missing.\n\n"
    head = f"# benchmarks/gpu.py\n\n{dry}{unfinished}{where}\n\n**{report['bar']['text']}**\n"
    write_whole(out / "table.md", "\n".join([head, *sections]).encode())
    write_whole(out / "results.json", (json.dumps(finite(report), indent=1, allow_nan=False) + "\n").encode())


def finite(data: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(data, dict):
        return {name: finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def verdict(entries: Sequence[dict[str, Any]], dry: bool) -> dict[str, Any]:
    """Whether the bar is reached (None: that is not known), the figures, and a line that says so."""
    label = parse(BAR_METHOD).label()
    figures: dict[str, dict[str, float]] = {}
    for how, name in BAR_PARTS.items():
        done = [entry for entry in entries if entry["name"] == name and entry["result"]]
        rows = {row["label"]: row for row in done[-1]["result"]["rows"]} if done else {}
        if label in rows:
            seconds, efficiency = median(rows["plain"]["seconds"]), rows[label]["efficiency"]
            figures[how] = {"plain_seconds": seconds, "efficiency": efficiency}
    told = "; ".join(f"{how} {f['efficiency']:.3f} (plain {f['plain_seconds']:.3f} s)" for how, f in figures.items())
    what = f"Efficiency of {BAR_METHOD} on flux-dev"
    reached, faster = None, min(figures, key=lambda how: figures[how]["plain_seconds"], default=None)
    if dry:
        text = f"{what}: not judged, as this is a dry run at a reduced size"
    elif len(figures) < len(BAR_PARTS) or faster is None:
        missing = ", ".join(how for how in BAR_PARTS if how not in figures)
        text = f"{what}: the bar of {BAR} is not judged, for want of: {missing}{f'. Measured: {told}' if told else ''}"
    else:
        reached = figures[faster]["efficiency"] >= BAR
        is_reached = "is reached" if reached else "is not reached"
        text = f"{what}: {told}. Plain is faster {faster}: the bar of {BAR} {is_reached}"
    return {"bar": BAR, "reached": reached, "judged": faster if reached is not None else None, **figures, "text": text}


def machine(place: Place) -> dict[str, Any]:
    """What it runs on, and with what."""
    cuda = place.device == "cuda"
    versions = {"dita": __version__, **caches.versions()}
    for package in ("transformers", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "gpu_memory_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": said("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def said(*command: str) -> str | None:
    """The first line that a command prints; None where it is absent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def chosen(names: Sequence[str]) -> list[Part]:
    """The parts of these names, in the order of `PARTS`; all where none are named. Raises `ValueError`."""
    wanted = [name.strip() for text in names for name in text.split(",") if name.strip()]
    known = [part.name for part in PARTS]
    for name in wanted:
        if name not in known:
            raise ValueError(f"unknown part {name!r}; known: {', '.join(known)}")
    return [part for part in PARTS if not wanted or part.name in wanted]


def main(arguments: Sequence[str] | None = None, spent: float = 0.0, clock: Clock = time.monotonic) -> int:
    """0; 1 where a part failed; 2 where nothing could be begun. `spent`: seconds of the time that are gone already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long it may take; %(default)g by default")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="some parts, with commas between")
    parser.add_argument("--list", action="store_true", help="print the parts, and do nothing else")
    parser.add_argument("--dry", action="store_true", help="small models on the CPU, once")
    parser.add_argument("--out", type=Path, help="folder of the results; gpu-results in $OUT, or here, by default")
    options = parser.parse_args(arguments)
    try:
        parts = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    if not options.minutes > 0:
        parser.error(f"minutes must be above 0, got {options.minutes:g}")
    if options.list:
        for part in parts:
            print(f"{part.name:<26}{part.seconds:>4.0f} s  {part.about()}")
        return 0
    if not options.dry and not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is False; --dry runs small models on the CPU", file=sys.stderr)
        return 2
    place = Place("cpu" if options.dry else "cuda", dry=options.dry)
    out = options.out or Path(os.environ.get("OUT") or ".") / "gpu-results"
    out.mkdir(parents=True, exist_ok=True)
    budget = Budget(60 * options.minutes * (1 - KEPT_BACK) - spent, clock)
    began = clock()

    def tell(line: str) -> None:
        print(f"{spent + clock() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        report = run(parts, place, out, options.minutes, budget, tell)
    finally:
        gc.unfreeze()
    print(f"\n{report['bar']['text']}\n{out / 'results.json'}, {out / 'table.md'}")
    for entry in report["parts"]:
        if entry["status"] != "done":
            print(f"{entry['name']}: {entry['status']}: {entry['why'].splitlines()[0]}")
    return int(any(entry["status"] == "failed" for entry in report["parts"]))


if __name__ == "__main__":
    sys.exit(main(spent=time.time() - psutil.Process().create_time()))
