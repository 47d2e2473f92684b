"""The page Compare: one picture, plain and with one or two methods, as it comes."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from dita.compare import numbered_label
from dita.demo import figures
from dita.demo.figures import Card
from dita.demo.method_picker import MethodPicker
from dita.demo.request import Refused, Request, checked, checked_methods
from dita.demo.sampling import Stopped
from dita.demo.script import python_lines
from dita.demo.studio import Finished, ServerError, Studio, Waiting

logger = logging.getLogger("dita.demo")
SLOTS = ("Plain", "Method A", "Method B")
IDLE = "Write a prompt, choose a method, and press Compare."
OWN_WORLD = "This small model knows the drawings of its own world only; try an example."
FIRST = "toca:4:0.9"
TO_THE_PICTURES = """() => { if (window.innerWidth < 768)
  document.querySelector("#compare-status")?.scrollIntoView({ behavior: "smooth", block: "start" }); }"""
DARK = "document.body.classList.contains('dark')"  # in the browser
FAILED = "Something went wrong on the server; its log says what. Please try again."


@dataclass
class Comparison:
    """What a visitor's last comparison left: kept while the tab is open."""

    request: Request
    finished: list[Finished] = field(default_factory=list)


class ComparePage:
    """The components of the page, and what they do."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        loaded, limits = studio.loaded, studio.limits
        examples = loaded.examples(6)
        self.last = gr.State(None, time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.prompt = self._prompt(examples)
                with gr.Row():
                    self.run = gr.Button("Compare", variant="primary", elem_id="compare-run", scale=2)
                    self.stop = gr.Button("Stop", interactive=False, elem_id="compare-stop", scale=1, min_width=80)
                if not loaded.labels:
                    with gr.Accordion("Examples", open=False, elem_id="compare-examples"):
                        self._examples(examples)
                self.first = MethodPicker(studio, SLOTS[1], _first(studio), optional=False, key="a")
                self.second = MethodPicker(studio, SLOTS[2], "steps:0.5", optional=True, key="b")
                with gr.Accordion("Picture", open=False, elem_id="compare-picture"):
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="compare-seed")
                    self.steps = gr.Slider(
                        loaded.least_steps, limits.steps, loaded.steps, step=1, label="Steps", elem_id="compare-steps"
                    )
                    self.guidance = gr.Slider(
                        0, limits.guidance, loaded.guidance, step=0.5, label="Guidance", elem_id="compare-guidance"
                    )
                    unit, (height, width) = loaded.token_pixels, loaded.side
                    least = min(4 * unit, height, width)
                    sizes: dict[str, Any] = {"step": unit, "visible": not loaded.fixed_size}
                    self.width = gr.Slider(least, limits.side, width, label="Width, pixels", **sizes)
                    self.height = gr.Slider(least, limits.side, height, label="Height, pixels", **sizes)
            with gr.Column(scale=5, min_width=320):
                self.status = gr.HTML(figures.status(IDLE), elem_id="compare-status")
                with gr.Row(elem_classes="dita-cards"):
                    self.cards = [
                        gr.HTML(card.html(), elem_id=f"compare-card-{card.slot}", min_width=200, scale=1)
                        for card in self._cards([])
                    ]
                self.numbers = gr.HTML(elem_id="compare-numbers")
                self.closer = gr.Column(visible=False, elem_id="compare-closer")
                with self.closer:
                    self.against = gr.Radio([], label="Look closer", elem_id="compare-against", visible=False)
                    with gr.Row(elem_classes="dita-cards"):
                        with gr.Column(scale=3, min_width=280):
                            self.slider = gr.ImageSlider(
                                label="Plain on the left, accelerated on the right",
                                format="png",
                                interactive=False,
                                buttons=["fullscreen"],
                                max_height=560,
                                elem_id="compare-slider",
                            )
                        with gr.Column(scale=2, min_width=240):
                            self.difference = gr.HTML(elem_id="compare-difference")
                    self.saves = gr.HTML(elem_id="compare-saves")
                    with gr.Accordion("The same in Python", open=False, elem_id="compare-python"):
                        self.code = gr.Code(
                            language="python", show_label=False, interactive=False, elem_id="compare-code"
                        )

    def _prompt(self, examples: list[str]) -> Any:
        loaded = self.studio.loaded
        if loaded.labels:
            return gr.Dropdown(
                list(loaded.labels), value=examples[0], label="Class", filterable=True, elem_id="compare-prompt"
            )
        prompt = gr.Textbox(
            value=examples[0],
            label="Prompt",
            lines=2,
            max_lines=6,
            max_length=4 * self.studio.limits.prompt,  # what is too long is refused in words, not cut in silence
            elem_id="compare-prompt",
            elem_classes="dita-prompt",
            info=OWN_WORLD if loaded.bundled else None,
        )
        return prompt

    def _examples(self, examples: list[str]) -> None:
        for one in examples:
            button = gr.Button(one, size="sm", elem_classes="dita-example")
            button.click(None, None, self.prompt, js=f"() => {json.dumps(one)}", api_visibility="private")

    def connect(self, load: Any) -> None:
        """The events of the page."""
        for picker in (self.first, self.second):
            picker.connect(self.steps, load)
        inputs = [
            self.prompt, self.seed, self.steps, self.guidance, self.height, self.width, self.first.text,
            self.second.text,
        ]  # fmt: skip
        shown = [
            self.status, *self.cards, self.numbers, self.closer, self.against, self.slider, self.difference, self.saves,
            self.code, self.run, self.stop, self.last,
        ]  # fmt: skip
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        triggers = [self.run.click]
        if hasattr(self.prompt, "submit"):
            triggers.append(self.prompt.submit)
        gr.on(triggers, self._compare, inputs, shown, concurrency_limit=None, trigger_mode="once", **quiet)
        gr.on(triggers, None, js=TO_THE_PICTURES, **quiet)
        self.stop.click(self._stop, None, self.status, queue=False, **quiet)
        closer = [self.slider, self.difference, self.saves, self.code]
        self.against.input(self._closer, [self.last, self.against], closer, **quiet)

    def _cards(self, methods: list[str], size: tuple[int, int] | None = None, prompt: str = "") -> list[Card]:
        labels = [f"{self.studio.loaded.steps} steps", *methods] if not methods else ["every step in full", *methods]
        labels += [""] * (len(SLOTS) - len(labels))
        return [
            Card(slot, title, label, size or self.studio.loaded.side, prompt=prompt)
            for slot, (title, label) in enumerate(zip(SLOTS, labels, strict=True))
        ]

    def _stop(self, request: gr.Request) -> str:
        stopped = self.studio.stop(session_of(request))
        return figures.status("Stopping after this step …" if stopped else "Nothing is running.", busy=bool(stopped))

    def _compare(
        self,
        prompt: str,
        seed: float,
        steps: float,
        guidance: float,
        height: float,
        width: float,
        first: str,
        second: str,
        visitor: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        ready = {self.run: gr.update(interactive=True), self.stop: gr.update(interactive=False)}
        try:
            request = checked(self.studio.loaded, self.studio.limits, prompt, seed, steps, guidance, height, width)
            texts = [text.strip() for text in (first, second) if text.strip()]
            methods = checked_methods(self.studio.loaded, self.studio.limits, list(texts))
        except Refused as refused:
            gr.Warning(str(refused))
            yield {self.status: figures.status(str(refused)), **ready}
            return
        labels = [numbered_label(method) for method in methods]
        cards = self._cards(labels, (request.height, request.width), request.prompt)
        cards = [dataclasses.replace(card, state="waiting") for card in cards[: len(methods) + 1]]
        last = Comparison(request)
        yield {
            self.status: figures.status("Starting …", busy=True),
            self.numbers: "",
            self.closer: gr.update(visible=False),
            **{box: gr.update(value=card.html(), visible=True) for box, card in zip(self.cards, cards, strict=False)},
            **{box: gr.update(visible=False) for box in self.cards[len(cards) :]},
            self.run: gr.update(interactive=False),
            self.stop: gr.update(interactive=True),
            self.last: None,
        }
        try:
            yield from self._events(last, methods, cards, session_of(visitor))
            yield {**self._done(last), **ready}
        except (Stopped, Refused, ServerError) as ended:
            said = "Stopped." if isinstance(ended, Stopped) else str(ended)
            if not isinstance(ended, Stopped):
                gr.Warning(said)
            yield {self.status: figures.status(said), **self._broken_off(cards), **ready}
        except Exception:
            logger.exception("a comparison failed")
            gr.Warning(FAILED)
            yield {self.status: figures.status(FAILED), **self._broken_off(cards), **ready}

    def _events(self, last: Comparison, methods: Any, cards: list[Card], session: str) -> Iterator[dict[Any, Any]]:
        for event in self.studio.compare(last.request, methods, session):
            if isinstance(event, Waiting):
                yield {self.status: figures.status(in_line(event), busy=True)}
                continue
            card = cards[event.slot]
            shown: dict[Any, Any] = {}
            if isinstance(event, Finished):
                last.finished.append(event)
                facts = f"{event.made.seconds:.2f} s"
                facts += f", {event.speedup:.2f}× as fast as plain" if event.slot else ""
                fault = figures.fault(event.made)
                facts += f", {fault}" if fault else ""
                card = dataclasses.replace(card, state="done", picture=event.made.frames, facts=facts)
                shown[self.numbers] = figures.numbers(last.finished)
            else:
                seen = event.seen
                if seen.preview is None and card.state == "running" and seen.step != seen.steps:
                    continue
                card = dataclasses.replace(
                    card,
                    state="running",
                    picture=card.picture if seen.preview is None else seen.preview,
                    step=seen.step,
                    steps=seen.steps,
                    facts=f"step {seen.step} of {seen.steps}",
                )
                shown[self.status] = figures.status(f"{card.title} …", busy=True)
            cards[event.slot] = card
            yield {**shown, self.cards[event.slot]: card.html()}

    def _done(self, last: Comparison) -> dict[Any, Any]:
        methods = [(f"{SLOTS[one.slot]}: {numbered_label(one.made.method)}", one.slot) for one in last.finished[1:]]
        slider, difference, saves, code = self._closer(last, 1)
        fastest = max(last.finished[1:], key=lambda one: one.speedup)
        said = f"Done. {numbered_label(fastest.made.method)}: {fastest.speedup:.2f}× as fast as plain, in seconds."
        if fastest.speedup < 1:
            said = "Done. Nothing was faster than plain here: a picture this small or short leaves little to save."
        return {
            self.status: figures.status(said),
            self.closer: gr.update(visible=True),
            self.against: gr.update(choices=methods, value=1, visible=len(methods) > 1),
            self.slider: slider,
            self.difference: difference,
            self.saves: saves,
            self.code: code,
            self.last: last,
        }

    def _closer(self, last: Comparison | None, slot: int) -> tuple[Any, str, str, str]:
        if last is None or not 0 < slot < len(last.finished):
            return None, "", "", ""
        plain, one = last.finished[0].made, last.finished[slot].made
        lines = python_lines(self.studio.loaded, last.request, one.method)
        method = json.dumps(one.method.as_json(), indent=2) + "\n"
        saves = figures.saves(
            [
                ("method.json", "Save the method (JSON)", figures.text_uri("application/json", method)),
                ("picture.py", "Save the Python lines", figures.text_uri("text/x-python", lines)),
            ]
        )
        difference = figures.difference_map(one.frames, plain.frames, numbered_label(one.method))
        return (figures.enlarged(plain.frames), figures.enlarged(one.frames)), difference, saves, lines

    def _broken_off(self, cards: list[Card]) -> dict[Any, Any]:
        return {
            self.cards[card.slot]: dataclasses.replace(card, state="stopped", facts="stopped").html()
            for card in cards
            if card.state != "done"
        }


def in_line(event: Waiting) -> str:
    """Who is served first."""
    return f"In line: {event.ahead} {'picture' if event.ahead == 1 else 'pictures'} of others first."


def session_of(request: gr.Request | None) -> str:
    """Which visitor asks."""
    return str(getattr(request, "session_hash", None) or "")


def _first(studio: Studio) -> str:
    """What is chosen at the start: the owner's method, if there is one."""
    return next((numbered_label(method) for method in studio.own.values()), FIRST)
