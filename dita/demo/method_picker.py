"""Choosing a method: a preset or a name, then its parameters as controls that are made from its dataclass."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import gradio as gr

from dita.comparison import numbered_label
from dita.demo import figures
from dita.demo.controls import Control, controls, parts, value
from dita.demo.request import Refused, checked_method
from dita.demo.studio import Studio
from dita.methods import METHODS, Method, Plain

CUSTOM = "custom"
NONE = ""
SLIDER_TOP = 12  # of whole numbers without a bound that are small by default
NUMBER_STEP = 0.01


class MethodPicker:
    """The components that choose one method; `text` holds it in short, and is what runs.

    Attributes:
        text: the short form, such as toca:4:0.9; empty for none.
    """

    def __init__(self, studio: Studio, title: str, value: str, *, optional: bool, key: str) -> None:
        self.studio = studio
        self.title = title
        self.key = key
        family = studio.loaded.family
        choices = [(name, numbered_label(method)) for name, method in studio.presets.items()]
        runs = [cls for cls in METHODS.values() if family in cls.families and cls is not Plain]
        named = [(f"Method: {cls.name}", numbered_label(cls())) for cls in runs]
        taken = {short for _, short in choices}
        choices += [(name, short) for name, short in named if short not in taken]
        none = [("None", NONE)] if optional else []
        self.form = gr.State(value)
        with gr.Group():
            self.choice = gr.Dropdown(
                [*none, *choices, ("Own parameters", CUSTOM)],
                value=value,
                label=title,
                elem_id=f"{key}-choice",
                filterable=False,
            )
            self.strip = gr.HTML(elem_id=f"{key}-strip", elem_classes="dita-plan")
            with gr.Accordion("Parameters", open=False, elem_id=f"{key}-parameters"):
                self._controls()
                self.text = gr.Textbox(
                    value=value,
                    label="In short",
                    info="As the command line takes it; edit it, or the controls above.",
                    elem_id=f"{key}-text",
                    max_lines=1,
                    max_length=400,
                )

    def connect(self, steps: gr.Slider, load: Callable[..., Any]) -> None:
        """The events: `steps` is the Compare page's, `load` the page's own load event."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        forms = {**quiet, "queue": True, "concurrency_limit": None}  # unqueued, a State's change draws no controls
        chosen = self.choice.input(self._chosen, [self.choice, self.form], [self.text, self.form], **forms)
        self.draws(chosen.then, steps)
        typed = [self.text.submit, self.text.blur]
        gr.on(typed, self._typed, [self.text, self.form], [self.form, self.choice], **forms)
        quiet["queue"] = False
        gr.on([self.text.change, steps.release, load], self._planned, [self.text, steps], self.strip, **quiet)

    def set_to(self, short: str) -> dict[Any, Any]:
        """What shows the method in short, whose controls are drawn then."""
        known = [value for _, value in self.choice.choices]
        return {self.text: short, self.form: short, self.choice: short if short in known else CUSTOM}

    def draws(self, event: Callable[..., Any], steps: gr.Slider) -> None:
        """The plan is drawn anew after `event`. (The field of the short form tells of no change while it is folded.)"""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        event(self._planned, [self.text, steps], self.strip, **quiet)

    def _chosen(self, choice: str, form: str) -> tuple[Any, Any]:
        return (gr.skip(), gr.skip()) if choice == CUSTOM else (choice, choice)

    def _typed(self, text: str, form: str) -> tuple[Any, Any]:
        if text.strip() == form:
            return gr.skip(), gr.skip()
        try:
            method = _method(self.studio, text)
        except Refused:  # the line under the choice says why
            return gr.skip(), gr.skip()
        return (NONE if method is None else text.strip()), (NONE if method is None else CUSTOM)

    def _planned(self, text: str, steps: float) -> str:
        return planned(self.studio, text, int(steps))

    def _controls(self) -> None:
        """Draws the controls anew whenever another method is chosen or typed."""

        @gr.render(inputs=[self.form], show_progress="hidden")
        def draw(form: str) -> None:
            try:
                method = _method(self.studio, form)
            except Refused:
                return
            if method is None:
                gr.Markdown("No method: only the other pictures are made.")
                return
            shown: list[Any] = []
            for part in parts(method):
                if len(parts(method)) > 1:
                    gr.Markdown(f"**{part.name}**")
                fields = controls(type(part))
                if not fields:
                    gr.Markdown(f"{part.name} has no parameters.")
                main = [one for one in fields if one.name in part.positional]
                rest = [one for one in fields if one.name not in part.positional]
                drawn = {}
                for control in main:
                    drawn[control.name] = component(control, value(part, control), f"{self.key}-{part.name}")
                if rest:
                    with gr.Accordion(f"More of {part.name}", open=False):
                        for control in rest:
                            drawn[control.name] = component(control, value(part, control), f"{self.key}-{part.name}")
                shown += [drawn[control.name] for control in fields]
            spec = [
                [part.name, [[c.name, c.default, c.optional] for c in controls(type(part))]] for part in parts(method)
            ]
            held = json.dumps([spec, [one.value for one in shown], form])[1:-1]
            js = f"(...values) => window.ditaControls({held}, values)"  # in the browser alone: it cannot lag behind
            here: dict[str, Any] = {"js": js, "show_progress": "hidden", "api_visibility": "private"}
            for one in shown:  # a text field tells of what is typed by `input`, of what is erased or pasted by `change`
                told = one.change if isinstance(one, gr.Textbox) else one.input
                told(None, [*shown, self.text], [self.text, self.choice], **here)


def component(control: Control, now: Any, key: str) -> Any:
    """The Gradio component of a control."""
    shared: dict[str, Any] = {
        "label": control.name,
        "info": brief(control.meaning),
        "value": now,
        "elem_id": f"{key}-{control.name}",
        "interactive": True,
    }
    if control.kind == "switch":
        return gr.Checkbox(**shared)
    if control.kind == "choice":
        unset = [("not set", "")] if control.optional else []
        shared["value"] = "" if now is None else now
        return gr.Dropdown([*unset, *((str(one), one) for one in control.choices)], filterable=False, **shared)
    listed = control.kind in ("wholes", "numbers", "names")
    if listed or control.optional:  # Gradio's numbers cannot be empty: null becomes 0
        shared["value"] = "" if now is None else str(now)
        return gr.Textbox(max_lines=1, placeholder="not set" if control.optional else None, **shared)
    whole = control.kind == "whole"
    if control.high is not None:
        return gr.Slider(control.low or 0, control.high, step=1 if whole else NUMBER_STEP, **shared)
    small = isinstance(control.default, int) and 1 <= control.default <= SLIDER_TOP and (now or 0) <= SLIDER_TOP
    if whole and small:
        return gr.Slider(control.low or 0, SLIDER_TOP, step=1, **shared)
    return gr.Number(minimum=control.low, precision=0 if whole else None, **shared)


def brief(meaning: str) -> str:
    """The first sentence."""
    found = re.match(r".*?\.(?=\s)", meaning)
    return found[0] if found else meaning


def planned(studio: Studio, text: str, steps: int) -> str:
    """What the method in short would do, or why it cannot."""
    try:
        method = _method(studio, text)
        shape = studio.default_shape
        if method is None or shape is None:
            return ""
        return figures.strip(method.on(studio.loaded.device), shape, max(steps, 1))
    except ValueError as error:
        return figures.refusal(str(error))


def _method(studio: Studio, text: str) -> Method | None:
    return None if not text.strip() else checked_method(studio.loaded, text.strip())
