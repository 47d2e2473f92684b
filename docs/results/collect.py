"""Writes README.md beside this file, and "Measured here" of the pages in docs/methods, from the results.json files.

python docs/results/collect.py, after each `dita compare --model NAME --methods all --out docs/results/NAME`, and after
`dita study selection --out docs/results/study-selection`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from dita.compare import Comparison, MethodResult, from_json
from dita.methods import METHODS
from dita.metrics import Average

HERE = Path(__file__).parent
PAGES = HERE.parent / "methods"
MODELS = ("shapes-flux", "shapes-pixart", "shapes-dit", "shapes-opensora")
STUDY = "study-selection"
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

SELECTION = """
## Does it matter which tokens are computed?

`dita study selection --model shapes-flux`: ToCa with N = 4 and R = 90 % and every score, beside random tokens, none
(`fora:4`) and fewer steps; the question of the survey's figure 3(d). [Data]({study}/results.json): {circumstances}.
In brackets: 95 % intervals.

| method | speed-up | FLOPs ratio | PSNR dB | right | ImageReward (shapes-reward), difference to plain |
| --- | ---: | ---: | ---: | ---: | ---: |
"""

FINDING = """
Not on this model: all scores lie within 0.2 dB of each other and within the intervals, random tokens among them,
which cost nothing to choose and so are the fastest. A tenth of the tokens is worth about 0.8 dB over none. Fewer steps
come closer to the plain picture in the same time: 28 steps of a small model leave a cache little to save.
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
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return (
        f"{len(found.prompts)} {what} of {found.steps} steps, {found.dtype}, {threads} of"
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


def study(found: Comparison) -> str:
    """The section of the study of selections."""
    text = SELECTION.format(study=STUDY, circumstances=circumstances(found))
    for result in found.results:
        right = result.judge.correct if result.judge else None
        reward = next((one for one in result.metrics if one.metric == "image-reward"), None)
        cells = (
            f"`{result.label}`",
            f"{result.speedup.median:.2f}",
            f"{result.flops_ratio:.2f}",
            interval(result.psnr, ".1f") if result.psnr and result.psnr.mean is not None else "",
            f"{right.share:.0%} ({right.low:.0%}–{right.high:.0%})" if right and right.share is not None else "",
            interval(reward.difference, "+.3f") if reward and reward.difference else "",
        )
        text += "| " + " | ".join(cells) + " |\n"
    return text


def interval(average: Average, form: str) -> str:
    """A mean and its interval."""
    return f"{average.mean:{form}} ({average.low:{form}} to {average.high:{form}})"


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
    selection = from_json(json.loads((HERE / STUDY / "results.json").read_text()))
    (HERE / "README.md").write_text(summary(comparisons) + study(selection) + FINDING)
    for name in METHODS:
        page = PAGES / f"{name}.md"
        before = re.sub(r"\n## Measured here\n.*?(?=\n## |\Z)", "", page.read_text(), flags=re.S).rstrip() + "\n"
        section = measured(name, comparisons)
        page.write_text(before + ("\n" + section if section else ""))


if __name__ == "__main__":
    main()
