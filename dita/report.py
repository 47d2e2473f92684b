"""A comparison as a person reads it: a table, a plot, a page with the pictures, and the folder that holds them."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from PIL import Image
from rich.console import Group as Lines
from rich.text import Text

from dita.clips import PREVIEW_SIDE, animation, film_strip, is_clip, light_animation
from dita.metrics.catalogue import METRICS
from dita.metrics.picture_sets import MANIFEST_LINES, picture_id, write_manifest
from dita.output_files import write_file, writing
from dita.quality_plot import METRICS as PLOTTED
from dita.quality_plot import SERIES, quality_plot
from dita.terminal import Column, FittingTable
from dita.whole_files import remove_partial

if TYPE_CHECKING:
    from dita.comparison import Comparison, MethodResult, Spread
    from dita.metrics import Average, Share

RESULTS, MARKDOWN, PAGE, IMAGES = "results.json", "report.md", "report.html", "images"
UNFINISHED = "unfinished"  # folder of a comparison that is being made, or was interrupted
PIXELATED_BELOW = 160  # pictures with fewer pixels a side are shown enlarged, each pixel as a square
EMBEDDED_SIDE = 512  # pixels a side, at most, inside the page; larger pictures are scaled down and link to their file
STRIP = (8192, 96)  # pixels of a film strip, at most, inside the page

NOTES = (
    (
        "Speed-up",
        "is measured in seconds: wall-clock time of the whole pipeline call, text encoding and decoding included. It is"
        " the median, over the same batches, of the plain pipeline's seconds divided by the method's. Beside it: the"
        " quartiles.",
    ),
    (
        "FLOPs ratio",
        "is arithmetic: the transformer FLOPs of the plain pipeline over those of the steps that ran, scoring and"
        " matching of tokens included. It says what could be saved at best, not what was, and is never a speed-up.",
    ),
    ("Steps that ran:", "F full, p partial (some tokens computed), r reuse (none computed)."),
    (
        "PSNR and SSIM",
        "compare with the plain picture of the same prompt and seed. They say how close a picture is, not how good: one"
        " that differs may be as good. Beside them: the 95 % interval of the mean, by bootstrap over the pictures.",
    ),
    (
        "The rivals to beat",
        "are fewer steps and random selection: a cache earns its place where it is closer to the plain picture in the"
        " same time.",
    ),
)
"""What the columns mean, as (term, rest of the sentence)."""

FOLDER_NOTES = (
    (
        "Speed-up, as noted,",
        "is from the seconds that `dita generate` noted for each picture: its share of the pipeline call. The folders"
        " were made one after another, perhaps in other batches or on other machines, and first calls are slow: nothing"
        " was interleaved, so this is no measurement of speed. It is the median over pairs. Beside it: the quartiles.",
    ),
    *NOTES[3:4],
    (
        "Not here:",
        "the steps that ran, their FLOPs and the cache are counted while pictures are made; `dita plan` works them out,"
        " and `dita compare` without --pictures measures.",
    ),
)
"""The same where the pictures were read from folders."""

JUDGE_NOTE = (
    "Judge right",
    "is the share of pictures that show all that their prompts say: shapes, colours, count, relation, said sizes, sign"
    " and background, read by the shapes world's ground-truth judge. It says how good pictures are, not how close."
    " Beside it: Wilson's 95 % interval.",
)
"""Stands among the notes where pictures were judged."""

CLIP_NOTES = (
    (
        "Of clips",
        "PSNR and SSIM are compared frame by frame, and a clip's value is the mean over its frames. Further metrics are"
        " those of the frame in the middle.",
    ),
    (
        "Steadiness",
        "is VBench's temporal flickering, 1 - the mean difference of neighbouring frames: 1 is a still picture. Larger"
        " is steadier, not better: read it beside the plain pipeline's.",
    ),
)
"""Stand among the notes where clips were made."""

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("dita", "report_template"),
    autoescape=lambda name: bool(name and "html" in name),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def closeness(result: MethodResult, number: int) -> str:
    """What a picture says below it of how close it is to the plain one."""
    if number in result.broken:
        return "NaN"
    if not result.ssim_each:
        return "reference"
    if result.ssim_each[number] is None:
        return "not compared"
    value = result.psnr_each[number]
    return "identical" if value is None else f"{value:.1f} dB"


_templates.globals["closeness"] = closeness


@dataclass(frozen=True)
class Cell:
    """One number of the table as text; its spread or interval, and a remark, may be empty."""

    value: str
    range: str = ""
    remark: str = ""

    def __str__(self) -> str:
        extra = ", ".join(filter(None, (self.range, self.remark)))
        return f"{self.value} ({extra})" if extra else self.value


@dataclass(frozen=True)
class Row:
    """One method's line of the table, formatted.

    `share` is its median time over that of the plain pipeline, `extra` the cells under `extra_heads`. `broken` and
    `constant` say how many pictures hold NaN, and how many are of one colour; empty for none.
    """

    label: str
    role: str
    steps: str
    seconds: Cell
    speedup: Cell
    tflops: str
    flops_ratio: str
    cache_mb: str
    psnr: Cell
    ssim: Cell
    judge: Cell
    share: float
    extra: tuple[Cell, ...] = ()
    broken: str = ""
    constant: str = ""


def rows(comparison: Comparison) -> list[Row]:
    """The table of a comparison: seconds an image and speed-up with quartiles, PSNR and SSIM with 95 % intervals."""
    plain_seconds = comparison.results[0].seconds_per_image.median
    return [
        Row(
            label=result.label,
            role=result.role,
            steps=result.steps or "–",
            seconds=spread_cell(result.seconds_per_image),
            speedup=spread_cell(result.speedup, "×") if result.psnr else Cell("1.00×"),
            tflops="–" if result.tflops is None else three_digits(result.tflops),
            flops_ratio="–" if result.flops_ratio is None else f"{result.flops_ratio:.2f}",
            cache_mb="–" if result.cache_bytes is None else three_digits(result.cache_bytes / 1e6),
            psnr=_average_cell(result.psnr, ".1f"),
            ssim=_average_cell(result.ssim, ".3f"),
            judge=_share_cell(result.judge.correct if result.judge else None),
            share=result.seconds_per_image.median / plain_seconds,
            extra=tuple(_extra_cell(result, name) for name in _extra_names(comparison)),
            broken=_counted(result.broken, comparison, "NaN or infinity", "hold"),
            constant=_counted(result.constant, comparison, "one colour", "are of"),
        )
        for result in comparison.results
    ]


def extra_heads(comparison: Comparison) -> list[str]:
    """Heads of the columns that not every comparison has: memory and energy where measured, metrics as asked for."""
    fixed = {"memory": "peak MB", "energy": f"J / {comparison.makes}", "flicker": "steadiness of frames"}
    return [fixed.get(name) or METRICS[name].title for name in _extra_names(comparison)]


def terminal_table(comparison: Comparison) -> Lines:
    """The table for a terminal of any width, a line a method, and the remarks below it."""
    made = comparison.makes
    judged = _is_judged(comparison)
    counted = not comparison.folders
    noted = ("median", "in s") if counted else ("as noted", "as noted")
    columns = [Column(f"s / {made}\n{noted[0]}"), Column(f"speed-up\n{noted[1]}")]
    if counted:
        costs = [Column(f"TFLOPs\n/{made}", 3), Column("FLOPs\nratio", 2), Column("cache\nMB", 2)]
        columns = [Column("steps\nthat ran", 1), *columns, *costs]
    columns += [Column("PSNR\ndB"), Column("SSIM\n"), *([Column("judge\nright")] if judged else [])]
    metrics = len(_metric_names(comparison))
    columns += [
        Column(head.replace(" ", "\n", 1), 1) for head in (extra_heads(comparison)[-metrics:] if metrics else ())
    ]
    table = FittingTable("method", columns)
    for row, result in zip(rows(comparison), comparison.results, strict=True):
        time = result.seconds_per_image
        spread = f" ±{50 * (time.high - time.low) / time.median:.0f}%" if time.count > 1 else ""
        cells = [row.seconds.value + spread, row.speedup.value]
        if counted:
            cells = [row.steps, *cells, row.tflops, row.flops_ratio, row.cache_mb]
        cells += [row.psnr.value, row.ssim.value]
        cells += [row.judge.value] if judged else []
        cells += [cell.value for cell in row.extra[-metrics:]] if metrics else []
        table.add(row.label, cells, "red" if row.broken else None)
    remarks = ["± is half the distance between the quartiles"]
    if not counted:
        remarks.append("seconds are those noted in the folders: not interleaved, so no measurement of speed")
    remarks += [
        f"{row.label}: {remark}"
        for row in rows(comparison)
        for remark in (row.role, row.broken, row.constant, row.psnr.remark)
        if remark
    ]
    remarks += comparison.notes
    remarks += [fact for _, fact in _metric_notes(comparison, warnings_only=True)]
    return Lines(table, Text(), *(Text(remark, style="italic dim") for remark in remarks))


def title(comparison: Comparison) -> str:
    """What was compared, in a line."""
    methods, count = len(comparison.results), comparison.pictures
    what = "picture" if comparison.folders else "prompt"
    return (
        f"{comparison.model}: {methods} method{'s'[: methods != 1]}, {count} {what}{'s'[: count != 1]},"
        f" {comparison.steps} steps, {comparison.device} in {comparison.dtype}"
    )


def markdown(comparison: Comparison) -> str:
    """The report as Markdown, with the pictures as links to the files beside it."""
    return _templates.get_template("report.md.j2").render(_content(comparison))


def page(comparison: Comparison, pictures: Mapping[str, Sequence[np.ndarray]]) -> str:
    """The report as one HTML page that needs nothing else: style, plots and pictures are inside.

    `pictures` holds the uint8 (H, W, 3) pictures, or clips (T, H, W, 3), of each method by its label, in the order of
    the prompts. Clips move, and their frames stand beside each other in a contact sheet.
    """
    largest = max(max(picture.shape[-3:-1]) for group in pictures.values() for picture in group)
    plots = [quality_plot(comparison, metric) for metric in PLOTTED]
    return _templates.get_template("report.html.j2").render(
        _content(comparison),
        sources={label: [data_uri(picture) for picture in group] for label, group in pictures.items()},
        strips={
            label: [_strip_uri(film_strip(clip)) for clip in group if is_clip(clip)]
            for label, group in pictures.items()
        },
        plots=[plot for plot in plots if plot],
        pixelated=largest < PIXELATED_BELOW,
        scaled_down=largest > (PREVIEW_SIDE if comparison.frames else EMBEDDED_SIDE),
        series=SERIES,
    )


def write(
    comparison: Comparison, pictures: Mapping[str, Sequence[np.ndarray]], out: Path, *, drawn: Path | None = None
) -> list[Path]:
    """Writes pictures, `results.json`, `report.md` and `report.html` into `out`; returns the paths of the last three.

    Each file is whole or not there at all; what cannot be shown costs no figures, as `results.json` comes before the
    pages. Pictures of an earlier comparison in `out` are removed. `drawn` is a folder that holds the files of the
    pictures already, laid out as in the results.

    Raises `CannotWriteError` where there is no room.
    """
    with writing(out / IMAGES):
        out.mkdir(parents=True, exist_ok=True)
        remove_partial(out, RESULTS, MARKDOWN, PAGE)
        _write_images(comparison, pictures, out, drawn)
    contents: dict[str, Callable[[], str]] = {
        RESULTS: lambda: json.dumps(comparison.as_json(), indent=1, allow_nan=False) + "\n",
        MARKDOWN: lambda: markdown(comparison),
        PAGE: lambda: page(comparison, pictures),
    }
    for name, made in contents.items():
        write_file(out / name, made().encode())
    return [out / name for name in contents]


def check_folder(out: Path, overwrite: bool = False, *, resumes: bool = False) -> Path:
    """`out`, if results may be written there: it is new or empty, or holds those of an earlier comparison.

    resumes: it may also hold an interrupted comparison and nothing else.
    Raises `FileExistsError` otherwise, unless `overwrite` is set; and always for the folder of a job of `dita
    generate`, whose pictures results would replace; `NotADirectoryError` for a file.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{str(out)!r} is a file; give a folder to write the results into")
    if not out.is_dir():
        return out
    if (out / MANIFEST_LINES).is_file():
        raise FileExistsError(f"folder {str(out)!r} holds pictures of dita generate: give another folder")
    unfinished = resumes and (out / UNFINISHED).is_dir()
    others = [path for path in out.iterdir() if not (unfinished and path.name == UNFINISHED)]
    started = unfinished and (out / UNFINISHED / "job.json").is_file()
    if not overwrite and others and not started and not (out / RESULTS).is_file():
        raise FileExistsError(
            f"folder {str(out)!r} holds other files and no {RESULTS}; give another folder,"
            " or --overwrite to write there all the same"
        )
    return out


