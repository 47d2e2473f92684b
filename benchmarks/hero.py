"""Draws the picture of the README from what was measured: docs/figures/hero-light.png and hero-dark.png.

Pictures are drawn here and now with the bundled model, of prompts that no tuning saw; closeness against speed is of one
`dita compare` with the tuned plan that ships with the model among its methods.

    dita compare --model shapes-flux --methods METHODS,dita/miniature/tuned/shapes-flux.json --batch 4 \\
        --prompts examples/shapes_prompts.txt --seed 1000 --out docs/results/hero
    python benchmarks/hero.py docs/results/hero/results.json --out docs/figures

The methods are those in results.json. What they draw there is none of what the plan was tuned on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import dita
from dita import miniature, models
from dita.caching.sampled import sampled_as
from dita.compare import MethodResult, from_json
from dita.methods import FewerSteps, Method, Plain
from dita.methods import from_json as method_from_json
from dita.metrics import psnr
from dita.plots.theme import THEMES, Theme, ThemeName, new_figure

MODEL, STEPS = "shapes-flux", 28
SEED, FIRST = 90_000, 100
GAIN = 4.0
"""By how much differences are made larger than they are."""
KINDS = {
    "tuned": ("tuned by dita", "full", "o"),
    "sampler": ("fewer steps, other sampler", "merged", "s"),
    "fewer steps": ("fewer steps", "soft", "D"),
    "published": ("caches at fixed intervals", "forecast", "^"),
}
"""Of a kind of row: its name, the colour of the theme, and its marker."""


def row_of(result: MethodResult) -> dict[str, Any]:
    """What a result shows: its kind, speed-up and closeness."""
    method = method_from_json(result.method)
    if isinstance(method, FewerSteps):
        kind = "fewer steps" if method.sampler is None else "sampler"
    else:
        kind = "published" if getattr(method, "full_steps", None) is None else "tuned"
    assert result.psnr is not None
    return {"kind": kind, "method": result.method, "speedup": result.speedup.median, "plain": result.psnr.mean}


def drawn(method: Method, prompts: Sequence[str], seeds: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Pictures of the bundled model."""
    pipe, arguments = models.load(MODEL)
    pipe.set_progress_bar_config(disable=True)
    arguments.pop("num_inference_steps")
    fewer = isinstance(method, FewerSteps)
    if not fewer:
        dita.enable(pipe, method)
    with sampled_as(pipe, method):
        out = pipe(
            list(prompts),
            num_inference_steps=method.grid_steps(STEPS) if isinstance(method, FewerSteps) else STEPS,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
            **arguments,
        )
    return [(one * 255).round().clip(0, 255).astype(np.uint8) for one in out.images]


def show(axes: Axes, picture: NDArray[Any], theme: Theme, **options: Any) -> None:
    """One picture without ticks."""
    axes.imshow(picture, interpolation="nearest", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(theme.line)


def front(axes: Axes, rows: Sequence[dict[str, Any]], theme: Theme) -> None:
    """PSNR to plain against speed-up; the front of each kind as a line."""
    for kind, (name, colour, marker) in KINDS.items():
        of_kind = [row for row in rows if row["kind"] == kind and row["speedup"] >= 1.7]
        if not of_kind:
            continue
        best = [
            row
            for row in of_kind
            if not any(o["speedup"] > row["speedup"] and o["plain"] > row["plain"] for o in of_kind)
        ]
        best.sort(key=lambda row: row["speedup"])
        paint = getattr(theme, colour)
        x, y = [row["speedup"] for row in best], [row["plain"] for row in best]
        bold = kind == "tuned"
        axes.plot(
            x,
            y,
            color=paint,
            marker=marker,
            label=name,
            linewidth=2.5 if bold else 1.2,
            markersize=7 if bold else 5,
            markeredgecolor=theme.ink if not bold else paint,
            markeredgewidth=0.6,
            zorder=3 if bold else 2,
        )
    axes.set_xlabel("speed-up in seconds, against plain", color=theme.ink)
    axes.set_ylabel("PSNR to the plain pictures, dB", color=theme.ink)
    axes.grid(color=theme.line, linewidth=0.5)
    axes.set_facecolor(theme.page)
    axes.tick_params(colors=theme.soft)
    for spine in axes.spines.values():
        spine.set_color(theme.line)
    axes.legend(facecolor=theme.page, edgecolor=theme.line, labelcolor=theme.ink, fontsize=9, loc="lower left")


def hero(rows: Sequence[dict[str, Any]], theme_name: ThemeName, pictures: dict[str, list[NDArray[np.uint8]]]) -> Figure:
    """The figure: pictures and their differences on the left, the front on the right."""
    theme = THEMES[theme_name]
    figure = new_figure(theme, 11.5, 4.9)
    left, right = figure.subfigures(1, 2, width_ratios=[1.12, 1])
    names = list(pictures)
    count = len(pictures[names[0]])
    grid = left.subplots(count, 2 * len(names) - 1)
    for row in range(count):
        plain = pictures[names[0]][row]
        column = 0
        for number, name in enumerate(names):
            picture = pictures[name][row]
            show(grid[row, column], picture, theme)
            if row == 0:
                grid[row, column].set_title(name, color=theme.ink, fontsize=9)
            if number:
                difference = np.abs(picture.astype(float) - plain.astype(float)).max(axis=-1) / 255 * GAIN
                column += 1
                show(grid[row, column], difference, theme, cmap="magma", vmin=0, vmax=1)
                decibels = float(np.mean(psnr(picture, plain)))
                grid[row, column].set_xlabel(f"{decibels:.0f} dB", color=theme.soft, fontsize=8, labelpad=2)
                if row == 0:
                    grid[row, column].set_title(f"difference ×{GAIN:.0f}", color=theme.soft, fontsize=9)
            column += 1
    front(right.subplots(), rows, theme)
    for part in (left, right):
        part.set_facecolor(theme.page)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of dita compare")
    parser.add_argument("--out", type=Path, required=True, help="folder of the two pictures")
    parser.add_argument("--prompts", type=int, default=3)
    options = parser.parse_args()
    found = from_json(json.loads(options.results.read_text(encoding="utf-8")))
    rows = [row_of(result) for result in found.results if result.psnr and result.psnr.mean is not None]
    tuned = next(row for row in rows if row["kind"] == "tuned")
    fewer = min(
        (row for row in rows if row["kind"] == "fewer steps"), key=lambda row: abs(row["speedup"] - tuned["speedup"])
    )
    prompts = miniature.prompts(MODEL, FIRST + options.prompts)[FIRST:]
    seeds = range(SEED, SEED + options.prompts)
    methods = {
        "plain": Plain(),
        f"fewer steps, {fewer['speedup']:.1f}×": method_from_json(fewer["method"]),
        f"tuned, {tuned['speedup']:.1f}×": method_from_json(tuned["method"]),
    }
    pictures = {name: drawn(method, prompts, seeds) for name, method in methods.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    for theme in THEMES:
        hero(rows, theme, pictures).savefig(options.out / f"hero-{theme}.png", dpi=160)


if __name__ == "__main__":
    main()
