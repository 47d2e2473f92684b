"""The page Where the time goes: the plan as a map, the seconds by kind of step, and the tokens of every step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dita.comparison import numbered_label
from dita.demo import figures
from dita.demo.compare_page import DARK, FAILED, SLOTS, Comparison, in_line, session_of
from dita.demo.record import Recorded, record
from dita.demo.request import Refused
from dita.demo.sampling import Stopped
from dita.demo.studio import ServerError, Studio, Waiting

logger = logging.getLogger("dita.demo")
IDLE = "Make a comparison first: this page then looks into its methods."
ALL = "all"


class TimePage:
    """The components of the page, and what they do."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.recorded = gr.State(None, time_to_live=3600)
        self.dark = gr.Checkbox(False, visible=False)
        with gr.Row():
            self.method = gr.Radio([], label="Method of the last comparison", elem_id="time-method", scale=3)
            self.look = gr.Button("Look inside", variant="primary", interactive=False, elem_id="time-look", scale=1)
            self.stop = gr.Button("Stop", interactive=False, elem_id="time-stop", scale=1, min_width=80)
        self.status = gr.HTML(figures.status(IDLE), elem_id="time-status")
        with gr.Column(visible=False) as self.body, gr.Row(elem_classes="dita-cards"):
            with gr.Column(scale=3, min_width=320):
                gr.Markdown("### The plan\nWhat every layer does in every step.")
                self.plan = gr.HTML(elem_id="time-plan")
                self.spent = gr.HTML(elem_id="time-spent")
            with gr.Column(scale=2, min_width=320):
                gr.Markdown("### The tokens\nWhich of them a step computed, laid over the picture it made.")
                self.step = gr.Slider(0, 1, 0, step=1, label="Step", elem_id="time-step")
                with gr.Row():
                    self.layer = gr.Dropdown(
                        [(ALL, -1)], value=-1, label="Block", elem_id="time-layer", filterable=False
                    )
                    self.module = gr.Dropdown([ALL], value=ALL, label="Module", elem_id="time-module", filterable=False)
                video = studio.loaded.makes_videos
                self.frame = gr.Slider(
                    0, 1, 0, step=1, label="Frame, of the latents", visible=video, elem_id="time-frame"
                )
                self.tokens = gr.HTML(elem_id="time-tokens")

    def connect(self, tab: gr.Tab, last: gr.State) -> None:
        """The events of the page: `last` is what the Compare page left."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        tab.select(self._entered, [last, self.method], [self.method, self.look, self.status], queue=False, **quiet)
        shown = [
            self.status, self.body, self.plan, self.spent, self.step, self.layer, self.module, self.frame, self.tokens,
            self.look, self.stop, self.recorded,
        ]  # fmt: skip
        self.look.click(
            self._look, [last, self.method, self.dark], shown, js=f"(last, method) => [last, method, {DARK}]",
            concurrency_limit=None, trigger_mode="once", **quiet,
        )  # fmt: skip
        self.stop.click(self._stop, None, self.status, queue=False, **quiet)
        chosen = [self.step, self.layer, self.module, self.frame]
        gr.on(
            [self.step.change, self.layer.input, self.module.input, self.frame.change],
            self._tokens, [self.recorded, self.dark, *chosen], self.tokens,
            js=f"(recorded, dark, ...chosen) => [recorded, {DARK}, ...chosen]", trigger_mode="always_last", **quiet,
        )  # fmt: skip

    def _entered(self, last: Comparison | None, now: int | None) -> tuple[Any, Any, Any]:
        if last is None:
            return gr.update(choices=[], value=None), gr.update(interactive=False), figures.status(IDLE)
        choices = [
            (f"{SLOTS[one.slot]}: {numbered_label(one.made.method)}" if one.slot else SLOTS[0], one.slot)
            for one in last.finished
        ]
        value = 1 if now is None or now >= len(choices) else now
        said = figures.status("Look inside makes the picture of one method once more, and records every step.")
        return gr.update(choices=choices, value=value), gr.update(interactive=True), said

    def _stop(self, visitor: gr.Request) -> str:
        stopped = self.studio.stop(session_of(visitor))
        return figures.status("Stopping after this step …" if stopped else "Nothing is running.", busy=bool(stopped))

    def _look(
        self, last: Comparison | None, slot: int | None, dark: bool, visitor: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        ready = {self.look: gr.update(interactive=True), self.stop: gr.update(interactive=False)}
        if last is None or slot is None or not 0 <= slot < len(last.finished):
            yield {self.status: figures.status(IDLE)}
            return
        method = last.finished[slot].made.method
        yield {
            self.status: figures.status("Starting …", busy=True),
            self.look: gr.update(interactive=False),
            self.stop: gr.update(interactive=True),
        }
        try:
            for event in record(self.studio, last.request, method, session_of(visitor)):
                if isinstance(event, Waiting):
                    yield {self.status: figures.status(in_line(event), busy=True)}
                elif isinstance(event, Recorded):
                    yield {**self._shown(event, dark), **ready}
                elif event.preview is not None:
                    yield {self.status: figures.status(f"Recording step {event.step} of {event.steps} …", busy=True)}
        except (Stopped, Refused, ServerError) as ended:
            said = "Stopped." if isinstance(ended, Stopped) else str(ended)
            if not isinstance(ended, Stopped):
                gr.Warning(said)
            yield {self.status: figures.status(said), **ready}
        except Exception:
            logger.exception("a recorded run failed")
            gr.Warning(FAILED)
            yield {self.status: figures.status(FAILED), **ready}

    def _shown(self, recorded: Recorded, dark: bool) -> dict[Any, Any]:
        tokens = recorded.tokens
        cached = next((s for s, kind in enumerate(recorded.plan.kinds) if kind.value != "full"), 0)
        step = min(cached, tokens.steps - 1)
        blocks = [("all", -1), *((f"{n}: {stack} {layer}", n) for n, (stack, layer) in enumerate(tokens.blocks))]
        frame = tokens.grid[0] // 2 if len(tokens.grid) == 3 else 0
        return {
            self.status: figures.status(f"Recorded {numbered_label(recorded.method)}: {tokens.steps} steps."),
            self.body: gr.update(visible=True),
            self.plan: figures.plan_map(recorded.plan, self.studio.loaded.name, dark),
            self.spent: figures.spent(recorded.spent),
            self.step: gr.update(maximum=max(tokens.steps - 1, 1), value=step),
            self.layer: gr.update(choices=blocks, value=-1),
            self.module: gr.update(choices=[ALL, *tokens.modules], value=ALL),
            self.frame: gr.update(maximum=max(tokens.grid[0] - 1, 1), value=frame),
            self.tokens: self._tokens(recorded, dark, step, -1, ALL, frame),
            self.recorded: recorded,
        }

    def _tokens(self, recorded: Recorded | None, dark: bool, step: float, layer: int, module: str, frame: float) -> str:
        if recorded is None:
            return ""
        try:
            return figures.token_map(
                recorded.tokens,
                int(step),
                recorded.made.frames,
                layer=None if layer < 0 else int(layer),
                module=None if module == ALL else module,
                frame=int(frame) if len(recorded.tokens.grid) == 3 else None,
                dark=dark,
            )
        except ValueError as error:
            return figures.refusal(str(error))
