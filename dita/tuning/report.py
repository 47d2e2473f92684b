"""A tuning as a person reads it: the answer first, in the terminal and as a page; and as data beside the page."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from dita.output_files import write_file
from dita.plan import LETTERS
from dita.quality_plot import pareto_front
from dita.report import EMBEDDED_SIDE, PIXELATED_BELOW, closeness, data_uri, spread_cell, three_digits
from dita.shapes import Kind
from dita.terminal import folded
from dita.tuning.front_plot import GROUPS, NARROW, WIDE, Mark, frame_of, front_plot
from dita.tuning.results import Candidate, Finalist, Group, Reported, Tuning, pictures_of
from dita.tuning.trials import REFERENCES

if TYPE_CHECKING:
    from dita.comparison import Comparison, MethodResult
    from dita.plan import Plan

RESULTS, PAGE, METHOD, COMPARISON = "results.json", "report.html", "method.json", "compare"
PROMPTS_SHOWN = 8
SCALE = "magma"  # of difference maps
MAP_INCHES, MAP_TALLEST, MAP_DOTS = 9.0, 3.0, 150
METHOD_WIDTH = 27  # characters of the terminal's column of methods
TUNED, FEWER = "tuned", "fewer steps"  # roles

ABOUT_GROUPS: dict[Group, str] = {
    "fewer steps": "the pipeline's sampler, fewer steps",
    "sampler": "another sampler, fewer steps",
    "published": "a method as published, with a cycle",
    "whole calls": "whole calls forecast, full steps chosen",
    "chosen steps": "modules' outputs cached, full steps chosen",
    "tokens": "tokens cached, full steps chosen",
}
STEP_WORDS = {
    Kind.FULL: "full",
    Kind.PARTIAL: "partial: some tokens computed",
    Kind.FORECAST: "forecast",
    Kind.REUSE: "reuse",
    Kind.SKIP: "blocks skipped",
    Kind.CALL: "no transformer call",
}


def write(tuning: Tuning, out: Path, plan: Plan | None = None) -> None:
    """Writes `results.json` and `report.html` into `out`, each whole or not at all.

    Args:
        tuning: what was found. Its comparison's pictures are looked for in `out / "compare"`; the page goes without
            those that are not there.
        plan: of the chosen method on the model's shape, for the map; the page has the steps alone without.

    Raises `dita.output_files.CannotWriteError`.
    """
    write_file(out / RESULTS, results_json(tuning).encode())
    write_file(out / PAGE, page(tuning, out, plan).encode())


def results_json(tuning: Tuning) -> str:
    """The data as strict JSON, which `dita.tuning.results.from_json` reads back; numbers without end are words."""
    return json.dumps(_strict(tuning.as_json()), indent=1, allow_nan=False) + "\n"


def _strict(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, Mapping):
        return {key: _strict(value) for key, value in data.items()}
    return [_strict(one) for one in data] if isinstance(data, (list, tuple)) else data


# ------------------------------------------------------------------------------------------------------------ the rows


@dataclass(frozen=True)
class Row:
    """A method of the third set as text; `quartiles` and the intervals of `psnr` may be empty.

    Attributes:
        evaluations: full transformer calls in a run.
        psnr: by reference, (mean, interval) in decibels.
    """

    role: str
    label: str
    group: Group | None
    evaluations: str
    seconds: str
    speedup: str
    quartiles: str
    psnr: dict[str, tuple[str, str]]
    chosen: bool


def rows(tuning: Tuning) -> list[Row]:
    """What was measured on the third set, the plain pipeline first, the chosen method next."""
    reported = {one.label: one for one in tuning.reported}
    results = _results(tuning)
    labels = [*list(results)[:1], *reported]
    made = [_row(tuning, label, reported.get(label), results.get(label)) for label in dict.fromkeys(labels)]
    return sorted(made, key=lambda row: (row.role != "plain", not row.chosen))


def _row(tuning: Tuning, label: str, one: Reported | None, result: MethodResult | None) -> Row:
    candidate = _candidate(tuning, label, result)
    is_plain = result is not None and next(iter(_results(tuning))) == label
    speedup = spread_cell(result.speedup, "×") if result and not is_plain else None
    if candidate is not None:
        evaluations = str(candidate.evaluations)
    else:
        evaluations = str(result.step_kinds.count(Kind.FULL.value)) if result else "–"
    seconds = result.seconds_per_image.median if result else candidate.seconds if candidate else None
    return Row(
        role="plain" if is_plain or one is None else one.role,
        label=label,
        group=_group(tuning, label, result),
        evaluations=evaluations,
        seconds="–" if seconds is None else three_digits(seconds),
        speedup=speedup.value if speedup else "1.00×" if is_plain else "–",
        quartiles=speedup.range if speedup else "",
        psnr={name: _interval(one.psnr.get(name) if one else None) for name in ("plain", "converged")},
        chosen=_is_chosen(tuning, label, result.method if result else None),
    )


def _interval(value: tuple[float, float, float] | None) -> tuple[str, str]:
    if value is None:
        return "–", ""
    mean, low, high = value
    if math.isinf(mean) and mean > 0:
        return "identical", ""
    if not all(map(math.isfinite, value)):
        return f"{mean:.1f}", ""
    return f"{mean:.1f}", f"{low:.1f}{'–' if low >= 0 else ' to '}{high:.1f}"


def _comparison(tuning: Tuning) -> Comparison | None:
    from dita.comparison import from_json

    return from_json(tuning.comparison) if tuning.comparison else None


def _results(tuning: Tuning) -> dict[str, MethodResult]:
    comparison = _comparison(tuning)
    return {result.label: result for result in comparison.results} if comparison else {}


def _candidate(tuning: Tuning, label: str, result: MethodResult | None) -> Candidate | None:
    """The trial of a method that was reported, by its name or by what it is."""
    for one in tuning.candidates:
        if one.label == label or (result is not None and one.method == result.method):
            return one
    return None


def _group(tuning: Tuning, label: str, result: MethodResult | None) -> Group | None:
    known: tuple[Candidate | Finalist, ...] = (*tuning.candidates, *tuning.finalists)
    for one in known:
        if one.label == label or (result is not None and one.method == result.method):
            return one.group
    return None


def _is_chosen(tuning: Tuning, label: str, method: Mapping[str, Any] | None) -> bool:
    return label == tuning.chosen or (method is not None and method == tuning.method)


# -------------------------------------------------------------------------------------------------------- the terminal


def terminal(tuning: Tuning) -> Lines:
    """The answer, the methods that were measured on the third set, and what to know: for 80 columns or more."""
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for head in ("evalu-\nations", "s / image\nmedian", "speed-up\nin s", "dB to\nplain", "dB to\nconverged"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows(tuning):
        label = [] if row.label == row.role else folded(row.label, METHOD_WIDTH - 2)
        name = Text(f"{'→ ' if row.chosen else '  '}{row.role}", style="bold" if row.chosen else "")
        name.append("".join(f"\n  {line}" for line in label), style="not bold dim")
        psnr = ["\n".join(filter(None, row.psnr[reference])) for reference in ("plain", "converged")]
        table.add_row(name, row.evaluations, row.seconds, "\n".join(filter(None, (row.speedup, row.quartiles))), *psnr)
    under = "→ is what to use. dB: PSNR. Below: quartiles of the speed-up, 95 % intervals of the mean PSNR."
    notes = [Text(note) for note in (under, *tuning.notes)]
    return Lines(Text(tuning.answer, style="bold"), Text(), table, Text(), *notes)


def _parts(label: str) -> list[str]:
    return re.findall(r"[^:/+]+[:/+]?|[:/+]", label)


# ------------------------------------------------------------------------------------------------------------ the page


def page(tuning: Tuning, out: Path, plan: Plan | None = None) -> str:
    """The report as one HTML page that needs nothing else: style, plots and pictures are inside.

    Args and missing pictures: as in `write`.
    """
    comparison = _comparison(tuning)
    found = rows(tuning)
    columns = _columns(tuning, comparison, found)
    return _templates.get_template("report.html.j2").render(
        tuning=tuning,
        comparison=comparison,
        answer=_with_names(tuning),
        goal=_goal(tuning),
        rows=found,
        facts=_facts(tuning, found),
        groups={group: ABOUT_GROUPS[group] for group in GROUPS if any(c.group == group for c in tuning.candidates)},
        numbers={group: number for number, group in enumerate(GROUPS)},
        plots=_plots(tuning),
        candidates=_candidate_rows(tuning),
        references=[name for name in REFERENCES if any(name in c.decibels for c in tuning.candidates)],
        steps=_steps(tuning, plan),
        maps={theme: _map_uri(plan, theme) for theme in ("light", "dark")} if plan is not None else {},
        pictures=_pictures(comparison, columns, out) if comparison else None,
        machine={key: value for key, value in comparison.machine.items() if value} if comparison else {},
        use=_use(tuning, out),
        spent=_duration(tuning.spent),
        one="a clip" if comparison and comparison.frames else "an image",
    )


def _named(label: str) -> Markup:
    """A method's name that may break after `:`, `/` and `+`."""
    return Markup("<wbr>").join(_parts(label)) if label else Markup()


