"""Writes README.md beside this file, and "Measured here" of the pages in docs/methods, from the results.json files.

python docs/results/collect.py, after each `dita compare --model NAME --methods all --out docs/results/NAME`, and after
`dita study selection --out docs/results/study-selection`. It also draws front.svg from each results.json, and
pictures.webp if the images are at hand. Only these, results.json and the pages are committed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from dita.compare import Comparison, MethodResult, from_json
from dita.methods import METHODS
from dita.methods import from_json as method_from_json
from dita.metrics import Average
from dita.quality_plot import pareto_front

HERE = Path(__file__).parent
PAGES = HERE.parent / "methods"
MODELS = ("shapes-flux", "shapes-pixart", "shapes-dit", "shapes-opensora")
STUDY = "study-selection"
SHEET = "pictures.webp"
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
than on large ones; and the intervals of so few pictures are wide (`results.json` has them). The same command draws the
whole report anew, with every picture. `collect.py` writes this page and the sections "Measured here" of the methods'
pages.

In the plots, the line joins the methods that no other one beats in both speed and closeness; what lies below it is
slower and farther from plain than something on it. *F* is a full step, *p* a partial one, *r* a reused one, *f* a
forecast and *s* a skipped one ([glossary](../glossary.md)).
"""
PAPER, INK, FRONT, OTHERS = "#ffffff", "#454c54", "#0b5cd5", "#9aa2ac"
SHOWN = ("plain", "steps:0.35", "fora:3", "toca:4:0.9", "taylorseer:4:1", "duca:5:0.9")
"""The methods in a sheet of pictures, and how many prompts and pixels it has."""
PROMPTS, SIDE, MARGIN, LINE = 4, 128, 8, 18

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
        text += f"\n## {found.model}\n\n[Data]({found.model}/results.json): {circumstances(found)}.\n\n"
        text += f"![PSNR to the plain pictures against seconds, on {found.model}]({found.model}/front.svg)\n\n"
        if (HERE / found.model / SHEET).exists():
            drawn = ", ".join(f"`{label}`" for label in SHOWN)
            text += f"![The first prompts with {', '.join(SHOWN)}]({found.model}/{SHEET})\n\n"
            text += f"From left to right: {drawn}. The same prompts and seeds in each row.\n\n"
        text += HEAD.format(first="method").replace("image", found.makes)
        text += "".join(row(result.label, result) for result in found.results)
    return text