def image_paths(label: str, count: int, extension: str = "png") -> tuple[str, ...]:
    """Where the pictures of a method are, relative to the results; or, with `gif`, the animations of its clips."""
    folder = re.sub(r"[^\w.=+-]+", "-", label)
    return tuple(f"{IMAGES}/{folder}/{index:04d}.{extension}" for index in range(count))


def _content(comparison: Comparison) -> dict[str, Any]:
    table = rows(comparison)
    return {
        "comparison": comparison,
        "title": title(comparison),
        "rows": table,
        "notes": (
            *(FOLDER_NOTES if comparison.folders else NOTES),
            *(CLIP_NOTES if comparison.frames else ()),
            *([JUDGE_NOTE] if _is_judged(comparison) else ()),
            *_metric_notes(comparison),
            *(("Note:", note) for note in comparison.notes),
        ),
        "judged": _is_judged(comparison),
        "extra_heads": extra_heads(comparison),
        "findings": _findings(comparison, table),
        "version": comparison.versions["dita"],
        "hardware": comparison.machine.get("gpu" if comparison.device.startswith("cuda") else "processor")
        or comparison.device,
        "counted": not comparison.folders,
        "noted": ", as noted" if comparison.folders else "",
        "machine": {key: value for key, value in comparison.machine.items() if value},
    }


