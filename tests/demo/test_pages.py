"""The pages without a browser: what their events hand out, for models of every family."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

gr = pytest.importorskip("gradio", reason="the demo's packages are not installed: pip install 'dita[demo]'")

from dita.demo.compare_page import ComparePage  # noqa: E402
from dita.demo.explore_page import ExplorePage  # noqa: E402
from dita.demo.presets import preset_name  # noqa: E402
from dita.demo.studio import Studio  # noqa: E402
from dita.demo.time_page import TimePage  # noqa: E402
from dita.methods import FORA, TGate  # noqa: E402
from tests.demo.small import PROMPTS, small  # noqa: E402

VISITOR = SimpleNamespace(session_hash="anna")


class Pages:
    """An app's pages, and what they show: the value that each component was given last."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.shown: dict[Any, Any] = {}
        studio.warm_up()
        with gr.Blocks(analytics_enabled=False) as app:
            with gr.Tab("Compare"):
                self.compare = ComparePage(studio)
            with gr.Tab("Time") as tab:
                self.time = TimePage(studio)
            with gr.Tab("Explore"):
                self.explore = ExplorePage(studio)
            self.compare.connect(app.load)
            self.time.connect(tab, self.compare.last)
            self.explore.connect(self.compare)

    def run(self, events: Iterator[dict[Any, Any]]) -> None:
        for event in events:
            self.shown.update(event)

    def compare_with(self, first: str, second: str = "", prompt: str | None = None, steps: int = 4) -> None:
        height, width = self.studio.loaded.side
        prompt = PROMPTS[self.studio.loaded.family] if prompt is None else prompt
        self.run(self.compare._compare(prompt, 0, steps, 3.0, height, width, first, second, VISITOR))

    def text(self, component: Any) -> str:
        held = self.shown[component]
        return str(held["value"] if isinstance(held, dict) else held)


@pytest.fixture(params=["flux", "pixart", "dit", "opensora"])
def pages(request: pytest.FixtureRequest) -> Iterator[Pages]:
    studio = Studio(small(request.param))
    yield Pages(studio)
    studio.close()


@pytest.fixture
def flux() -> Iterator[Pages]:
    studio = Studio(small("flux"))
    yield Pages(studio)
    studio.close()


def test_every_family_can_be_compared_looked_into_and_explored(pages):
    pages.compare_with("fora:2", "steps:0.5")
    assert "Done." in pages.text(pages.compare.status)
    assert pages.text(pages.compare.numbers).count("<tr>") == 1 + 3
    assert all('data-state="done"' in pages.text(card) for card in pages.compare.cards)
    moving = "<video" in pages.text(pages.compare.cards[1]) or "image/webp" in pages.text(pages.compare.cards[1])
    assert moving == pages.studio.loaded.makes_videos
    assert pages.shown[pages.compare.run]["interactive"] is True

    last = pages.shown[pages.compare.last]
    pages.run(pages.time._look(last, 1, False, VISITOR))
    assert "Recorded fora:2" in pages.text(pages.time.status)
    recorded = pages.shown[pages.time.recorded]
    assert "data:image/png" in pages.time._tokens(recorded, True, 1, 0, "all", 0)
    assert "full step" in pages.text(pages.time.spent)

    pages.run(
        pages.explore._explore("fora", [2], [], PROMPTS[pages.studio.loaded.family], 4, 0, "psnr", False, VISITOR)
    )
    assert " pictures, done" in pages.text(pages.explore.progress)
    assert "fora:2" in pages.text(pages.explore.table)
    assert "data:image/png" in pages.text(pages.explore.plot)


def test_the_slider_has_plain_and_accelerated(flux):
    flux.compare_with("fora:2")
    before, after = flux.shown[flux.compare.slider]
    assert before.shape == after.shape
    assert (before != after).any()
    assert flux.compare._closer(None, 1) == (None, "", "", "")


def test_refusals_leave_the_page_ready(flux):
    for first, prompt in (("", None), ("magic", None), ("fora:2", " "), ("fora:2", "x" * 501)):
        flux.shown.clear()
        flux.compare_with(first, prompt=prompt)
        assert flux.shown[flux.compare.run]["interactive"] is True
        assert "dita-status" in flux.text(flux.compare.status)
        assert flux.compare.numbers not in flux.shown
    assert flux.studio.visits == 0


def test_a_failure_is_a_message_and_leaves_the_page_ready(flux, monkeypatch, caplog):
    def fail(*_: Any) -> Any:
        raise KeyError("/home/secret")

    monkeypatch.setattr(flux.studio, "compare", fail)
    flux.compare_with("fora:2")
    assert "Something went wrong on the server" in flux.text(flux.compare.status)
    assert "secret" not in str(flux.shown)
    assert flux.shown[flux.compare.run]["interactive"] is True


def test_the_second_card_goes_where_there_is_one_method(flux):
    flux.compare_with("fora:2")
    assert flux.shown[flux.compare.cards[2]]["visible"] is False


def test_nothing_to_look_into_is_said(flux):
    flux.run(flux.time._look(None, None, False, VISITOR))
    assert "Make a comparison first" in flux.text(flux.time.status)


def test_a_plan_or_a_refusal_stands_below_a_method(flux):
    picker = flux.compare.first
    assert "2 full + 2 reused steps" in picker._planned("fora:2", 4)
    assert 'role="alert"' in picker._planned("fora:0", 4)
    assert picker._planned("", 4) == ""
    assert "does not run on flux" in picker._planned("tgate", 4)


def test_the_owners_method_is_a_preset_and_chosen_at_the_start() -> None:
    studio = Studio(small("flux"), own={"From a file: tuned": FORA(4, full_steps=(0, 2, 3))})
    page = Pages(studio)
    names, shorts = zip(*page.compare.first.choice.choices, strict=True)
    assert (names[0], shorts[0]) == ("From a file: tuned", "fora:4:full=0/2/3")
    assert page.compare.first.choice.value == page.compare.first.text.value == "fora:4:full=0/2/3"
    page.compare_with(page.compare.first.text.value)
    assert page.shown[page.compare.last].finished[1].made.method == FORA(4, full_steps=(0, 2, 3))
    studio.close()


def test_a_preset_that_the_owner_names_stands_once() -> None:
    studio = Studio(small("flux"), own={"Mine": FORA(3)})
    assert list(studio.presets.values()).count(FORA(3)) == 1 and next(iter(studio.presets)) == "Mine"
    studio.close()
    with pytest.raises(ValueError, match="tgate does not run on flux"):
        Studio(small("flux"), own={"Mine": TGate()})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("toca:4:0.9", "Chosen: toca:4:0.9"),
        ("/a/tuned/method.json", "From a file: tuned"),
        ("/a/tuned/", "From a file: tuned"),
        ("/a/v1.5/method.json", "From a file: v1.5"),
        (" /a/mine.json ", "From a file: mine"),
    ],
)
def test_a_file_is_named_without_its_path(given: str, name: str) -> None:
    assert preset_name(given) == name
