"""What the browser makes of the controls is the method that they show."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from typing import Any

import pytest

from dita.demo.controls import controls, parts, value
from dita.methods import METHODS, PAB, DuCa, Method, TaylorSeer, ToCa, ToMe, as_method, parse

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node on this machine, which would run the page's own code")

CHANGED = [
    ToCa(3, 0.75, "random", schedule="constant", spatial_bonus=0.5, warmup=2, strict=True),
    ToMe(0.25, stride=(4, 4), modules=("attn", "mlp"), random=False, machine="cpu"),
    DuCa(6, aggressive="reuse"),
    TaylorSeer(4, 0, lite=True),
    PAB(3, low=0),
    as_method([ToMe(force=True), ToCa(5)]),
]


def shown(method: Method) -> tuple[list, list]:
    """What the page hands to `ditaShort`: the parts with their parameters, and what their controls hold."""
    spec = [[part.name, [[c.name, c.default, c.optional] for c in controls(type(part))]] for part in parts(method)]
    held = []
    for part in parts(method):
        for control in controls(type(part)):
            now = value(part, control)
            held.append("" if now is None else str(now) if control.optional else now)
    return spec, held


def of_the_page(expression: str) -> Any:
    """What an expression is that may use the page's own code."""
    code = (resources.files("dita.demo") / "look.js").read_text()
    program = (
        f"globalThis.window = globalThis; globalThis.document = {{addEventListener() {{}}}};{code}\n"
        f"console.log(JSON.stringify({expression}))"
    )
    return json.loads(subprocess.run([NODE, "-e", program], capture_output=True, check=True, text=True).stdout)


def in_the_browser(methods: list[Method]) -> list[str]:
    calls = json.dumps([shown(method) for method in methods])
    return of_the_page(f"{calls}.map(([parts, values]) => window.ditaShort(parts, values))")


UNCHANGED = {"__type__": "update"}


def told(share: float, text: str) -> str:
    """The page's answer when controls that were drawn for steps:0.5 tell of a share, while the short form is `text`."""
    held = json.dumps([[["steps", [["share", 1.0, False]]]], [0.5], "steps:0.5"])[1:-1]
    return f"window.ditaControls({held}, {json.dumps([share, text])})"


@pytest.mark.parametrize("typed", ["steps:0.5", "", "fora:3"])
def test_controls_that_are_only_drawn_change_nothing(typed: str):
    assert of_the_page(told(0.5, typed)) == [UNCHANGED, UNCHANGED]


def test_controls_put_back_as_they_were_give_back_the_short_form():
    there, back = told(0.25, "steps:0.5"), told(0.5, "steps:share=0.25")
    assert of_the_page(f"[{there}, {back}]") == [["steps:share=0.25", "custom"], ["steps:0.5", UNCHANGED]]


def test_untouched_controls_are_the_name_alone():
    assert in_the_browser([cls() for cls in METHODS.values()]) == list(METHODS)


def test_changed_controls_are_read_back_as_the_method():
    assert [parse(short) for short in in_the_browser(CHANGED)] == CHANGED