def _findings(comparison: Comparison, table: Sequence[Row]) -> list[tuple[str, str]]:
    """The two facts that a reader looks for first, as (what, in numbers)."""
    compared = [(r, row) for r, row in zip(comparison.results, table, strict=True) if r.psnr and not r.broken]
    if not compared:
        return []
    fastest, row = max(compared, key=lambda pair: pair[0].speedup.median)
    how = ", as noted" if comparison.folders else ""
    found = [("Fastest" + how, f"{fastest.label}: {row.speedup.value} the speed of plain, PSNR {row.psnr.value} dB")]
    means = [(r.psnr.mean, r.label, row) for r, row in compared if r.psnr and r.psnr.mean is not None]
    if means:
        _, closest, row = max(means, key=lambda entry: entry[0])
        found.append(("Closest", f"{closest}: PSNR {row.psnr.value} dB, {row.speedup.value} the speed of plain"))
    return found


def _metric_names(comparison: Comparison) -> list[str]:
    found = {result.metric for method in comparison.results for result in method.metrics}
    return [name for name in METRICS if name in found]


def _extra_names(comparison: Comparison) -> list[str]:
    memory = any(result.peak_bytes is not None for result in comparison.results)
    energy = any(result.joules_per_image is not None for result in comparison.results)
    flicker = any(result.flicker is not None for result in comparison.results)
    return ["memory"] * memory + ["energy"] * energy + ["flicker"] * flicker + _metric_names(comparison)


