"""What `dita tune` finds on the bundled models, against every fixed method, sampler and rival, on held-out prompts.

For each model and each goal (2, 3 and 4 times the speed of plain) it tunes on one set of prompts. Everything that a
user could choose instead then runs beside the tuned plans on prompts that no tuning saw: fewer steps, fewer steps with
each other sampler, every published method of dita, and on FLUX the caches of diffusers and of cache-dit, each at the
closest setting that reaches the goal in seconds. A first round finds what reaches a goal and is close; the finalists
then run again, interleaved call by call with the plain pipeline, on all held-out prompts. Speed-ups are medians of
seconds against the plain calls of the same batches; PSNR is of decoded pictures, to those of the plain pipeline and to
those of eight times its steps.

    python benchmarks/tune.py --out tuned-benchmark              # hours on two cores
    python benchmarks/tune.py --models shapes-flux --out flux    # tuned before in the folder: not again
    python benchmarks/tune.py --dry --out dry                    # seconds: checks that everything runs

`results.json` in the folder has all figures; `--json` prints them.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dita
from dita import miniature, models
from dita.asking import asking
from dita.bench.contenders import Refused, twin
from dita.bench.rivals import RIVALS, FasterCache, FirstBlockCache, PyramidAttentionBroadcast, Rival, Setting
from dita.caching.sampled import sampled_as
from dita.freed_memory import keep_freed_memory
from dita.methods import FewerSteps, Method, Plain, read_method
from dita.metrics import psnr
from dita.shapes import Shape
from dita.tuning import candidates
from dita.tuning.schedules import even
from dita.whole_files import write_whole

MODELS = ("shapes-flux", "shapes-pixart", "shapes-dit", "shapes-opensora")
GOALS = (2.0, 3.0, 4.0)
CONVERGED = 8
"""Steps of the converged run, for each of plain's."""
REACHED = 0.97
"""Share of a goal's speed-up that counts as reached."""
KEPT = 6
"""Candidates for each goal that go on from the first round."""
TEN, FIVE = "ten", "five"
"""Evaluations of `steps:0.35` of 28 steps, and half of them."""

Pictures = list[NDArray[np.uint8]]


