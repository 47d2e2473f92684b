"""What plans, latents and compiled graphs were, to compare with while the code behind them is rebuilt.

python -m tests.snapshots.record            names every snapshot that differs
python -m tests.snapshots.record --write    records them anew: only for a change of what dita computes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import dita
from dita.methods import METHODS, parse
from dita.plan import Plan
from dita.shapes import NAMED_SHAPES
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.caching.test_compile import graphs
from tests.caching.test_contracts import METHODS as CONTRACT_METHODS

FOLDER = Path(__file__).parent
STEPS = (8, 28, 50)
FAMILIES: dict[str, ModuleType] = {one.FAMILY: one for one in (tiny_flux, tiny_pixart, tiny_dit, tiny_opensora)}
FIRST_OF_FAMILY = ("flux-dev", "pixart-alpha-256", "dit-xl-2-256", "opensora-1.2-144p-2s")
MERGING = ("tome:0.5:force=true+toca", "tome:0.5:force=true:reuse_steps=2:reuse_layers=2+fora:3")
PLANNED = tuple(dict.fromkeys((*METHODS, *CONTRACT_METHODS, *MERGING, "toca:4:0.9:strict=true")))
GRAPHS = ("fora:3", "toca:4:0.5", "duca:4:0.6", "taylorseer:3:2", "deltadit:3", "tgate:5")
RUNS = ("one", "two", "guided")


def runs_on(method: str, family: str) -> bool:
    """Whether a method is for a family."""
    try:
        parse(method).check_family(family)
    except ValueError:
        return False
    return True


def digest(data: Any) -> str:
    """Twelve hexadecimal digits of what JSON makes of `data`."""
    return hashlib.sha256(json.dumps(data, allow_nan=False).encode()).hexdigest()[:12]


def actions(plan: Plan) -> list[Any]:
    """What every site does in every step, and the spans that steps pass by."""
    steps = [[[*site, action.kind.value, *action[1:]] for site, action in step.items()] for step in plan.steps]
    return [steps, [[step, asdict(span)] for step, span in plan.skips.items()]]


def plan_snapshot(shape: str, method: str, steps: int) -> str | list[str]:
    """Digests of a plan's JSON and of its actions; the error of a method that refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plan = parse(method).plan(NAMED_SHAPES[shape], steps)
        except ValueError as refused:
            return str(refused)
        data = plan.as_json() | {"method": plan.whole_method.label()}  # a new field with a default changes no plan
        return [digest(data), digest(actions(plan))]


def plan_snapshots(shape: str, methods: Iterable[str] = PLANNED) -> dict[str, Any]:
    """By method, those of every number of steps."""
    methods = [method for method in methods if runs_on(method, NAMED_SHAPES[shape].family)]
    return {method: [plan_snapshot(shape, method, steps) for steps in STEPS] for method in methods}


def call_arguments(family: str, run: str) -> dict[str, Any]:
    """Of a tiny pipeline's call. `guided` is FLUX's second call a step; the others are guided anyway, and here not."""
    if run != "guided":
        return {"count": 1 if run == "one" else 2}
    if family != "flux":
        return {"guidance_scale": 1.0}
    negative = tiny_flux.prompts(1, seed=9)
    return {"true_cfg_scale": 3.0} | {f"negative_{name}": value for name, value in negative.items()}


def latents(family: str, method: str, run: str) -> list[float]:
    """Their mean size, and eight numbers of them."""
    pipe = FAMILIES[family].tiny_pipeline()
    if method != "plain":
        dita.enable(pipe, method)
    found = torch.as_tensor(FAMILIES[family].call(pipe, **call_arguments(family, run))).flatten().double()
    few = found[torch.linspace(0, len(found) - 1, 8).long()]
    return [float(f"{value:.6g}") for value in (found.abs().mean(), *few)]


def latent_snapshots(family: str) -> dict[str, dict[str, list[float]]]:
    """By method, those of every kind of run."""
    methods = [method for method in ("plain", *CONTRACT_METHODS) if runs_on(method, family)]
    return {method: {run: latents(family, method, run) for run in RUNS} for method in methods}


def graph_snapshots(family: str) -> dict[str, list[int]]:
    """By method, how many graphs compiling the blocks and compiling the whole transformer make."""
    methods = [method for method in GRAPHS if runs_on(method, family)]
    return {
        method: [graphs(FAMILIES[family], method, depth=3, steps=10, whole=whole) for whole in (False, True)]
        for method in methods
    }


def stored(name: str) -> dict[str, Any]:
    """The snapshots of a file: `plans`, `latents` or `graphs`."""
    data: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return data


def recorded() -> dict[str, dict[str, Any]]:
    """All snapshots, as they are now, by file."""
    return {
        "plans": {shape: plan_snapshots(shape) for shape in NAMED_SHAPES},
        "latents": {family: latent_snapshots(family) for family in FAMILIES},
        "graphs": {family: graph_snapshots(family) for family in FAMILIES if family != "dit"},
    }


def differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """The places where two snapshots differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from differences(before.get(key), now.get(key), f"{place} {key}")
    elif before != now:
        yield f"{place.strip()}: {before} is now {now}"


def main() -> None:
    """Compares, or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write, found = parser.parse_args().write, False
    for name, now in recorded().items():
        if write:
            lines = (f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in now.items())
            (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
            continue
        for line in differences(stored(name), now):
            found = True
            print(f"{name}: {line}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