def _extra_cell(result: MethodResult, name: str) -> Cell:
    if name == "memory":
        return Cell("–" if result.peak_bytes is None else three_digits(result.peak_bytes / 1e6))
    if name == "energy":
        return Cell("–" if result.joules_per_image is None else three_digits(result.joules_per_image))
    if name == "flicker":
        return _average_cell(result.flicker, ".4f")
    found = next((metric for metric in result.metrics if metric.metric == name), None)
    if found is None:
        return Cell("–")
    form = METRICS[name].form
    cell = _average_cell(found.value, form)
    change = found.difference
    if change is None or change.mean is None:
        return cell
    between = "" if change.low is None else f" ({change.low:+{form}} to {change.high:+{form}})"
    return Cell(cell.value, cell.range, f"{change.mean:+{form}}{between} against plain")


def _metric_notes(comparison: Comparison, *, warnings_only: bool = False) -> list[tuple[str, str]]:
    """What the further columns mean, and what to distrust in them, as (term, rest of the sentence)."""
    notes = []
    for name in _metric_names(comparison):
        metric = METRICS[name]
        found = [r for method in comparison.results for r in method.metrics if r.metric == name]
        by = found[0].identity
        network = f" By {by.network} (weights {by.weights[:12]}, resize: {by.resize})." if by else ""
        if not warnings_only:
            notes.append((f"{metric.title}:", f"{metric.range}, {metric.better} is better ({metric.source}).{network}"))
        warnings = dict.fromkeys(warning for result in found for warning in result.warnings)
        notes += [
            (f"{metric.title}:", f"{metric.title}: {warning}" if warnings_only else warning) for warning in warnings
        ]
    if comparison.bundled:
        names = ", ".join(comparison.bundled)
        fact = f"{names} stand in for the published networks: their values compare only with each other."
        notes.append(("Bundled small networks:", f"bundled small networks {fact}" if warnings_only else fact))
    return notes