def _decibels(value: float) -> str:
    if math.isinf(value) and value > 0:
        return "identical"
    return f"{value:.1f}" if math.isfinite(value) else "not finite"


_templates = jinja2.Environment(
    loader=jinja2.ChoiceLoader(
        [jinja2.PackageLoader("dita.tuning", "templates"), jinja2.PackageLoader("dita", "report_template")]
    ),
    autoescape=lambda name: bool(name and "html" in name),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {"named": _named, "digits": three_digits, "decibels": _decibels}


def _with_names(tuning: Tuning) -> Markup:
    """The answer with the names of methods as code."""
    labels = sorted({tuning.chosen, *(one.label for one in tuning.reported)}, key=len, reverse=True)
    pattern = "|".join(re.escape(label) for label in labels if label) or "(?!)"
    found = re.split(rf"(?<![\w:])({pattern})(?![\w/]|[:.]\w)", tuning.answer)
    code = (Markup("<code>{}</code>").format(_named(one)) if i % 2 else escape(one) for i, one in enumerate(found))
    return Markup().join(code)


def _goal(tuning: Tuning) -> str:
    picture = pictures_of(tuning.reference)
    if tuning.goal.psnr is not None:
        return f"{tuning.goal} to {picture}, as fast as possible"
    speed = " the speed of plain" if tuning.goal.speedup is not None else ""
    return f"{tuning.goal}{speed}, as close as possible to {picture}"


def _facts(tuning: Tuning, found: Sequence[Row]) -> list[tuple[str, str, str]]:
    """What the chosen method brings, as (what, number, and beside it)."""
    row = next((one for one in found if one.chosen), None)
    if row is None:
        return []
    fewer = next((one for one in found if one.role == FEWER and not one.chosen), None)
    beside = {name: f"fewer steps: {fewer.psnr[name][0]}" if fewer else "" for name in ("plain", "converged")}
    facts = [("speed-up", row.speedup, f"quartiles {row.quartiles}" if row.quartiles else "")]
    for name in ("plain", "converged"):
        mean, interval = row.psnr[name]
        if mean != "–":
            number = mean if mean == "identical" else f"{mean} dB"
            facts.append((f"PSNR to {name}", number, "; ".join(filter(None, (interval, beside[name])))))
    facts.append(("full calls", f"{row.evaluations} of {tuning.steps}", f"{row.seconds} s, plain {_plain(found)} s"))
    return facts


def _plain(found: Sequence[Row]) -> str:
    return next((row.seconds for row in found if row.role == "plain"), "–")


# ----------------------------------------------------------------------------------------------------------- its plots


@dataclass(frozen=True)
class Plot:
    """A plot in two sizes, with what to know of it; `outside` tells what lies beyond its borders."""

    title: str
    wide: Markup
    narrow: Markup
    note: str
    outside: str


def _plots(tuning: Tuning) -> list[Plot]:
    plots = []
    tried = _tried(tuning)
    if tried:
        plots.append(
            _plot(
                "tried",
                f"Every candidate: {len(tuning.candidates)} on the prompts of calibration",
                tried,
                tuning,
                tuning.plain_seconds,
                f"decibels of latents to {tuning.reference} (up is closer)",
                "The line is the front: nothing is faster and closer. Decibels of latents order candidates; they are"
                " no PSNR. Seconds are of one run, without decoding.",
            )
        )
    measured = _measured(tuning)
    if measured:
        comparison = _comparison(tuning)
        plain = comparison.results[0].seconds_per_image.median if comparison else tuning.plain_seconds
        plots.append(
            _plot(
                "measured",
                "Measured: other prompts, in pictures",
                measured,
                tuning,
                plain,
                f"PSNR to {tuning.reference}, dB (up is closer)",
                "Bars: quartiles of the seconds, and the interval of 95 % of the mean PSNR. Seconds are of whole"
                " calls, interleaved with the plain pipeline's.",
            )
        )
    return plots


def _plot(
    salt: str, title: str, marks: Sequence[Mark], tuning: Tuning, plain_seconds: float, quality: str, note: str
) -> Plot:
    def drawn(size: tuple[float, float], name: str) -> Markup:
        words = f"{title}: {quality} against seconds"
        svg = front_plot(
            marks,
            tuning,
            plain_seconds,
            quality=quality,
            words=words,
            salt=f"{salt}-{name}",
            size=size,
            front=salt == "tried",
        )
        return Markup(svg)

    frame = frame_of(marks)
    outside = [mark for mark in marks if not frame.holds(mark)]
    said = ""
    if outside:
        shown = "; ".join(mark.words for mark in outside[:3]) + ("; …" if len(outside) > 3 else "")
        said = f"Beyond the borders, with an arrow: {len(outside)} ({shown})."
    return Plot(title, drawn(WIDE, "wide"), drawn(NARROW, "narrow"), note, said)


def _tried(tuning: Tuning) -> list[Mark]:
    """The candidates, those that were reported with their role."""
    results = _results(tuning)
    roles: dict[int, str] = {}
    for one in tuning.reported:
        candidate = _candidate(tuning, one.label, results.get(one.label))
        if candidate is not None:
            roles.setdefault(id(candidate), one.role)
    marks = []
    for candidate in tuning.candidates:
        quality = candidate.decibels.get(tuning.reference, next(iter(candidate.decibels.values()), math.nan))
        chosen = _is_chosen(tuning, candidate.label, candidate.method)
        name = "use this" if chosen else roles.get(id(candidate), "")
        words = f"{candidate.label}: {three_digits(candidate.seconds)} s, {_decibels(quality)} dB"
        finite = math.isfinite(quality)
        marks.append(Mark(candidate.group, candidate.seconds, quality, words, name if finite else "", chosen))
    return marks if any(math.isfinite(mark.quality) for mark in marks) else []


def _measured(tuning: Tuning) -> list[Mark]:
    results, marks = _results(tuning), []
    for one in tuning.reported:
        result = results.get(one.label)
        psnr = one.psnr.get(tuning.reference)
        if result is None or psnr is None or not all(map(math.isfinite, psnr)):
            continue
        time, (mean, low, high) = result.seconds_per_image, psnr
        chosen = _is_chosen(tuning, one.label, result.method)
        words = f"{one.role}, {one.label}: {three_digits(time.median)} s, {mean:.1f} dB ({low:.1f} to {high:.1f})"
        group = _group(tuning, one.label, result) or "published"
        between = (time.low, time.high, low, high)
        name = f"{one.role}: use this" if chosen else one.role
        marks.append(Mark(group, time.median, mean, words, name, chosen, between))
    return marks


# ------------------------------------------------------------------------------------------------ its schedule, tables


def _steps(tuning: Tuning, plan: Plan | None) -> list[tuple[str, str]]:
    """The chosen method's steps, as (letter, words)."""
    if plan is not None:
        kinds: Iterable[Kind] = plan.kinds
    else:
        found = [r for r in _results(tuning).values() if _is_chosen(tuning, r.label, r.method)]
        kinds = map(Kind, found[0].step_kinds) if found else ()
    return [(LETTERS[kind], STEP_WORDS[kind]) for kind in kinds]


def _map_uri(plan: Plan, theme: Any) -> str:
    import base64
    import io

    from dita.plots.plan_map import plot_plan

    buffer = io.BytesIO()
    title = f"{len(plan.steps)} steps: full steps, and what the others do"
    figure = plot_plan(plan, title=title, theme=theme, width=MAP_INCHES, tallest=MAP_TALLEST)
    figure.savefig(buffer, format="png", dpi=MAP_DOTS)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class CandidateRow:
    """A candidate, and what it is to the reader."""

    candidate: Candidate
    chosen: bool
    on_front: bool


def _candidate_rows(tuning: Tuning) -> list[CandidateRow]:
    """All candidates, the nearest to the reference first."""

    def quality(one: Candidate) -> float:
        value = one.decibels.get(tuning.reference, -math.inf)
        return -math.inf if math.isnan(value) else value

    finite = [c for c in tuning.candidates if math.isfinite(quality(c))]
    front = {id(finite[i]) for i in pareto_front([(c.seconds, quality(c)) for c in finite])}
    ordered = sorted(tuning.candidates, key=quality, reverse=True)
    return [CandidateRow(c, _is_chosen(tuning, c.label, c.method), id(c) in front) for c in ordered]


def _use(tuning: Tuning, out: Path) -> dict[str, str]:
    """Lines that use what was found."""
    file = "/".join(filter(None, (out.resolve().name, METHOD)))
    model = shlex.quote(tuning.model)
    return {
        "Python": f"dita.enable(pipe, {json.dumps(file)})\n"
        f"image = pipe(prompt, num_inference_steps={tuning.steps}).images[0]",
        "Shell": f"dita generate --model {model} --steps {tuning.steps} --method {shlex.quote(file)} \\\n"
        "    --prompts prompts.txt --out pictures/",
    }


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


# -------------------------------------------------------------------------------------------------------- its pictures


@dataclass(frozen=True)
class Column:
    """A method among the pictures."""

    role: str
    result: MethodResult


@dataclass(frozen=True)
class Shown:
    """A picture inside the page with its file, and its difference from the plain one, if it has any."""

    column: Column
    source: str
    file: str
    difference: str
    decibels: str


@dataclass(frozen=True)
class Pictures:
    """Pictures of some prompts: (prompt, seed, one of each column). `top` is the end of the scale, in per cent."""

    columns: tuple[Column, ...]
    prompts: tuple[tuple[str, int, tuple[Shown, ...]], ...]
    top: float
    stops: tuple[str, ...]
    pixelated: bool
    scaled_down: bool


def _columns(tuning: Tuning, comparison: Comparison | None, found: Sequence[Row]) -> list[Column]:
    """Plain, fewer steps and what is to be used; where these two are one, the next best beside it."""
    if comparison is None:
        return []
    results = {result.label: result for result in comparison.results}
    chosen = [row for row in found if row.chosen]
    fewer = [row for row in found if row.role == FEWER and not row.chosen]
    others = [row for row in found if row.role != "plain" and not row.chosen and row not in fewer]
    if not fewer and others:
        fewer = sorted(others, key=lambda row: row.role != TUNED)[:1]
    wanted = [row for row in (*fewer[:1], *chosen[:1]) if row.label in results]
    return [Column("plain", comparison.results[0]), *(Column(row.role, results[row.label]) for row in wanted)]


def _pictures(comparison: Comparison, columns: Sequence[Column], out: Path) -> Pictures | None:
    """What the page shows of the comparison's pictures; None where they are not there."""
    count = min(PROMPTS_SHOWN, *(len(column.result.images) for column in columns))
    folder = out / COMPARISON
    try:
        read = [
            [_read(folder / path, comparison.frames) for path in column.result.images[:count]] for column in columns
        ]
    except OSError:
        return None
    if not count or len(columns) < 2:
        return None
    amounts = [[_difference(one, plain) for one, plain in zip(group, read[0], strict=True)] for group in read[1:]]
    top = max(1 / 255, max(float(np.quantile(one, 0.995)) for group in amounts for one in group))
    prompts = []
    for i in range(count):
        shown = [
            Shown(
                column,
                data_uri(group[i]),
                f"{COMPARISON}/{column.result.images[i]}",
                data_uri(_coloured(amounts[c - 1][i] / top)) if c else "",
                closeness(column.result, i),
            )
            for c, (column, group) in enumerate(zip(columns, read, strict=True))
        ]
        prompts.append((comparison.prompts[i], comparison.seeds[i], tuple(shown)))
    side = max(max(one.shape[-3:-1]) for group in read for one in group)
    return Pictures(tuple(columns), tuple(prompts), 100 * top, _stops(), side < PIXELATED_BELOW, side > EMBEDDED_SIDE)


def _read(path: Path, frames: int) -> np.ndarray:
    """A picture (H, W, 3), or a clip (T, H, W, 3) from its film strip."""
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB"))
    return np.stack(np.split(picture, frames, axis=1)) if frames else picture


def _difference(picture: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """The largest difference of a pixel's three channels, in 0..1."""
    difference: np.ndarray = np.abs(picture.astype(np.float32) - plain.astype(np.float32)).max(axis=-1) / 255
    return difference


def _coloured(amounts: np.ndarray) -> np.ndarray:
    import matplotlib

    colours: np.ndarray = (matplotlib.colormaps[SCALE](amounts)[..., :3] * 255).round().astype(np.uint8)
    return colours


def _stops() -> tuple[str, ...]:
    import matplotlib
    from matplotlib.colors import to_hex

    return tuple(to_hex(matplotlib.colormaps[SCALE](i / 8)) for i in range(9))