@dataclass
class Entry:
    """Something that draws pictures, and what was measured of it."""

    label: str
    kind: str
    pipe: Any
    enter: Callable[[], Any]
    steps: int
    method: dict[str, Any] | None = None
    rival: Rival | None = None
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    pictures: Pictures = field(default_factory=list)

    @property
    def speedup(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Held:
    """Prompts that no tuning saw, and how the pipeline is asked."""

    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    batch: int
    arguments: dict[str, Any]

    def batches(self) -> Iterator[Held]:
        for i in range(0, len(self.texts), self.batch):
            yield dataclasses.replace(self, texts=self.texts[i : i + self.batch], seeds=self.seeds[i : i + self.batch])


# ------------------------------------------------------------------------------------------------ what is compared


def of_method(pipe: Any, method: Method, kind: str, steps: int, label: str | None = None) -> Entry:
    """A method of dita, or a sampler."""
    stock = isinstance(method, (Plain, FewerSteps))
    run = method.grid_steps(steps) if isinstance(method, FewerSteps) else steps
    enter = partial(sampled_as if stock else dita.enabled, pipe, method)
    return Entry(label or method.label(), kind, pipe, enter, run, method.as_json())


def of_rival(pipe: Any, rival: type[Rival], full: int, steps: int) -> Entry:
    """A cache of another library with `full` full steps, on a pipeline of its own that shares the weights."""
    module = twin(pipe.transformer)
    own = type(pipe)(**{**pipe.components, "transformer": module})
    own.set_progress_bar_config(disable=True)
    contender = rival(module, Setting(steps, even(steps, full)))

    @contextmanager
    def fresh() -> Iterator[None]:
        contender.reset()
        yield

    return Entry(contender.label, "rival", own, fresh, steps, rival=contender)


def with_threshold(entry: Entry, held: Held) -> None:
    """Sets the threshold of a cache that decides while it runs, on one batch of prompts that are not held out."""
    assert isinstance(entry.rival, FirstBlockCache)
    blocks = [*entry.pipe.transformer.transformer_blocks, *entry.pipe.transformer.single_transformer_blocks]
    last = blocks[-1]

    def run() -> int:
        count = 0

        def seen(*_: Any) -> None:
            nonlocal count
            count += 1

        handle = last.register_forward_hook(seen)
        try:
            draw(entry, held)
        finally:
            handle.remove()
        return count

    entry.rival.tune(run)


def draw(entry: Entry, part: Held) -> tuple[Pictures, float]:
    """The pictures of one pipeline call, and its seconds."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in part.seeds]
    with entry.enter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        out = entry.pipe(
            **asking(entry.pipe, list(part.texts)),
            num_inference_steps=entry.steps,
            generator=generators,
            output_type="np",
            **part.arguments,
        )
        seconds = time.perf_counter() - start
    made = out.images if hasattr(out, "images") else out.frames
    return [(np.asarray(one) * 255).round().clip(0, 255).astype(np.uint8) for one in made], seconds


def interleaved(entries: Sequence[Entry], plain: Entry, held: Held, *, apart: int = 8) -> list[Entry]:
    """Runs all entries on all batches, the plain pipeline between every few of them; those that fail are left out."""
    alive = list(entries)
    for entry in (plain, *entries):
        entry.seconds.clear()
        entry.ratios.clear()
        entry.pictures.clear()
    for number, part in enumerate(held.batches()):
        gc.collect()
        pictures, before = draw(plain, part)
        plain.pictures += pictures
        plain.seconds.append(before)
        turn = number * 3 % max(1, len(alive))
        order = alive[turn:] + alive[:turn]
        for first in range(0, len(order), apart):
            group = []
            for entry in order[first : first + apart]:
                try:
                    made, seconds = draw(entry, part)
                except Exception as error:
                    print(f"  {entry.label}: {type(error).__name__}: {error}", file=sys.stderr)
                    alive.remove(entry)
                    continue
                entry.pictures += made
                entry.seconds.append(seconds)
                group.append((entry, seconds))
            _, after = draw(plain, part)
            for entry, seconds in group:
                entry.ratios.append((before + after) / 2 / seconds)
            plain.seconds.append(after)
            before = after
    return alive


def closeness(made: Pictures, wanted: Pictures) -> float:
    """Mean PSNR in dB; identical pictures count as 100."""
    return float(np.mean([min(100.0, float(np.mean(psnr(a, b)))) for a, b in zip(made, wanted, strict=True)]))


def alternatives(pipe: Any, shape: Shape, steps: int, goals: Sequence[float]) -> list[Entry]:
    """Everything that a user could choose instead of tuning, at the settings that may reach a goal."""
    found: dict[Method, str] = {}
    for goal in goals:
        most = math.ceil(steps / goal)
        for count in {most - 1, most, most + 1} - {0, 1}:
            for method in candidates.fewer_steps(shape.family, count, steps):
                found[method] = candidates.group_of(method)
        for ratio in (goal, 1.12 * goal, 1.25 * goal):
            found.update(dict.fromkeys(candidates.fixed_methods(shape, steps, ratio), "published"))
    return [of_method(pipe, method, kind, steps) for method, kind in found.items()]


def _fewer(count: int, steps: int) -> Method:
    """`count` of `steps` with the own sampler."""
    return candidates.fewer_steps("", count, steps)[0]


def others(pipe: Any, steps: int, goals: Sequence[float], calibration: Held) -> list[Entry]:
    """The caches of diffusers and cache-dit on FLUX, at numbers of full steps that may reach a goal."""
    found = []
    counts = sorted({n for goal in goals for n in range(round(steps / goal * 0.8), round(steps / goal) + 1)})
    for rival in RIVALS:
        if rival in (PyramidAttentionBroadcast, FasterCache):
            continue  # they skip attention alone: at most 1.4 times the speed on FLUX, so no goal is in reach
        for count in counts:
            try:
                entry = of_rival(pipe, rival, count, steps)
                if rival is FirstBlockCache:
                    with_threshold(entry, calibration)
            except (Refused, ValueError, RuntimeError) as error:
                print(f"  {rival.library}:{rival.name} @{count}: {error}", file=sys.stderr)
                continue
            found.append(entry)
    return found


# ------------------------------------------------------------------------------------------------ one model


@dataclass(frozen=True)
class Plan:
    """A tuning: its name, its goal, and what it is to come near."""

    name: str
    speedup: float
    reference: str = "plain"


def measure(name: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Everything about one model."""
    pipe, arguments = models.load(name)
    pipe.set_progress_bar_config(disable=True)
    default = arguments.pop("num_inference_steps", 28)
    steps = options.steps or default
    texts = miniature.prompts(name, options.prompts + options.held_out)
    held = Held(
        tuple(texts[options.prompts :]), tuple(range(90_000, 90_000 + options.held_out)), options.batch, arguments
    )
    calibration = Held(tuple(texts[: options.batch]), tuple(range(options.batch)), options.batch, arguments)
    goals = tuple(options.goals)
    plain = of_method(pipe, Plain(), "plain", steps)
    plans = [Plan(f"{goal:g}x", goal) for goal in goals]
    if name == "shapes-flux":
        twice = dataclasses.replace(calibration, texts=calibration.texts * 2, seeds=calibration.seeds * 2)
        for label, count in evaluations(steps).items():
            few = of_method(pipe, _fewer(count, steps), "fewer steps", steps)
            interleaved([few], plain, twice)
            plans.append(Plan(f"both-{label}", few.speedup, "both"))
    tunings = {}
    for plan in plans:
        print(f"{name}: tuning for {plan.name}", file=sys.stderr)
        tunings[plan.name] = tuned(plan, name, texts[: options.prompts], options, out / name / plan.name)
    dita.enable(pipe, Plain())
    draw(plain, next(held.batches()))
    shape = dita.summary(pipe, show=False).shape
    dita.disable(pipe)
    entries = [
        of_method(pipe, read_method(out / name / plan.name)[0], "tuned", steps, f"tuned {plan.name}")
        for plan in plans
        if "answer" in tunings[plan.name]
    ]
    rest = alternatives(pipe, shape, steps, goals)
    if name == "shapes-flux":
        counted = (*goals, *(steps / count for count in evaluations(steps).values()))
        rest = alternatives(pipe, shape, steps, counted) + others(pipe, steps, goals, calibration)
    print(f"{name}: {len(rest)} alternatives, first round", file=sys.stderr)
    first = next(held.batches())
    alive = interleaved(rest, plain, first)
    wanted = {plan.speedup for plan in plans}
    kept: dict[str, Entry] = {}
    for goal in wanted:
        reaching = [entry for entry in alive if entry.speedup >= 0.93 * goal]
        reaching.sort(key=lambda entry: -closeness(entry.pictures, plain.pictures))
        for entry in reaching[:KEPT]:
            kept[entry.label] = entry
        for kind in ("fewer steps", "sampler", "published", "rival"):
            for entry in [one for one in reaching if one.kind == kind][:2]:
                kept[entry.label] = entry
    print(f"{name}: {len(kept)} of them and {len(entries)} tuned plans, all prompts", file=sys.stderr)
    final = interleaved([*entries, *kept.values()], plain, held)
    far = of_method(pipe, Plain(), "converged", steps * CONVERGED)
    far.pictures = [picture for part in held.batches() for picture in draw(far, part)[0]]
    rows = [
        {
            "label": entry.label,
            "kind": entry.kind,
            "method": entry.method,
            "speedup": entry.speedup,
            "quartiles": list(np.quantile(entry.ratios, [0.25, 0.75])),
            "plain": closeness(entry.pictures, plain.pictures),
            "converged": closeness(entry.pictures, far.pictures),
        }
        for entry in final
    ]
    return {
        "model": name,
        "steps": steps,
        "held_out": options.held_out,
        "plain_seconds": statistics.median(plain.seconds) / options.batch,
        "plain_to_converged": closeness(plain.pictures, far.pictures),
        "tunings": {plan.name: dataclasses.asdict(plan) | tunings[plan.name] for plan in plans},
        "first_round": [first_row(e, plain) for e in alive if e.label not in kept],
        "rows": rows,
    }


def first_row(entry: Entry, plain: Entry) -> dict[str, Any]:
    """What the first round found, of the first batch."""
    near = closeness(entry.pictures, plain.pictures[: len(entry.pictures)])
    return {"label": entry.label, "kind": entry.kind, "speedup": entry.speedup, "plain": near}


def evaluations(steps: int) -> dict[str, int]:
    """Of `steps:0.35`, and half of them."""
    return {TEN: round(0.35 * steps), FIVE: max(1, round(0.35 * steps) // 2)}


def tuned(plan: Plan, name: str, prompts: list[str], options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """What a tuning says, and how long it took; one that is finished in the folder is read."""
    if (out / "results.json").exists():
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))
        return {key: found[key] for key in ("answer", "chosen", "spent")} | {"calibration": found.get("calibration")}
    try:
        result = dita.tune(
            name,
            prompts,
            out=out,
            speedup=plan.speedup,
            reference=plan.reference,
            minutes=options.minutes,
            steps=options.steps,
            batch=options.batch,
        )
    except ValueError as error:
        return {"failed": str(error)}
    found = result.as_json()
    return {key: found[key] for key in ("answer", "chosen", "spent")} | {"calibration": found.get("calibration")}


# ------------------------------------------------------------------------------------------------ the bars


def bars(found: dict[str, dict[str, Any]], goals: Sequence[float]) -> list[dict[str, Any]]:
    """What was to be reached, what was, and whether."""
    made = []

    def bar(text: str, figure: float, least: float) -> None:
        made.append({"bar": text, "figure": figure, "least": least, "met": bool(figure >= least)})

    ahead = []
    for name, one in found.items():
        rows = one["rows"]
        for goal in goals:
            mine = _row(rows, f"tuned {goal:g}x")
            rivals = [row for row in rows if row["kind"] != "tuned" and row["speedup"] >= REACHED * goal]
            if mine is None or not rivals:
                bar(f"{name} at {goal:g}x: a plan", -math.inf, 0)
                continue
            best = max(rivals, key=lambda row: row["plain"])
            bar(f"{name} at {goal:g}x: speed-up of the tuned plan", mine["speedup"], REACHED * goal)
            bar(
                f"{name} at {goal:g}x: dB above the best candidate ({best['label']})",
                mine["plain"] - best["plain"],
                -0.2,
            )
            caches = [row for row in rivals if row["kind"] in ("published", "rival")]
            if goal == 3 and caches:
                ahead.append(mine["plain"] - max(row["plain"] for row in caches))
    if len(found) == len(MODELS):
        bar("models at 3x on which it is 3 dB above the best fixed cache", sum(one >= 3 for one in ahead), 2)
    flux = found.get("shapes-flux")
    if flux is not None:
        flux_bars(flux, bar)
    return made


def flux_bars(flux: dict[str, Any], bar: Callable[[str, float, float], None]) -> None:
    """The bars of shapes-flux at the seconds of ten and of five evaluations."""
    rows, tunings = flux["rows"], flux["tunings"]
    ten, five = _row(rows, f"tuned both-{TEN}"), _row(rows, f"tuned both-{FIVE}")
    fewer = _row(rows, _fewer(evaluations(flux["steps"])[TEN], flux["steps"]).label())
    if ten is None or five is None or fewer is None:
        return
    sampler = _best_sampler(rows, tunings[f"both-{TEN}"]["speedup"])
    where = "shapes-flux, ten evaluations"
    bar(f"{where}: speed-up over that of fewer steps", ten["speedup"] / fewer["speedup"], REACHED)
    bar(f"{where}: dB to plain above fewer steps", ten["plain"] - fewer["plain"], 10)
    bar(f"{where}: dB to converged above the best sampler", ten["converged"] - sampler, 1)
    where = "shapes-flux, five evaluations"
    bar(f"{where}: speed-up over that of ten steps", five["speedup"] / fewer["speedup"], 2 * REACHED)
    bar(f"{where}: dB to plain above ten steps", five["plain"] - fewer["plain"], 0)
    bar(f"{where}: dB to converged above ten steps", five["converged"] - fewer["converged"], 0)
    sampler = _best_sampler(rows, tunings[f"both-{FIVE}"]["speedup"])
    bar(f"{where}: dB to converged above the best sampler", five["converged"] - sampler, 2.5)
    seconds = max(one["spent"] for one in tunings.values() if "spent" in one)
    bar("shapes-flux: minutes of tuning below five", 5 - seconds / 60, 0)
    calibrations = [
        one["calibration"] for one in tunings.values() if one.get("calibration") and one["reference"] == "plain"
    ]
    if calibrations:
        bar("shapes-flux: plain runs' seconds that calibration takes below three", 3 - max(calibrations), 0)


def _row(rows: Sequence[dict[str, Any]], label: str) -> dict[str, Any] | None:
    return next((row for row in rows if row["label"] == label), None)


def _best_sampler(rows: Sequence[dict[str, Any]], speedup: float) -> float:
    return max(row["converged"] for row in rows if row["kind"] == "sampler" and row["speedup"] >= REACHED * speedup)


# ------------------------------------------------------------------------------------------------ command line


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of tunings and results")
    parser.add_argument("--beside", nargs="*", type=Path, default=[], help="results.json of other models, to join")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--goals", nargs="+", type=float, default=list(GOALS), help="speed-ups")
    parser.add_argument("--steps", type=int, help="of the plain pipeline; the model's own by default")
    parser.add_argument("--minutes", type=float, default=4.5, help="for each tuning")
    parser.add_argument("--prompts", type=int, default=30, help="for each tuning")
    parser.add_argument("--held-out", type=int, default=32, help="prompts that no tuning sees")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print results.json")
    parser.add_argument("--dry", action="store_true", help="a check of seconds: few steps, prompts and minutes")
    options = parser.parse_args()
    if options.dry:
        options.steps, options.minutes, options.prompts, options.held_out, options.batch = 8, 0.05, 4, 2, 2
        options.goals = [2.0]
    return options


def result_of(found: dict[str, dict[str, Any]], goals: Sequence[float]) -> dict[str, Any]:
    """Everything that is written, of the models that were measured."""
    return {
        "bars": bars(found, goals),
        "models": {name: found[name] for name in MODELS if name in found},
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    options = parsed()
    keep_freed_memory()
    path = options.out / "results.json"
    found: dict[str, Any] = {}
    for earlier in [path, *options.beside]:
        if earlier.exists():
            found.update(json.loads(earlier.read_text(encoding="utf-8"))["models"])
    options.out.mkdir(parents=True, exist_ok=True)
    for name in [*options.models, None]:
        if name is not None:
            found[name] = measure(name, options, options.out)
        write_whole(path, (json.dumps(result_of(found, options.goals), indent=1) + "\n").encode())
    if options.json:
        print(json.dumps(result_of(found, options.goals), indent=1))
        return
    for name, one in found.items():
        print(f"\n{name}: plain {one['plain_seconds']:.3f} s, {one['plain_to_converged']:.1f} dB from converged")
        for row in sorted(one["rows"], key=lambda row: -row["speedup"]):
            near = f"{row['plain']:5.1f} plain  {row['converged']:5.1f} converged"
            print(f"  {row['speedup']:5.2f}x  {near}  {row['label']}")
    print()
    for one in bars(found, options.goals):
        print(f"{'met   ' if one['met'] else 'MISSED'} {one['figure']:8.2f} (at least {one['least']:g})  {one['bar']}")


if __name__ == "__main__":
    main()