def three_digits(value: float) -> str:
    """Rounded to three digits, whole numbers as they are: 0.0512, 4.70, 1204."""
    if not value:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def spread_cell(spread: Spread, unit: str = "") -> Cell:
    """A median, with its quartiles where there are several measurements."""
    value = three_digits(spread.median) + unit
    between = f"{three_digits(spread.low)}–{three_digits(spread.high)}"
    return Cell(value, between) if spread.count > 1 else Cell(value)


def _counted(numbers: Sequence[int], comparison: Comparison, what: str, how: str) -> str:
    """`3 of 16 pictures hold NaN or infinity`; empty for none."""
    if not numbers:
        return ""
    makes = "clips" if comparison.frames else "pictures"
    return f"{len(numbers)} of {comparison.pictures} {makes} {how} {what}"


def _average_cell(average: Average | None, form: str) -> Cell:
    if average is None or (average.mean is None and not average.infinite):
        return Cell("–")
    if average.mean is None:
        return Cell("identical")
    value = f"{average.mean:{form}}"
    remark = f"{average.infinite} identical" if average.infinite else ""
    if average.low is None or average.high is None:
        return Cell(value, remark=remark)
    between = "–" if average.low >= 0 else " to "
    return Cell(value, f"{average.low:{form}}{between}{average.high:{form}}", remark)


def _is_judged(comparison: Comparison) -> bool:
    return any(result.judge for result in comparison.results)


def _share_cell(share: Share | None) -> Cell:
    if share is None or share.share is None or share.low is None or share.high is None:
        return Cell("–")
    between = f"{100 * share.low:.0f}–{100 * share.high:.0f} %"
    return Cell(f"{100 * share.share:.0f} %", between, f"{share.right} of {share.count}")


def _strip_uri(strip: np.ndarray) -> str:
    """A film strip inside the page, WebP."""
    image, buffer = Image.fromarray(strip), io.BytesIO()
    image.thumbnail(STRIP, Image.Resampling.LANCZOS)
    image.save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def data_uri(picture: np.ndarray) -> str:
    """The picture inside the page: PNG as it is, or a smaller JPEG of a large one; WebP of a clip."""
    if is_clip(picture):
        return "data:image/webp;base64," + base64.b64encode(light_animation(picture)).decode()
    image, buffer = Image.fromarray(picture), io.BytesIO()
    if max(image.size) <= EMBEDDED_SIDE:
        image.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    image.thumbnail((EMBEDDED_SIDE, EMBEDDED_SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _write_images(
    comparison: Comparison, pictures: Mapping[str, Sequence[np.ndarray]], out: Path, drawn: Path | None
) -> None:
    """Writes all pictures into a temporary folder, which then takes the place of the folder of pictures."""
    for left in out.glob(f".{IMAGES}.*.*"):  # of a writer that was killed
        shutil.rmtree(left, ignore_errors=True)
    fresh, stale = out / f".{IMAGES}.{os.getpid()}.new", out / f".{IMAGES}.{os.getpid()}.old"
    try:
        for result in comparison.results:
            for path, picture in zip(result.images, pictures[result.label], strict=True):
                inside = Path(path).relative_to(IMAGES)
                target = fresh / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                if drawn is not None:
                    _place(drawn / inside, target)
                else:
                    Image.fromarray(film_strip(picture) if is_clip(picture) else picture).save(target, "PNG")
                if is_clip(picture):
                    target.with_suffix(".gif").write_bytes(animation(picture))
            _write_manifest(comparison, result, fresh / Path(result.images[0]).relative_to(IMAGES).parent)
        if (out / IMAGES).exists():
            os.replace(out / IMAGES, stale)
        os.replace(fresh, out / IMAGES)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)


def _place(drawn: Path, target: Path) -> None:
    """A file that is drawn already under another name as well: the same one where the disk can, or a copy."""
    try:
        os.link(drawn, target)
    except OSError:
        shutil.copyfile(drawn, target)


def _write_manifest(comparison: Comparison, result: MethodResult, folder: Path) -> None:
    """What pairs the pictures of a method with prompts and with other methods: `dita evaluate` reads it."""
    rows = zip(result.images, comparison.prompts, comparison.seeds, strict=True)
    pictures = [
        {"id": picture_id(i), "seed": seed, "prompt": prompt, "file": Path(path).name}
        for i, (path, prompt, seed) in enumerate(rows)
    ]
    write_manifest(folder, pictures, model=comparison.model, method=result.method, steps=comparison.steps)
