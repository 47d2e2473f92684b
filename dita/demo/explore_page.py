"""The page Explore: quality against latency for a grid of N and R, made in the background."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from dita.comparison import numbered_label
from dita.demo import figures
from dita.demo.compare_page import DARK, FAILED, TO_THE_RESULTS, ComparePage, seed_number, session_of
from dita.demo.grid import HIGHEST_PSNR, Done, Point, explore, grid_methods
from dita.demo.grid_plot import Quality, has
from dita.demo.method_picker import CUSTOM
from dita.demo.request import LARGEST_SEED, Refused, checked, checked_method
from dita.demo.sampling import Stopped
from dita.demo.studio import ServerError, Studio, Waiting
from dita.methods import METHODS, Plain

logger = logging.getLogger("dita.demo")
CYCLES = (2, 3, 4, 5, 6, 8)
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PROMPTS = 3
EXPLORING = "/explore"  # marks what a visitor explores: it is stopped by itself
IDLE = "Choose a method and a grid, and press Explore. You can go on comparing meanwhile."
QUALITIES: tuple[tuple[str, Quality], ...] = (("PSNR", "psnr"), ("SSIM", "ssim"), ("right, by the judge", "right"))


class ExplorePage:
    """The components of the page, and what they do."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        loaded, limits = studio.loaded, studio.limits
        names = [
            name
            for name, cls in METHODS.items()
            if loaded.family in cls.families and {"cycle"} & {field.name for field in dataclasses.fields(cls)}
        ]
        self.points = gr.State([], time_to_live=3600)
        self.dark = gr.Checkbox(False, visible=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.base = gr.Dropdown(
                    names, value="toca", label="Method", info="A name, or one in short such as toca:score=random",
                    allow_custom_value=True, elem_id="explore-method",
                )  # fmt: skip
                self.cycles = gr.CheckboxGroup(
                    [(str(n), n) for n in CYCLES],
                    value=[2, 4, 6],
                    label="N",
                    info="Full steps are N apart",
                    elem_id="explore-n",
                )
                self.ratios = gr.CheckboxGroup(
                    [(f"{r:.0%}", r) for r in RATIOS], value=[0.7, 0.9], label="R",
                    info="Share of the tokens that a cached step reuses", elem_id="explore-r",
                )  # fmt: skip
                self.prompts = gr.Textbox(
                    "\n".join(loaded.examples(PROMPTS)), label="Prompts", info=f"One a line, at most {limits.prompts}",
                    lines=4,
                    max_lines=10, max_length=4 * limits.prompts * limits.prompt, elem_id="explore-prompts",
                    elem_classes="dita-prompt",
                )  # fmt: skip
                self.steps = gr.Slider(
                    loaded.least_steps, limits.steps, loaded.steps, step=1, label="Steps", elem_id="explore-steps"
                )
                self.seed = seed_number("explore-seed", "Of the first prompt; the next ones count up")
                with gr.Row():
                    self.run = gr.Button("Explore", variant="primary", elem_id="explore-run", scale=2)
                    self.stop = gr.Button("Stop", interactive=False, elem_id="explore-stop", scale=1, min_width=80)
            with gr.Column(scale=5, min_width=320):
                self.progress = gr.HTML(figures.progress(0, 1, IDLE), elem_id="explore-progress")
                self.quality = gr.Radio(
                    list(QUALITIES), value="psnr", label="Quality", visible=False, elem_id="explore-quality"
                )
                self.plot = gr.HTML(elem_id="explore-plot")
                self.table = gr.HTML(elem_id="explore-table")
                with gr.Row(visible=False) as self.after:
                    self.pick = gr.Dropdown(
                        [], label="A method of these", elem_id="explore-pick", filterable=False, scale=3
                    )
                    self.take = gr.Button("Use as Method A", elem_id="explore-take", scale=1)
                self.saves = gr.HTML(elem_id="explore-saves")

    def connect(self, compare: ComparePage) -> None:
        """The events of the page; a method found here can be taken to the Compare page."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        inputs = [self.base, self.cycles, self.ratios, self.prompts, self.steps, self.seed, self.quality, self.dark]
        shown = [
            self.progress, self.quality, self.plot, self.table, self.after, self.pick, self.saves, self.run, self.stop,
            self.points,
        ]  # fmt: skip
        with_theme = f"(...values) => [...values.slice(0, {len(inputs) - 1}), {DARK}]"
        self.run.click(
            self._explore, inputs, shown, js=with_theme, concurrency_limit=None, trigger_mode="once", **quiet
        )
        self.run.click(None, js=TO_THE_RESULTS.format("explore-progress"), **quiet)
        self.stop.click(self._stop, None, self.progress, queue=False, **quiet)
        self.quality.input(
            self._plot, [self.points, self.quality, self.dark], self.plot,
            js=f"(points, quality) => [points, quality, {DARK}]", **quiet,
        )  # fmt: skip
        self.pick.input(self._saves, [self.points, self.pick], self.saves, **quiet)
        first = compare.first
        taken = [first.text, first.form, first.choice]
        took = self.take.click(lambda label: (label, label, CUSTOM), self.pick, taken, **quiet)
        first.draws(took.then, compare.steps)

    def _stop(self, visitor: gr.Request) -> str:
        stopped = self.studio.stop(session_of(visitor) + EXPLORING)
        return figures.progress(0, 1, "Stopping after this step …" if stopped else "Nothing is running.")

    def _explore(
        self,
        base: str,
        cycles: list[int],
        ratios: list[float],
        prompts: str,
        steps: float,
        seed: float,
        quality: Quality,
        dark: bool,
        visitor: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        loaded, limits = self.studio.loaded, self.studio.limits
        ready = {self.run: gr.update(interactive=True), self.stop: gr.update(interactive=False)}
        latest: dict[Any, Point] = {}  # by method
        found: list[Point] = []
        try:
            lines = [line for line in (prompts or "").splitlines() if line.strip()]
            start = checked(loaded, limits, lines[0] if lines else "", seed, steps).seed
            if start > (last := LARGEST_SEED - max(len(lines) - 1, 0)):
                raise Refused(f"The seed must be between 0 and {last} for {len(lines)} prompts, got {start}.")
            requests = [checked(loaded, limits, line, start + i, steps) for i, line in enumerate(lines)]
            methods = grid_methods(checked_method(loaded, base), sorted(cycles), sorted(ratios))
            events = explore(self.studio, methods, requests, session_of(visitor) + EXPLORING)
            yield {
                self.progress: figures.progress(0, 1, "Starting …"),
                self.table: "",
                self.plot: "",
                self.saves: "",
                self.after: gr.update(visible=False),
                self.run: gr.update(interactive=False),
                self.stop: gr.update(interactive=True),
            }
            done = Done(0, 1, "")
            for event in events:
                if isinstance(event, Point):
                    latest[event.method] = event
                    found = list(latest.values())
                    yield self._found(found, quality, dark)
                elif isinstance(event, Waiting):
                    words = f"{done.pictures} of {done.of} pictures; in line behind {event.ahead}"
                    yield {self.progress: figures.progress(done.pictures, done.of, words)}
                else:
                    done = event
                    words = f"{done.pictures} of {done.of} pictures" + (f": {done.label}" if done.label else ", done")
                    yield {self.progress: figures.progress(done.pictures, done.of, words)}
            yield {**self._ended(found), **ready}
        except (Stopped, Refused, ServerError) as ended:
            said = f"Stopped after {len(found)} methods." if isinstance(ended, Stopped) else str(ended)
            if not isinstance(ended, Stopped):
                gr.Warning(said)
            yield {self.progress: figures.progress(0, 1, said), **self._ended(found), **ready}
        except Exception:
            logger.exception("an exploration failed")
            gr.Warning(FAILED)
            yield {self.progress: figures.progress(0, 1, FAILED), **ready}

    def _found(self, found: Sequence[Point], quality: Quality, dark: bool) -> dict[Any, Any]:
        there = [(name, one) for name, one in QUALITIES if has(found, one)]
        quality = quality if quality in [one for _, one in there] else "psnr"
        return {
            self.table: figures.points(found),
            self.quality: gr.update(choices=there, value=quality, visible=len(there) > 1),
            self.plot: self._plot(found, quality, dark),
        }

    def _plot(self, found: Sequence[Point], quality: Quality, dark: bool) -> str:
        return figures.grid_plot(found, quality, dark)

    def _ended(self, found: list[Point]) -> dict[Any, Any]:
        labels = [numbered_label(point.method) for point in found if point.method != Plain()]
        if not labels:
            return {}
        return {
            self.points: found,
            self.after: gr.update(visible=True),
            self.pick: gr.update(choices=labels, value=labels[-1]),
            self.saves: self._saves(found, labels[-1]),
        }

    def _saves(self, found: Sequence[Point], label: str) -> str:
        method = next((point.method for point in found if numbered_label(point.method) == label), None)
        if method is None:
            return ""
        one = json.dumps(method.as_json(), indent=2) + "\n"
        every = json.dumps([as_json(point) for point in found], indent=2) + "\n"
        return figures.saves(
            [
                ("method.json", f"Save {label} (JSON)", figures.text_uri("application/json", one)),
                ("points.json", "Save all points (JSON)", figures.text_uri("application/json", every)),
            ]
        )


def as_json(point: Point) -> dict[str, Any]:
    """JSON-ready data; identical pictures have no PSNR."""
    data = {name: value for name, value in dataclasses.asdict(point).items() if name != "method"}
    if point.psnr is not None and (point.psnr >= HIGHEST_PSNR or math.isinf(point.psnr)):
        data["psnr"] = None
    return {"method": point.method.as_json(), "label": numbered_label(point.method), **data}
