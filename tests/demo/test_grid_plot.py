"""The plot of an exploration has a line for each N, and names what it shows."""

from __future__ import annotations

import dataclasses

from dita.demo.grid import HIGHEST_PSNR, Point
from dita.demo.grid_plot import has, plot_grid
from dita.methods import FewerSteps, Method, Plain, ToCa


def point(method: Method, seconds: float, psnr: float = 30.0, **more) -> Point:
    rival = isinstance(method, (Plain, FewerSteps))
    return Point(method, rival, 1, seconds, 1.0, 1.0, psnr, **{"ssim": 0.9, "right": None, **more})


POINTS = [
    point(Plain(), 4.0, HIGHEST_PSNR),
    point(FewerSteps(0.5), 2.0),
    point(ToCa(2, 0.5), 3.0),
    point(ToCa(2, 0.9), 2.5),
    point(ToCa(4, 0.9), 1.5),
]


def test_each_cycle_is_a_line_and_each_ratio_a_point():
    axes = plot_grid(POINTS, "psnr").axes[0]
    lines = {line.get_label(): list(line.get_xdata()) for line in axes.lines if not line.get_label().startswith("_")}
    assert lines == {"fewer steps": [2.0], "toca, N = 2": [2.5, 3.0], "toca, N = 4": [1.5]}
    written = [text.get_text() for text in axes.texts]
    assert written == ["50%", "R 90%", "R 50%", "R 90%", "plain"]


def test_identical_pictures_are_nowhere_on_the_axis():
    same = dataclasses.replace(POINTS[2], psnr=HIGHEST_PSNR)
    assert not has([POINTS[0], same], "psnr")
    assert plot_grid([POINTS[0], same], "psnr") is None
    assert has([POINTS[0], same], "ssim")


def test_what_the_judge_cannot_tell_is_not_plotted():
    assert not has(POINTS, "right")
    judged = [dataclasses.replace(one, right=0.5) for one in POINTS]
    axes = plot_grid(judged, "right", "dark").axes[0]
    assert {y for line in axes.lines[:3] for y in line.get_ydata()} == {50.0}
