"""The page Compare: one picture, plain and with one or two methods, as it comes."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from dita.comparison import numbered_label
from dita.demo import figures
from dita.demo.figures import Card
from dita.demo.method_picker import MethodPicker
from dita.demo.request import LARGEST_SEED, Refused, Request, as_it_came, checked, checked_method, checked_methods
from dita.demo.sampling import Stopped
from dita.demo.script import python_lines
from dita.demo.studio import Finished, Progress, Repeated, ServerError, Studio, Waiting
from dita.demo.thumbnails import thumbnail
from dita.methods import Method

logger = logging.getLogger("dita.demo")
SLOTS = ("Plain", "Method A", "Method B")
IDLE = "Write a prompt, choose a method, and press Compare."
OWN_WORLD = "This small model knows the drawings of its own world only; try an example."
FIRST = "toca:4:0.9"
EXAMPLES = 6
DRAWS = 5
KEPT = 8  # earlier comparisons of a visitor
KEPT_BYTES = 64 * 2**20  # of their pictures
NUMBERS = ("seed", "steps", "guidance", "height", "width")
LINKED = ("The link is copied, and in the address bar.", "The link is in the address bar.")
TO_THE_RESULTS = """() => {{ if (window.innerWidth < 768)
  document.querySelector("#{}")?.scrollIntoView({{ behavior: "smooth", block: "start" }}); }}"""
DARK = "document.body.classList.contains('dark')"  # in the browser
FAILED = "Something went wrong on the server; its log says what. Please try again."


@dataclass
class Comparison:
    """What a visitor's last comparison left: kept while the tab is open."""

    request: Request
    methods: tuple[Method, ...]
    draws: int = 1
    finished: list[Finished] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every picture is there; some may still be drawn again."""
        return len(self.finished) == 1 + len(self.methods)

    @property
    def bytes(self) -> int:
        return sum(one.made.frames.nbytes for one in self.finished)

    @property
    def caption(self) -> str:
        methods = ", ".join(f"{numbered_label(one.made.method)} {one.speedup:.2f}×" for one in self.finished[1:])
        return f"{self.request.prompt} · seed {self.request.seed} · {methods}"


class ComparePage:
    """The components of the page, and what they do."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        examples = studio.loaded.examples(EXAMPLES)
        self.last = gr.State(None, time_to_live=3600)
        self.kept = gr.State([], time_to_live=3600)
        with gr.Row(elem_id="compare-layout"):
            with gr.Column(elem_classes="dita-ask"):
                self._ask(examples)
            with gr.Column(elem_classes="dita-results"):
                self._results()
            with gr.Column(elem_classes="dita-settings"):
                self._settings(examples)

    def _ask(self, examples: list[str]) -> None:
        self.prompt = self._prompt(examples)
        with gr.Row():
            self.run = gr.Button("Compare", variant="primary", elem_id="compare-run", scale=2)
            self.stop = gr.Button("Stop", interactive=False, elem_id="compare-stop", scale=1, min_width=80)
        self.repeat = gr.Checkbox(
            False,
            label="×5: draw five times",
            info="Seconds are then the median of five draws, methods in turn.",
            elem_id="compare-repeat",
        )

    def _settings(self, examples: list[str]) -> None:
        studio, loaded, limits = self.studio, self.studio.loaded, self.studio.limits
        with gr.Accordion("Examples", open=False, elem_id="compare-examples"):
            self._examples(examples)
        self.first = MethodPicker(studio, SLOTS[1], _first(studio), optional=False, key="a")
        self.second = MethodPicker(studio, SLOTS[2], "steps:0.5", optional=True, key="b")
        with gr.Accordion("Picture", open=False, elem_id="compare-picture"):
            self.seed = seed_number("compare-seed")
            self.random = gr.Button("Random seed", size="sm", elem_id="compare-random")
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
        self.link = gr.Button("Copy a link to these settings", size="sm", elem_id="compare-link")

    def _results(self) -> None:
        self.status = gr.HTML(figures.status(IDLE), elem_id="compare-status")
        with gr.Row(elem_classes="dita-cards dita-pictures"):
            self.cards = [
                gr.HTML(card.html(), elem_id=f"compare-card-{card.slot}", min_width=150, scale=1)
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
                self.code = gr.Code(language="python", show_label=False, interactive=False, elem_id="compare-code")
        with gr.Column(visible=False) as self.visited:
            gr.Markdown("### Earlier pictures of this visit\nChoose one to see it again, with its settings.")
            self.earlier = gr.Gallery(
                show_label=False,
                label="Earlier pictures",
                interactive=False,
                allow_preview=False,
                height="auto",
                object_fit="contain",
                buttons=[],
                elem_id="compare-earlier",
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
            icon = thumbnail(self.studio.loaded.name, one)
            button = gr.Button(one, size="sm", icon=icon, elem_classes="dita-example")
            button.click(None, None, self.prompt, js=f"() => {json.dumps(one)}", api_visibility="private")

    @property
    def settings(self) -> dict[str, Any]:
        """What a link keeps: components by the names that they have in it."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "height": self.height,
            "width": self.width,
            "a": self.first.text,
            "b": self.second.text,
            "repeat": self.repeat,
        }

    def connect(self, load: Any) -> None:
        """The events of the page."""
        for picker in (self.first, self.second):
            picker.connect(self.steps, load)
        shown = [
            self.status, *self.cards, self.numbers, self.closer, self.against, self.slider, self.difference, self.saves,
            self.code, self.run, self.stop, self.last, self.kept, self.visited, self.earlier,
        ]  # fmt: skip
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        triggers = [self.run.click]
        if hasattr(self.prompt, "submit"):
            triggers.append(self.prompt.submit)
        settings = self.settings
        inputs = [*settings.values(), self.kept]
        gr.on(triggers, self._compare, inputs, shown, concurrency_limit=None, trigger_mode="once", **quiet)
        gr.on(triggers, None, js=TO_THE_RESULTS.format("compare-status"), **quiet)
        self.stop.click(self._stop, None, self.status, queue=False, **quiet)
        closer = [self.slider, self.difference, self.saves, self.code]
        self.against.input(self._closer, [self.last, self.against], closer, **quiet)
        self.random.click(None, None, self.seed, js=f"() => Math.floor(Math.random() * {LARGEST_SEED + 1})", **quiet)
        said = json.dumps([figures.status(words) for words in LINKED])
        linked = f"(...values) => window.ditaLink({json.dumps(list(settings))}, values, {said})"
        self.link.click(None, list(settings.values()), self.status, js=linked, **quiet)
        pickers = [part for one in (self.first, self.second) for part in (one.form, one.choice)]
        taken = [*settings.values(), *pickers]
        again = self.earlier.select(self._again, self.kept, [*shown, *taken], **quiet)
        for event in (again, load(self._from_link, None, [*taken, self.status], **quiet)):
            for picker in (self.first, self.second):
                picker.draws(event.then, self.steps)

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
        repeat: bool = False,
        kept: Sequence[Comparison] = (),
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
        last = Comparison(request, tuple(methods), DRAWS if repeat else 1)
        cards = self._cards_of(last)
        yield {
            self.status: figures.status("Starting …", busy=True),
            self.numbers: "",
            self.closer: gr.update(visible=False),
            **self._boxes(cards),
            self.run: gr.update(interactive=False),
            self.stop: gr.update(interactive=True),
            self.last: None,
        }
        try:
            yield from self._events(last, cards, session_of(visitor))
            yield {**self._done(last), **self._keeping(last, kept), **ready}
        except (Stopped, Refused, ServerError) as ended:
            said = "Stopped." if isinstance(ended, Stopped) else str(ended)
            if not isinstance(ended, Stopped):
                gr.Warning(said)
            done = {**self._done(last), **self._keeping(last, kept)} if last.complete else self._broken_off(cards)
            yield {**done, self.status: figures.status(said), **ready}
        except Exception:
            logger.exception("a comparison failed")
            gr.Warning(FAILED)
            yield {self.status: figures.status(FAILED), **self._broken_off(cards), **ready}

    def _cards_of(self, last: Comparison) -> list[Card]:
        """The cards of a comparison: those of finished pictures with them, the others waiting."""
        labels, request = [numbered_label(method) for method in last.methods], last.request
        cards = self._cards(labels, (request.height, request.width), request.prompt)[: len(labels) + 1]
        done = [_done_card(card, one) for card, one in zip(cards, last.finished, strict=False)]
        return done + [dataclasses.replace(card, state="waiting") for card in cards[len(done) :]]

    def _boxes(self, cards: list[Card]) -> dict[Any, Any]:
        shown = {box: gr.update(value=card.html(), visible=True) for box, card in zip(self.cards, cards, strict=False)}
        return shown | {box: gr.update(visible=False) for box in self.cards[len(cards) :]}

    def _events(self, last: Comparison, cards: list[Card], session: str) -> Iterator[dict[Any, Any]]:
        for event in self.studio.compare(last.request, last.methods, session, last.draws):
            if isinstance(event, Waiting):
                yield {self.status: figures.status(in_line(event), busy=True)}
            elif isinstance(event, Repeated):
                last.finished[:] = event.finished
                cards[:] = self._cards_of(last)
                yield {**self._boxes(cards), self.numbers: figures.numbers(last.finished)}
            elif isinstance(event, Finished):
                last.finished.append(event)
                cards[event.slot] = _done_card(cards[event.slot], event)
                yield {
                    self.numbers: figures.numbers(last.finished),
                    self.cards[event.slot]: cards[event.slot].html(),
                }
            elif last.complete:  # drawn again: the pictures stay as they are
                if event.seen.step == 1:
                    draw = max(len(last.finished[0].draws), 1) + 1
                    said = f"{cards[event.slot].title}, draw {draw} of {last.draws} …"
                    yield {self.status: figures.status(said, busy=True)}
            else:
                yield from self._progress(event, cards)

    def _progress(self, event: Progress, cards: list[Card]) -> Iterator[dict[Any, Any]]:
        seen, card = event.seen, cards[event.slot]
        if seen.preview is None and card.state == "running" and seen.step != seen.steps:
            return
        cards[event.slot] = dataclasses.replace(
            card,
            state="running",
            picture=card.picture if seen.preview is None else seen.preview,
            step=seen.step,
            steps=seen.steps,
            facts=f"step {seen.step} of {seen.steps}",
        )
        yield {
            self.status: figures.status(f"{card.title} …", busy=True),
            self.cards[event.slot]: cards[event.slot].html(),
        }

    def _done(self, last: Comparison) -> dict[Any, Any]:
        methods = [(f"{SLOTS[one.slot]}: {numbered_label(one.made.method)}", one.slot) for one in last.finished[1:]]
        slider, difference, saves, code = self._closer(last, 1)
        fastest = max(last.finished[1:], key=lambda one: one.speedup)
        said = f"Done. {numbered_label(fastest.made.method)}: {fastest.speedup:.2f}× as fast as plain, in seconds."
        if fastest.speedup < 1:
            said = "Done. Nothing was faster than plain here, in seconds."
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

    def _keeping(self, last: Comparison, kept: Sequence[Comparison]) -> dict[Any, Any]:
        """The gallery with `last` first, and as many of the others as there is room for."""
        room = KEPT_BYTES
        held: list[Comparison] = []
        for one in [last, *kept][:KEPT]:
            room -= one.bytes
            if held and room < 0:
                break
            held.append(one)
        tiles = [(figures.side_by_side([made.made.frames for made in one.finished]), one.caption) for one in held]
        return {self.kept: held, self.earlier: tiles, self.visited: gr.update(visible=True)}

    def _again(self, kept: Sequence[Comparison], chosen: gr.SelectData) -> dict[Any, Any]:
        """An earlier comparison once more, and its settings."""
        if not 0 <= chosen.index < len(kept):
            return {self.status: figures.status("This picture is no longer kept.")}
        last = kept[chosen.index]
        request = last.request
        labels = [numbered_label(method) for method in last.methods]
        values = {
            **{name: getattr(request, name) for name in ("prompt", "seed", "steps", "guidance", "height", "width")},
            "a": labels[0],
            "b": labels[1] if len(labels) > 1 else "",
            "repeat": last.draws > 1,
        }
        return {
            **self._boxes(self._cards_of(last)),
            self.numbers: figures.numbers(last.finished),
            **self._done(last),
            **self._taken(values),
        }

    def _from_link(self, visitor: gr.Request) -> dict[Any, Any]:
        """The settings that the page's address has; none of them where one is wrong, and the status then says why."""
        given = {name: text for name, text in dict(visitor.query_params).items() if name in self.settings}
        if not given:
            return {self.status: gr.skip()}
        try:
            values = self._linked(given)
        except Refused as refused:
            return {self.status: figures.status(f"The link's settings were left out. {refused}")}
        return self._taken(values)

    def _linked(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Checked settings of a link. Raises `Refused`."""
        loaded, limits = self.studio.loaded, self.studio.limits
        numbers = {name: as_number(given[name]) for name in NUMBERS if name in given}
        request = checked(loaded, limits, given.get("prompt", loaded.examples(1)[0]), **numbers)
        values: dict[str, Any] = {name: getattr(request, name) for name in ("prompt", *NUMBERS) if name in given}
        for name in ("a", "b"):
            text = given.get(name, "").strip()
            if text:
                values[name] = numbered_label(checked_method(loaded, text))
            elif name == "b" and "b" in given:
                values["b"] = ""
        if "repeat" in given:
            values["repeat"] = given["repeat"] == "true"
        return values

    def _taken(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """The settings that were given by name, the methods' controls among them."""
        found = {self.settings[name]: value for name, value in values.items()}
        for picker, name in ((self.first, "a"), (self.second, "b")):
            if name in values:
                found |= picker.set_to(values[name])
        return found

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


def seed_number(elem_id: str, info: str | None = None) -> gr.Number:
    """The field of a seed: what is none is refused in words, not rounded."""
    field = gr.Number(0, label="Seed", minimum=0, maximum=LARGEST_SEED, info=info, elem_id=elem_id)
    field.preprocess = as_it_came
    return field


def as_number(text: str) -> object:
    """The number that a link's text is, or the text, which `checked` refuses."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(text) if text.strip().isdecimal() else number


def _done_card(card: Card, one: Finished) -> Card:
    facts = f"{one.seconds:.2f} s" + (f", median of {len(one.draws)} draws" if one.draws else "")
    facts += f", {one.speedup:.2f}× as fast as plain" if one.slot else ""
    fault = figures.fault(one.made)
    facts += f", {fault}" if fault else ""
    return dataclasses.replace(card, state="done", picture=one.made.frames, facts=facts)


def _first(studio: Studio) -> str:
    """What is chosen at the start: the owner's method, if there is one."""
    return next((numbered_label(method) for method in studio.own.values()), FIRST)
