"""The figures of the pages as HTML; pictures and clips lie inside data URIs, so that no file is served for them."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dita.caching.token_record import TokenRecord
from dita.comparison import numbered_label
from dita.demo.grid import HIGHEST_PSNR, Point
from dita.demo.grid_plot import Quality, plot_grid
from dita.demo.loaded import Loaded
from dita.demo.record import WORDS, Spent
from dita.demo.sampling import Frames, Made, frames_per_second
from dita.demo.scores import Scores, difference
from dita.demo.studio import Finished
from dita.methods import Method, Plain
from dita.metrics.images import is_constant
from dita.plan import LETTERS, Plan
from dita.plots.plan_map import plot_plan
from dita.plots.theme import ThemeName
from dita.plots.token_map import plot_tokens
from dita.shapes import Kind, Shape

_environment = jinja2.Environment(
    loader=jinja2.PackageLoader("dita.demo"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
)
_figures: Any = _environment.get_template("figures.html.j2").module
COLOURS = "magma"  # of the difference map
TILE = 128  # pixels: the height of an earlier picture
DOTS = 130  # an inch, of drawings
MEANINGS = {
    Kind.FULL: "every token computed",
    Kind.PARTIAL: "some tokens computed",
    Kind.REUSE: "stored outputs used",
    Kind.FORECAST: "stored outputs continued",
    Kind.SKIP: "blocks passed by",
    Kind.CALL: "no call of the transformer",
}


def head(loaded: Loaded, what: str) -> str:
    """The top of the page."""
    return str(_figures.head(loaded.name, what, loaded.where))


@dataclass(frozen=True)
class Card:
    """Where the picture of one method appears.

    Attributes:
        slot: 0 for the plain picture.
        state: empty, waiting, running, done or stopped.
        picture: the latest preview (H, W, 3), or the finished frames.
    """

    slot: int
    title: str
    label: str
    size: tuple[int, int]
    state: str = "empty"
    picture: NDArray[np.uint8] | None = None
    step: int = 0
    steps: int = 0
    facts: str = ""
    prompt: str = ""

    def html(self) -> str:
        image, link = "", None
        if self.picture is not None:
            image = as_uri(self.picture)
            if self.state == "done":
                suffix = "mp4" if image.startswith("data:video") else "webp" if "image/webp" in image[:20] else "png"
                link = (f"dita-{self.slot}.{suffix}", image)
        empty = "waiting" if self.state in ("waiting", "running") else "no picture yet"
        height, width = self.size
        return str(
            _figures.card(
                self.title, self.label, self.slot, self.state, image, (width, height), self.step, self.steps,
                self.facts, link, f"{self.title}, {self.label}: {self.prompt}", empty,
            )
        )  # fmt: skip


def as_uri(picture: NDArray[np.uint8]) -> str:
    """A picture (H, W, 3) as PNG; frames (F, H, W, 3), if there are several, as MP4, or WebP without an encoder."""
    if picture.ndim == 4 and len(picture) == 1:
        picture = picture[0]
    if picture.ndim == 4:
        try:
            from dita.generation.files import mp4

            return _uri("video/mp4", mp4(picture, frames_per_second(len(picture))))
        except ImportError:
            return _uri("image/webp", _webp(picture))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=4)
    return _uri("image/png", buffer.getvalue())


def text_uri(kind: str, text: str) -> str:
    """A text file."""
    return _uri(f"{kind};charset=utf-8", text.encode())


def difference_map(frames: Frames, plain: Frames, label: str) -> str:
    """Where a picture differs from the plain one, and how much: black is nothing, the scale ends at the largest."""
    amounts, largest = difference(frames, plain)
    top = max(float(amounts.max()), 1 / 255)
    colours = matplotlib.colormaps[COLOURS]
    picture = (colours(amounts / top)[..., :3] * 255).round().astype(np.uint8)
    scale = [matplotlib.colors.to_hex(colours(n / 8)) for n in range(9)]
    height, width = amounts.shape
    alt = f"difference map: the largest difference of a pixel is {largest:.0%}"
    return str(_figures.difference(as_uri(picture), (width, height), label, f"{top:.0%}", scale, alt))


def enlarged(frames: Frames, least: int = 512) -> NDArray[np.uint8]:
    """The picture, or the frame in the middle of a video, each pixel repeated until the longer side has `least`."""
    picture = frames[len(frames) // 2]
    times = max(1, least // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def side_by_side(pictures: Sequence[Frames]) -> NDArray[np.uint8]:
    """One small picture of several of one size: the frames in the middle, at most TILE pixels high."""
    middle = np.concatenate([frames[len(frames) // 2] for frames in pictures], axis=1)
    shrunk = Image.fromarray(middle)
    shrunk.thumbnail((TILE * len(pictures) * 2, TILE))
    return np.asarray(shrunk)


def numbers(finished: Sequence[Finished]) -> str:
    """The table under the pictures."""
    slowest = max(one.seconds for one in finished)
    judged = any(one.scores.verdict is not None for one in finished)
    scored = any(one.scores.clip is not None for one in finished)
    rows = [
        {
            "label": "plain" if one.slot == 0 else numbered_label(one.made.method),
            "steps": _steps(one),
            "seconds": f"{one.seconds:.2f}",
            "range": f"{min(one.draws):.2f} to {max(one.draws):.2f}" if one.draws else "",
            "share": f"{100 * one.seconds / slowest:.1f}",
            "speedup": f"{one.speedup:.2f}×",
            "flops": _three_digits(one.flops / 1e9),
            "ratio": f"{one.plain_flops / one.flops:.2f}",
            "psnr": "" if one.slot == 0 else decibels(one.scores.psnr),
            "broken": one.made.broken,
            "fault": fault(one.made),
            "ssim": "" if one.scores.ssim is None else f"{one.scores.ssim:.3f}",
            "verdict": _verdict(one.scores),
            "right": "" if one.scores.verdict is None else str(one.scores.verdict.correct).lower(),
        }
        for one in finished
    ]
    draws = len(finished[0].draws)
    timed = "Seconds are of one run each, previews not counted; ×5 takes the median of five."
    if draws:
        timed = f"Seconds are medians of {draws} draws, methods in turn, and below them the fastest and the slowest;"
        timed += " speed-ups are medians of the draws' ratios. Previews are not counted."
    notes = (
        f"{timed} FLOPs are of the steps that ran, scoring and matching of tokens included. PSNR and SSIM compare with"
        " the plain picture: how close, not how good."
    )
    broken = sum(one.made.broken for one in finished)
    if broken:
        notes += f" {broken} of {len(finished)} pictures hold NaN or infinity; nothing is compared with them."
    if judged:
        notes += " The judge reads from the picture what the prompt says of it."
    return str(_figures.numbers(rows, notes, "judge" if judged else "CLIP score" if scored else ""))


def strip(method: Method, shape: Shape, steps: int) -> str:
    """What a method would do in every step, and what that saves. Raises `ValueError` as `Method.plan` does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = method.plan(shape, steps)
    said = list(dict.fromkeys(" ".join(str(one.message).split()) for one in caught))
    return str(_figures.strip(_kinds(plan), _legend(plan), plan_line(plan), said))


