"""Writes README.md beside this file, and "Measured here" of the pages in docs/methods, from the results.json files.

python docs/results/collect.py, after each `dita compare --model NAME --methods all --out docs/results/NAME`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from dita.compare import Comparison, MethodResult, from_json
from dita.methods import METHODS

HERE = Path(__file__).parent
PAGES = HERE.parent / "methods"
MODELS = ("shapes-flux", "shapes-pixart", "shapes-dit", "shapes-opensora")
HEAD = (
    "| {first} | steps that ran | s / image | speed-up | FLOPs ratio | cache MB | PSNR dB | SSIM | right |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)

INTRODUCTION = """# What was measured

Every method on the bundled models of pictures: `dita compare --model NAME --methods all --prompts 16 --steps 28`; on
shapes-opensora with `--prompts 8 --batch 2 --steps 30`. Methods
interleaved in one process, warm-up excluded. Speed-up is seconds against the plain run; the ratio of FLOPs is not
called a speed-up. PSNR and SSIM are against the plain pictures; *right* is the share of the pictures that show all that
their prompts say, by the bundled judge. The models are small: what a step costs besides arithmetic weighs more here
than on large ones; and the intervals of so few pictures are wide (the reports have them). Each report is one HTML file
with its pictures, and plots with the Pareto front. `collect.py` writes this page and the sections "Measured here" of
the methods' pages.
"""


def row(first: str, result: MethodResult) -> str:
    """One line of a table: speed-up in seconds, quality against the plain pictures, and what the judge found right."""
    psnr = f"{result.psnr.mean:.1f}" if result.psnr and result.psnr.mean is not None else ""
    ssim = f"{result.ssim.mean:.3f}" if result.ssim and result.ssim.mean is not None else ""
    right = (
        f"{100 * result.judge.correct.share:.0f} %" if result.judge and result.judge.correct.share is not None else ""
    )
    cells = (
        first,
        result.steps,
        f"{result.seconds_per_image.median:.3g}",
        f"{result.speedup.median:.2f}",
        f"{result.flops_ratio:.2f}",
        f"{result.cache_bytes / 1e6:.3g}",
        psnr,
        ssim,
        right,
    )
    return "| " + " | ".join(cells) + " |\n"


def circumstances(found: Comparison) -> str:
    """Where and how a comparison was made."""
    machine = found.machine
    what = f"clips of {found.frames} frames" if found.frames else "pictures"
    return (
        f"{len(found.prompts)} {what} of {found.steps} steps, {found.dtype}, {machine['threads']} thread of"
        f" {machine['processor']} ({machine['gpu'] or 'no GPU'}), torch {found.versions['torch']},"
        f" {found.started[:10]}"
    )


def summary(comparisons: list[Comparison]) -> str:
    """The page of all tables."""
    text = INTRODUCTION
    for found in comparisons:
        text += f"\n## {found.model}\n\n[Report]({found.model}/report.html), [data]({found.model}/results.json):\n"
        text += circumstances(found) + ".\n\n" + HEAD.format(first="method").replace("image", found.makes)
        text += "".join(row(result.label, result) for result in found.results)
    return text


def measured(name: str, comparisons: list[Comparison]) -> str:
    """The section of a method's page; empty where nothing measured it."""
    rows = [
        row(f"{found.model}, `{result.label}`", result)
        for found in comparisons
        for result in found.results
        if result.method["method"] == name
    ]
    if not rows:
        return ""
    intro = "From [docs/results](../results/README.md), where the machine and the other methods are:\n\n"
    return "## Measured here\n\n" + intro + HEAD.format(first="model and method") + "".join(rows)


def main() -> None:
    """Reads the results and writes the pages."""
    files = [HERE / model / "results.json" for model in MODELS]
    comparisons = [from_json(json.loads(file.read_text())) for file in files if file.exists()]
    (HERE / "README.md").write_text(summary(comparisons))
    for name in METHODS:
        page = PAGES / f"{name}.md"
        before = re.sub(r"\n## Measured here\n.*?(?=\n## |\Z)", "", page.read_text(), flags=re.S).rstrip() + "\n"
        section = measured(name, comparisons)
        page.write_text(before + ("\n" + section if section else ""))


if __name__ == "__main__":
    main()
