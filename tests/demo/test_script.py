"""The Python lines make the picture of the demo again, pixel for pixel."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from dita import miniature
from dita.demo.loaded import load
from dita.demo.request import Limits, checked
from dita.demo.sampling import sample
from dita.demo.script import python_lines
from dita.methods import FORA, FewerSteps, Plain, as_method
from tests.demo.small import PROMPTS, small


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [Plain(), FewerSteps(0.5), as_method("toca:2:0.5"), as_method("tome:force=true+fora:2")]
)
def test_the_lines_draw_the_same_picture(method, tmp_path, monkeypatch):
    loaded = load("shapes-flux", "float32", "cpu")
    request = checked(loaded, Limits(), miniature.prompts("shapes-flux", 1)[0], seed=5, steps=4)
    made = sample(loaded, request, method, lambda seen: None, threading.Event())
    monkeypatch.chdir(tmp_path)
    exec(compile(python_lines(loaded, request, method), "picture.py", "exec"), {})
    with Image.open("picture.png") as picture:
        assert np.array_equal(np.asarray(picture), made.frames[0])


def test_every_familys_lines_are_python_and_quote_what_was_written():
    for family in PROMPTS:
        loaded = small(family)
        prompt = PROMPTS[family]
        request = checked(loaded, Limits(), prompt, seed=7)
        lines = python_lines(loaded, request, FORA(2))
        compile(lines, "picture.py", "exec")
        assert repr(prompt) in lines
        assert "manual_seed(7)" in lines
        assert "'fora:2'" in lines


def test_a_prompt_cannot_break_out_of_its_quotes():
    loaded = small("flux")
    request = checked(loaded, Limits(), """a "red" circle'); import os; os.abort() #""")
    compile(python_lines(loaded, request, Plain()), "picture.py", "exec")
    assert repr(request.prompt) in python_lines(loaded, request, Plain())
