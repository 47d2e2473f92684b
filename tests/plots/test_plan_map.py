"""The map of a plan shows every action of it, in its place and colour."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

import dita
from dita.methods import parse
from dita.plan import Plan
from dita.plots.theme import THEMES
from dita.shapes import NAMED_SHAPES, FluxShape, Kind

SMALL = FluxShape(name="small", double_layers=2, single_layers=6, width=64, image_tokens=64, grid=(8, 8), text_tokens=8)


def plan_of(text: str, shape=SMALL, steps: int = 12) -> Plan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return parse(text).plan(shape, steps)


def panels(figure) -> dict[str, np.ndarray]:
    """The colours of every panel by its label, (layers, steps, 3)."""
    return {
        axes.get_ylabel().replace("\n", "."): np.asarray(axes.images[0].get_array())
        for axes in figure.axes
        if axes.images
    }


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    "text", ["toca:3:0.9", "duca:3:0.8", "fora:3", "taylorseer:3", "deltadit", "tome:0.5:force=true+toca:4:0.9"]
)
def test_every_action_has_its_colour_in_its_place(text: str, theme) -> None:
    plan, colours = plan_of(text), THEMES[theme]
    shown = panels(dita.plot_plan(plan, theme=theme))
    assert list(shown) == ["double.attn", "double.mlp", "double.text_mlp", "single"]
    fixed = {
        Kind.FULL: colours.full,
        Kind.REUSE: colours.reuse,
        Kind.FORECAST: colours.forecast,
        Kind.SKIP: colours.skip,
    }
    few, many = (np.array(to_rgb(colour)) for colour in colours.partial)
    for s, step in enumerate(plan.steps):
        for site, action in step.items():
            label = site.module if site.stack == site.module else f"{site.stack}.{site.module}"
            colour = shown[label][site.layer, s]
            if action.merged:
                assert np.allclose(colour, to_rgb(colours.merged))
            elif action.kind is Kind.PARTIAL:
                assert (np.minimum(few, many) - 1e-9 <= colour).all() and (colour <= np.maximum(few, many) + 1e-9).all()
            else:
                assert np.allclose(colour, to_rgb(fixed[action.kind]))


def test_a_partial_action_is_the_stronger_the_more_it_computes() -> None:
    plan = plan_of("toca:3:0.5")
    shown = panels(dita.plot_plan(plan))
    few, many = (np.array(to_rgb(colour)) for colour in THEMES["light"].partial)
    shares, places = [], []
    for s, step in enumerate(plan.steps):
        for site, action in step.items():
            if action.kind is Kind.PARTIAL:
                label = site.module if site.stack == site.module else f"{site.stack}.{site.module}"
                shares.append(action.tokens / plan.shape.tokens(site.module))
                places.append((shown[label][site.layer, s] - few)[2] / (many - few)[2])
    assert min(places) == pytest.approx(0) and max(places) == pytest.approx(1)
    expected = (np.array(shares) - min(shares)) / (max(shares) - min(shares))
    np.testing.assert_allclose(places, expected, atol=1e-6)


def test_the_legend_names_what_the_plan_holds_and_nothing_else() -> None:
    assert legend(dita.plot_plan(plan_of("plain"))) == ["full"]
    assert legend(dita.plot_plan(plan_of("fora:3"))) == ["full", "reuse"]
    assert legend(dita.plot_plan(plan_of("taylorseer:3:1"))) == ["full", "forecast: taylor, order 1"]
    uniform = plan_of("toca:3:0.75:uniform:schedule=constant")
    assert legend(dita.plot_plan(uniform)) == ["full", "partial: 25 % of the tokens", "reuse"]
    profile = legend(dita.plot_plan(plan_of("duca:3:0.5")))
    assert profile[1].startswith("partial: ") and " to " in profile[1] and profile[-1] == "skipped span"
    assert "full, 50 % of the image tokens merged" in legend(dita.plot_plan(plan_of("tome:0.5:force=true")))


def test_skipped_spans_are_hatched() -> None:
    plan = plan_of("deltadit")
    figure = dita.plot_plan(plan)
    axes = {one.get_ylabel().replace("\n", "."): one for one in figure.axes}
    hatched = set()
    for patch in axes["single"].patches:
        assert isinstance(patch, Rectangle) and patch.get_hatch()
        first = round(patch.get_y() + 0.5)
        hatched |= {(first + i, round(patch.get_x() + 0.5)) for i in range(round(patch.get_height()))}
    skipped = {
        (site.layer, s)
        for s, step in enumerate(plan.steps)
        for site, action in step.items()
        if site.stack == "single" and action.kind is Kind.SKIP
    }
    skipped_anywhere = any(action.kind is Kind.SKIP for step in plan.steps for action in step.values())
    assert skipped_anywhere and hatched == skipped


def test_the_strip_on_top_has_the_flops_of_each_step() -> None:
    plan = plan_of("tgate", NAMED_SHAPES["pixart-alpha-256"], 20)
    figure = dita.plot_plan(plan)
    heights = [bar.get_height() / 100 for bar in figure.axes[0].patches]
    assert len(heights) == 20
    assert sum(heights) * plan.plain_flops / 20 == pytest.approx(plan.flops())
    assert any("guidance ends" in text.get_text() for text in figure.axes[0].texts)


@pytest.mark.parametrize(
    ("name", "rows"), [("flux-dev", [19, 19, 19, 38]), ("opensora-1.2-480p-2s", [28] * 6), ("dit-xl-2-256", [28] * 2)]
)
def test_large_models_keep_one_row_a_layer_and_fit_a_page(name: str, rows: list[int]) -> None:
    figure = dita.plot_plan(plan_of("toca:4:0.9", NAMED_SHAPES[name], 50))
    shown = panels(figure)
    assert [len(cells) for cells in shown.values()] == rows
    assert all(cells.shape[1] == 50 for cells in shown.values())
    assert figure.get_figheight() < 13
    if name.startswith("opensora"):
        assert list(shown)[:4] == ["spatial.attn", "spatial.cross_attn", "spatial.mlp", "temporal.attn"]


def test_labels_do_not_run_over_each_other() -> None:
    for shape in (SMALL, NAMED_SHAPES["flux-dev"], NAMED_SHAPES["opensora-1.2-480p-2s"]):
        figure = dita.plot_plan(plan_of("toca:4:0.9", shape, 28))
        figure.canvas.draw()
        boxes = [axes.yaxis.label.get_window_extent() for axes in figure.axes]
        assert all(not a.overlaps(b) for a, b in itertools.pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)
        for axes, label in zip(figure.axes, boxes, strict=True):
            ticks = [tick.get_window_extent() for tick in axes.get_yticklabels() if tick.get_text()]
            assert all(not label.overlaps(tick) for tick in ticks)


def test_the_title_says_method_model_and_what_it_saves() -> None:
    assert dita.plot_plan(plan_of("plain")).get_suptitle() == "plain on small: 12 steps, as many FLOPs as plain"
    title = dita.plot_plan(plan_of("steps:0.5")).get_suptitle()
    assert title == "steps on small: 6 steps in place of 12, 2.00 times fewer FLOPs"
    assert dita.plot_plan(plan_of("plain"), title="mine").get_suptitle() == "mine"


def test_bad_input_is_named() -> None:
    plan = plan_of("fora:3")
    with pytest.raises(ValueError, match="theme must be light or dark, got 'sepia'"):
        dita.plot_plan(plan, theme="sepia")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no steps to plot"):
        dita.plot_plan(dataclasses.replace(plan, steps=()))


def test_figures_belong_to_nobody_and_can_be_made_in_threads() -> None:
    import matplotlib.pyplot

    plan, made = plan_of("toca:3:0.9"), []
    threads = [threading.Thread(target=lambda: made.append(dita.plot_plan(plan))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3 and matplotlib.pyplot.get_fignums() == []


def test_a_map_is_as_tall_as_was_asked_for_at_most() -> None:
    plan = plan_of("fora:3", NAMED_SHAPES["flux-dev"])
    tall, low = (dita.plot_plan(plan, tallest=inches).get_figheight() for inches in (8.0, 3.0))
    assert tall - low == pytest.approx(5.0)
    assert dita.plot_plan(plan_of("fora:3"), tallest=9.0).get_figheight() < 5


@pytest.mark.parametrize("name", ["width", "tallest"])
@pytest.mark.parametrize("value", [0, -1, 1e9, float("nan"), "wide", True])
def test_inches_that_cannot_be_drawn_are_refused(name: str, value) -> None:
    with pytest.raises(ValueError, match=name):
        dita.plot_plan(plan_of("fora:3"), **{name: value})