def draw_front(found: Comparison, path: Path) -> None:
    """Closeness to plain against speed, as an SVG."""
    points = [
        (one.label, one.seconds_per_image.median, one.psnr.mean)
        for one in found.results
        if one.psnr is not None and one.psnr.mean is not None
    ]
    front = pareto_front([(seconds, quality) for _, seconds, quality in points])
    with matplotlib.rc_context({"svg.hashsalt": "dita", "svg.fonttype": "none", "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(8, 4.2), layout="constrained", facecolor=PAPER)
        axes = figure.add_subplot()
        others = [points[i] for i in range(len(points)) if i not in front]
        axes.scatter([p[1] for p in others], [p[2] for p in others], s=28, color=OTHERS)
        axes.plot([points[i][1] for i in front], [points[i][2] for i in front], "o-", color=FRONT, markersize=6)
        for i in front:
            label, seconds, quality = points[i]
            place = {"xytext": (6, 6), "textcoords": "offset points", "color": FRONT, "fontweight": "bold"}
            place["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            axes.annotate(label, (seconds, quality), **place)
        plain = found.results[0].seconds_per_image.median
        axes.axvline(plain, color=OTHERS, linestyle=":")
        axes.margins(y=0.12)
        axes.annotate("plain", (plain, axes.get_ylim()[1]), xytext=(-6, -12), textcoords="offset points", ha="right")
        axes.set_xlim(0, plain * 1.08)
        axes.set_xlabel(f"seconds / {found.makes} (left is faster)", color=INK)
        axes.set_ylabel("PSNR to plain, dB (up is closer)", color=INK)
        axes.tick_params(colors=INK)
        axes.spines[:].set_visible(False)
        axes.grid(color=OTHERS, alpha=0.25)
        figure.savefig(path, format="svg", metadata={"Date": None})


def draw_sheet(found: Comparison, folder: Path) -> None:
    """The first prompts with some methods, as one picture; nothing where the images are not at hand."""
    columns = [next(one for one in found.results if one.label == label) for label in SHOWN]
    files = [(one.previews or one.images)[:PROMPTS] for one in columns]
    if not all((folder / name).exists() for column in files for name in column):
        return
    size = (len(columns) * (SIDE + MARGIN) + MARGIN, PROMPTS * (SIDE + MARGIN) + MARGIN + LINE)
    sheet = Image.new("RGB", size, PAPER)
    words = ImageDraw.Draw(sheet)
    for x, (one, column) in enumerate(zip(columns, files, strict=True)):
        left = MARGIN + x * (SIDE + MARGIN)
        words.text((left, MARGIN // 2), one.label, fill=INK, font=ImageFont.load_default(13))
        for y, name in enumerate(column):
            with Image.open(folder / name) as picture:
                picture.seek(getattr(picture, "n_frames", 1) // 2)
                small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(small, (left, MARGIN + LINE + y * (SIDE + MARGIN)))
    sheet.save(folder / SHEET, "WEBP", quality=90, method=6)


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


TUNED = """`python benchmarks/tune.py`: each bundled model is tuned for 2, 3 and 4 times the speed of its plain
pipeline, on prompts that are not those of the table. Then everything that a user could choose instead
runs beside the tuned plans, interleaved with the plain pipeline call by call: fewer steps, other
samplers, every method of dita at its closest setting and, on FLUX, the caches of diffusers and of cache-
dit. Cells: PSNR in dB to the plain pictures, the speed-up in seconds, and the method; the closest that
has at least {reached:.0%} of the goal's speed. {circumstances}

| model, goal | tuned | fewer steps | other sampler | fixed cache of dita | diffusers, cache-dit |
| --- | --- | --- | --- | --- | --- |
"""
REACHED = 0.97
"""Share of a goal's speed-up that counts as reached, as in benchmarks/tune.py."""
KINDS = ("fewer steps", "sampler", "published", "rival")


def tuned_tables(found: dict[str, Any]) -> str:
    """The section "Measured" of the page on tuning, from what benchmarks/tune.py wrote."""
    some = next(iter(found["models"].values()))
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    circumstances = f"{some['held_out']} prompts; {threads} of a CPU, float32, torch {found['torch']}, {found['date']}."
    text = TUNED.format(reached=REACHED, circumstances=circumstances)
    for name, model in found["models"].items():
        for goal in sorted(one["speedup"] for one in model["tunings"].values() if one["reference"] == "plain"):
            rows = [row for row in model["rows"] if row["speedup"] >= REACHED * goal]
            own = next((row for row in model["rows"] if row["label"] == f"tuned {goal:g}x"), None)
            cells = [_cell(own)]
            for kind in KINDS:
                cells.append(_cell(max((r for r in rows if r["kind"] == kind), key=lambda r: r["plain"], default=None)))
            text += f"| {name}, {goal:g}× | " + " | ".join(cells) + " |\n"
    return text + _finer(found["models"].get("shapes-flux"))


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "none"
    name = row["label"] if row["kind"] == "rival" or row["method"] is None else method_from_json(row["method"]).label()
    return f"**{row['plain']:.1f}** at {row['speedup']:.2f}×, `{name}`"


def _finer(flux: dict[str, Any] | None) -> str:
    """Plans that come near plain and converged pictures at once, at the seconds of ten and of five evaluations."""
    both = [row for row in flux["rows"] if row["label"].startswith("tuned both")] if flux else []
    if not flux or not both:
        return ""
    text = (
        "\nTuned with `--reference both`, at the seconds of ten and of five steps, beside samplers and fewer steps."
        f" Converged: eight times the steps; the plain pictures of {flux['steps']} steps are"
        f" {flux['plain_to_converged']:.1f} dB from them.\n\n"
        "| shapes-flux | speed-up | dB to plain | dB to converged |\n| --- | ---: | ---: | ---: |\n"
    )
    others = [row for row in flux["rows"] if row["kind"] in ("fewer steps", "sampler")]
    rows = both + [row for row in others if any(abs(row["speedup"] / one["speedup"] - 1) < 0.12 for one in both)]
    for row in sorted(rows, key=lambda row: row["speedup"]):
        name = f"tuned, `{method_from_json(row['method']).label()}`" if row["kind"] == "tuned" else f"`{row['label']}`"
        text += f"| {name} | {row['speedup']:.2f} | {row['plain']:.1f} | {row['converged']:.1f} |\n"
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
    for found in comparisons:
        draw_front(found, HERE / found.model / "front.svg")
        draw_sheet(found, HERE / found.model)
    selection = from_json(json.loads((HERE / STUDY / "results.json").read_text()))
    (HERE / "README.md").write_text(summary(comparisons) + study(selection) + FINDING)
    tuning = HERE / "tune" / "results.json"
    if tuning.exists():
        page = HERE.parent / "tune.md"
        before = page.read_text().partition("\n## Measured\n")[0]
        page.write_text(before + "\n## Measured\n\n" + tuned_tables(json.loads(tuning.read_text())))
    for name in METHODS:
        page = PAGES / f"{name}.md"
        before = re.sub(r"\n## Measured here\n.*?(?=\n## |\Z)", "", page.read_text(), flags=re.S).rstrip() + "\n"
        section = measured(name, comparisons)
        page.write_text(before + ("\n" + section if section else ""))


if __name__ == "__main__":
    main()