def plan_line(plan: Plan) -> str:
    """A plan in a line."""
    counts = {kind: plan.kinds.count(kind) for kind in dict.fromkeys(plan.kinds)}
    if set(counts) == {Kind.FULL}:
        taken = "1 step" if len(plan.steps) == 1 else f"{len(plan.steps)} steps"
        fewer = len(plan.steps) < plan.requested_steps
        steps = f"{taken} instead of {plan.requested_steps}" if fewer else f"{taken}, in full"
    else:
        steps = " + ".join(f"{count} {WORDS[kind]}" for kind, count in counts.items()) + " steps"
    merged = f"; {plan.merged_share:.0%} of the tokens merged in full steps" if plan.merged_share else ""
    flops = plan.flops() + plan.score_flops + plan.matching_flops
    return f"{steps}{merged}. FLOPs ratio {plan.plain_flops / flops:.2f}: what it could save at best."


def plan_map(plan: Plan, model: str, dark: bool) -> str:
    """The plan as a map."""
    title = f"{numbered_label(plan.whole_method)} on {model}"
    figure = plot_plan(plan, title=title, theme="dark" if dark else "light", width=9.0)
    return _drawn(figure, f"{title}: {plan_line(plan)}")


def token_map(
    tokens: TokenRecord,
    step: int,
    frames: Frames,
    *,
    layer: int | None,
    module: str | None,
    frame: int | None,
    dark: bool,
) -> str:
    """The tokens of one step over the picture. Raises `ValueError` as `dita.plot_tokens` does."""
    picture = frames if frame is not None else enlarged(frames)
    theme: ThemeName = "dark" if dark else "light"
    figure = plot_tokens(tokens, step, picture, layer=layer, module=module, frame=frame, theme=theme, width=6.0)
    return _drawn(figure, f"tokens of step {step}", wide=False)


