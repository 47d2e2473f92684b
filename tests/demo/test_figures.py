"""Figures say what was measured, and nothing that a visitor wrote becomes part of the page's code."""

from __future__ import annotations

import base64
import dataclasses
import io
import math

import numpy as np
import pytest
from PIL import Image

from dita.demo import figures
from dita.demo.figures import Card
from dita.demo.sampling import Made
from dita.demo.scores import Scores, difference
from dita.demo.studio import Finished
from dita.methods import FORA, FewerSteps, Plain, parse
from dita.miniature.judge import Verdict
from dita.shapes import named_shape

EVIL = '"><script>alert(1)</script>'


def picture(value: int = 0, side: int = 8) -> np.ndarray:
    return np.full((1, side, side, 3), value, np.uint8)


def finished(slot=0, method=None, **changes) -> Finished:
    made = Made(method or Plain(), picture(), 2.0, 10, None)
    return Finished(slot, made, **{"scores": Scores(), "flops": 1e9, "plain_flops": 2e9, "speedup": 1.0, **changes})


def test_what_a_visitor_wrote_is_escaped():
    card = Card(1, "Method A", EVIL, (8, 8), "done", picture(), facts=EVIL, prompt=EVIL).html()
    shown = card + figures.status(EVIL) + figures.refusal(EVIL) + figures.progress(0, 1, EVIL)
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_a_finished_picture_is_there_pixel_by_pixel_and_can_be_saved():
    random = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    html = Card(0, "Plain", "", (8, 8), "done", random).html()
    data = base64.b64decode(html.split('src="data:image/png;base64,')[1].split('"')[0])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), random[0])
    assert 'download="dita-0.png"' in html


def test_a_preview_cannot_be_saved_and_an_empty_card_says_so():
    assert "download" not in Card(0, "Plain", "", (8, 8), "running", picture()[0], step=1, steps=2).html()
    assert "no picture yet" in Card(0, "Plain", "", (8, 8)).html()
    assert "waiting" in Card(0, "Plain", "", (8, 8), "waiting").html()


def test_a_clip_is_a_video():
    pytest.importorskip("imageio_ffmpeg")
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    html = Card(1, "Method A", "", (32, 32), "done", frames).html()
    assert "<video" in html
    assert 'class="dita-clip"' in html
    assert 'download="dita-1.mp4"' in html


def test_a_clip_without_an_encoder_is_a_moving_picture(monkeypatch):
    def missing(*_):
        raise ImportError("no encoder")

    monkeypatch.setattr("dita.generation.files.mp4", missing)
    frames = np.stack([picture(0)[0], picture(255)[0]])
    assert figures.as_uri(frames).startswith("data:image/webp")
    assert 'download="dita-1.webp"' in Card(1, "A", "", (8, 8), "done", frames).html()


def test_the_difference_of_a_picture_to_itself_is_black():
    amounts, largest = difference(picture(9), picture(9))
    assert (amounts.max(), largest) == (0, 0)
    assert "largest difference of a pixel is 0%" in figures.difference_map(picture(9), picture(9), "fora:3")
    other = picture(9).copy()
    other[0, 2, 3, 1] = 60
    amounts, largest = difference(other, picture(9))
    assert largest == pytest.approx(51 / 255) == amounts[2, 3]
    assert amounts.sum() == amounts[2, 3]


def test_small_pictures_are_enlarged_pixel_by_pixel():
    large = figures.enlarged(picture(7, side=64))
    assert large.shape == (512, 512, 3)
    assert figures.enlarged(np.zeros((1, 700, 600, 3), np.uint8)).shape == (700, 600, 3)


def test_numbers_are_those_that_were_measured():
    scores = Scores(psnr=31.26, ssim=0.9876)
    one = finished(1, FORA(3), scores=scores, speedup=1.5, flops=0.5e9)
    table = figures.numbers([finished(flops=2e9), one])
    for text in ("fora:3", "31.3", "0.988", "1.50×", "4.00", "2.00"):
        assert text in table
    assert "judge" not in table
    same = dataclasses.replace(one, scores=Scores(psnr=math.inf, ssim=1.0))
    assert "identical" in figures.numbers([finished(), same])


def test_the_judge_names_what_is_wrong():
    right, wrong = Verdict(shape=True), Verdict(shape=True, colour=False, size=False)
    table = figures.numbers(
        [finished(scores=Scores(verdict=right)), finished(1, FORA(3), scores=Scores(verdict=wrong))]
    )
    assert "all right" in table
    assert "wrong: colour, size" in table


def test_a_strip_says_what_every_step_does():
    shape = named_shape("flux-dev")
    cached = figures.strip(FORA(3), shape, 9)
    assert cached.count('<i data-kind="full">') == 3 + 1  # and the legend's
    assert "3 full + 6 reused steps. FLOPs ratio 3.00" in cached
    assert "3 steps instead of 9" in figures.strip(FewerSteps(1 / 3), shape, 9)
    assert "9 steps, in full" in figures.strip(Plain(), shape, 9)
    merged = figures.strip(parse("tome:0.5:force=true"), shape, 9)
    assert "50% of the tokens merged" in merged


def test_a_strip_warns_of_a_method_that_saves_nothing():
    assert "fora saves nothing in" in figures.strip(FORA(3), named_shape("flux-dev"), 1)


def test_a_row_of_broken_numbers_is_marked_and_counted_and_never_identical():
    rows = [finished(), finished(1, FORA(2)), finished(2, FewerSteps(0.5), scores=Scores(psnr=30.0, ssim=0.9))]
    rows[1] = dataclasses.replace(rows[1], made=dataclasses.replace(rows[1].made, broken=True))
    html = figures.numbers(rows)
    assert html.count('class="dita-broken"') == 1 and html.count("holds NaN or infinity") == 1
    assert html.count("is of one colour") == 2
    assert "1 of 3 pictures hold NaN or infinity" in html and "identical" not in html
