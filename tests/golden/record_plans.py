"""Records plans/flux_toca.json and plans/pixart_toca.json with the scheduling functions of a clone of ToCa.

python tests/golden/record_plans.py CLONE           compares: names every title whose content differs
python tests/golden/record_plans.py CLONE --write   writes the files anew

CLONE is one of the ToCa repository, whose code has a licence of its own: its functions are imported one by one, and
nothing of it is copied. The titles of a file say what was asked: S steps, N, r the share of computed tokens.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PLANS = Path(__file__).resolve().parent / "plans"
FLUX = "flux-ToCa/src/flux/modules/cache_functions"
PIXART = "PixArt-alpha-ToCa/diffusion/model/cache_functions"
LAYERS = {"img": ("double_stream", 19), "txt": ("double_stream", 19), "single": ("single_stream", 38)}

Words = dict[str, str]


def functions(folder: Path, package: str) -> Callable[[str], Any]:
    """Gives the function of each module by its name, without running the package's `__init__`, which imports models."""
    sys.modules[package] = made = ModuleType(package)
    made.__path__ = [str(folder)]
    return lambda name: getattr(importlib.import_module(f"{package}.{name}"), name)


def tokens(ratio: float, count: int) -> int:
    """How many of `count` tokens are computed: clamped and multiplied in float32, as `cache_cutfresh` does."""
    return int(torch.clamp(torch.tensor(ratio), min=0, max=1) * count)


def flux_types(given: Callable[[str], Any], words: Words) -> str:
    """F or P for each step."""
    steps, cycle = int(words["S"]), int(words["N"])
    cache = {"fresh_ratio": float(words["r"]), "fresh_threshold": cycle, "force_fresh": "global", "cache_counter": 0}
    current: dict[str, Any] = {"num_steps": steps}
    types = ""
    for step in range(steps):
        current["step"] = step
        given("cal_type")(cache, current)
        types += "F" if current["type"] == "full" else "P"
    return types


def flux_tokens(given: Callable[[str], Any], schedule: str, words: Words) -> dict[str, list[int]]:
    """The computed tokens of each layer: of both streams, and of the single stream, which has them together."""
    counts = {"img": int(words["img"]), "txt": int(words["txt"])}
    counts["single"] = counts["img"] + counts["txt"]
    cache = {
        "fresh_ratio": float(words["r"]),
        "fresh_ratio_schedule": schedule,
        "fresh_threshold": int(words.get("N", 4)),
    }
    current = {"step": int(words.get("s", 3)), "num_steps": int(words.get("S", 50)), "module": "mlp"}
    return {
        name: [
            tokens(given("fresh_ratio_scheduler")(cache, {**current, "layer": layer, "stream": stream}), counts[name])
            for layer in range(layers)
        ]
        for name, (stream, layers) in LAYERS.items()
    }


def pixart_plan(given: Callable[[str], Any], schedule: str, words: Words) -> dict[str, Any]:
    """Kinds of all blocks, N(s), and computed tokens, step by step: each full block sets N(s) anew."""
    steps, count, layers = int(words["S"]), int(words["Nt"]), int(words["layers"])
    cache: dict[str, Any] = {
        "fresh_ratio": float(words["r"]),
        "fresh_threshold": int(words["N"]),
        "fresh_ratio_schedule": schedule,
        "force_fresh": "global",
    }
    types: dict[str, str] = {}
    cycles: dict[str, float] = {}
    computed: dict[str, dict[str, list[int]]] = {}
    for step in range(steps):
        kinds, by_module = "", {"cross": [0] * layers, "mlp": [0] * layers}
        for layer in range(layers):
            current = {"step": step, "num_steps": steps, "layer": layer}
            full = bool(given("global_force_fresh")(cache, current))
            kinds += "F" if full else "P"
            if full:
                given("force_scheduler")(cache, current)
            for name, module in (("cross", "cross-attn"), ("mlp", "mlp")):
                ratio = given("fresh_ratio_scheduler")(cache, {**current, "module": module})
                by_module[name][layer] = -1 if full else tokens(ratio, count)
        types[str(step)] = f"{kinds[0]}*{layers}" if len(set(kinds)) == 1 else kinds
        cycles[str(step)] = float(cache["cal_threshold"])
        if "P" in kinds:
            computed[str(step)] = by_module
    plan: dict[str, Any] = {"types_per_step": types, "N_cur_after_step": cycles}
    return plan | {"k_per_layer": computed} if cache["fresh_ratio"] else plan


def recorded(clone: Path, file: str) -> dict[str, Any]:
    """The content of a file, for the titles that it has."""
    titles = json.loads((PLANS / file).read_text())
    flux, pixart = functions(clone / FLUX, "toca_flux"), functions(clone / PIXART, "toca_pixart")
    content: dict[str, Any] = {}
    for title in titles:
        words = dict(word.partition("=")[::2] for word in title.split())
        plain = [word for word in title.split() if "=" not in word]
        if file.startswith("pixart"):
            content[title] = pixart_plan(pixart, plain[0], words)
        elif plain[0] == "types":
            content[title] = flux_types(flux, words)
        else:
            content[title] = flux_tokens(flux, plain[1], words)
    return content


def main() -> None:
    """Compares, or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    differ = 0
    for file in ("flux_toca.json", "pixart_toca.json"):
        before, now = json.loads((PLANS / file).read_text()), recorded(options.clone, file)
        for title in before:
            if before[title] != now[title]:
                differ += 1
                print(f"{file}: {title} differs")
        print(f"{file}: {len(now)} titles")
        if options.write:
            (PLANS / file).write_text(json.dumps(now, separators=(",", ":")) + "\n")
    sys.exit(1 if differ and not options.write else 0)


if __name__ == "__main__":
    main()