def grid_plot(found: Sequence[Point], quality: Quality, dark: bool) -> str:
    """Quality against latency; empty where no point has a number for it yet."""
    figure = plot_grid(found, quality, "dark" if dark else "light")
    return "" if figure is None else _drawn(figure, f"{quality} of {len(found)} methods against seconds a picture")


def spent(found: Sequence[Spent]) -> str:
    """Where the seconds of a run went."""
    whole = sum(one.total for one in found) or 1.0
    rows = [
        {
            "what": one.what,
            "times": one.times,
            "each": f"{one.each * 1e3:.1f}",
            "total": f"{one.total:.2f}",
            "share": f"{100 * one.total / whole:.0f}",
        }
        for one in found
    ]
    return str(_figures.spent(rows))


def _drawn(figure: Figure, alt: str, wide: bool = True) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS)
    return str(_figures.drawing(_uri("image/png", buffer.getvalue()), alt, wide))


def refusal(message: str) -> str:
    """Why something cannot be."""
    return str(_figures.refusal(message))


def status(message: str, busy: bool = False) -> str:
    """What is going on."""
    return str(_figures.status(message, busy))


def saves(links: Sequence[tuple[str, str, str]]) -> str:
    """Links that save files: (file name, words, data URI)."""
    return str(_figures.saves(links))


def progress(done: int, of: int, words: str) -> str:
    """A progress bar with its words."""
    return str(_figures.bar(done, of, words))


def points(found: Sequence[Point]) -> str:
    """The table of an exploration, fastest last."""
    judged = any(point.right is not None for point in found)
    rows = [
        {
            "label": numbered_label(point.method),
            "rival": "" if not point.rival else "the reference" if point.method == Plain() else "fewer steps",
            "seconds": f"{point.seconds:.2f}",
            "speedup": f"{point.speedup:.2f}×",
            "ratio": f"{point.flops_ratio:.2f}",
            "psnr": "" if point.method == Plain() or point.psnr is None else decibels(_unbounded(point.psnr)),
            "broken": f"{point.broken} of {point.prompts} hold NaN" if point.broken else "",
            "ssim": "" if point.ssim is None else f"{point.ssim:.3f}",
            "right": "" if point.right is None else f"{point.right:.0%}",
        }
        for point in sorted(found, key=lambda one: -one.seconds)
    ]
    return str(_figures.points(rows, judged))


def fault(made: Made) -> str:
    """What is wrong with a picture's numbers; empty for nothing."""
    return "holds NaN or infinity" if made.broken else "is of one colour" if is_constant(made.frames) else ""


def _unbounded(psnr: float) -> float:
    return psnr if psnr < HIGHEST_PSNR else math.inf


def decibels(value: float | None) -> str:
    """PSNR as text."""
    return "" if value is None else "identical" if math.isinf(value) else f"{value:.1f}"


def _kinds(plan: Plan) -> list[str]:
    """Of every step; those of a plan with fewer steps count as long as they are."""
    return [kind.value for kind in plan.kinds]


def _legend(plan: Plan) -> list[tuple[str, str]]:
    return [(kind.value, f"{WORDS[kind]}: {MEANINGS[kind]}") for kind in LETTERS if kind in plan.kinds]


def _steps(one: Finished) -> str:
    if one.made.summary is None:
        return f"{one.made.steps} full"
    kinds = one.made.summary.kinds
    return " + ".join(f"{kinds.count(kind)} {WORDS[kind]}" for kind in dict.fromkeys(kinds))


def _verdict(scores: Scores) -> str:
    if scores.verdict is not None:
        wrong = [name for name, right in scores.verdict.as_dict().items() if right is False]
        return "all right" if not wrong else "wrong: " + ", ".join(wrong)
    return "" if scores.clip is None else f"{scores.clip:.1f}"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _webp(frames: Frames) -> bytes:
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    pause = round(1000 / frames_per_second(len(frames)))
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=pause, loop=0, lossless=True)
    return buffer.getvalue()
