"""The pages without a browser: what their events hand out, for models of every family."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason="the demo's packages are not installed: pip install 'dita[demo]'")

from dita import miniature  # noqa: E402
from dita.demo import compare_page  # noqa: E402
from dita.demo.compare_page import ComparePage  # noqa: E402
from dita.demo.explore_page import ExplorePage  # noqa: E402
from dita.demo.presets import preset_name  # noqa: E402
from dita.demo.sampling import Stopped  # noqa: E402
from dita.demo.studio import Repeated, Studio  # noqa: E402
from dita.demo.thumbnails import thumbnail  # noqa: E402
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


def draw(page: Pages, prompt: str, steps: int = 4, second: str = "", repeat: bool = False, seed: Any = 0) -> None:
    height, width = page.studio.loaded.side
    kept = page.shown.get(page.compare.kept, [])
    page.run(page.compare._compare(prompt, seed, steps, 3.0, height, width, "fora:2", second, VISITOR, repeat, kept))


def test_an_earlier_comparison_comes_back_with_its_settings(pages):
    prompts = pages.studio.loaded.labels or ("a red circle", "a blue star")
    draw(pages, prompts[0], second="steps:0.5", repeat=True)
    first = pages.shown[pages.compare.last]
    assert "median of 5 draws" in pages.text(pages.compare.cards[1])
    assert all(len(one.draws) == 5 for one in first.finished)
    draw(pages, prompts[1])
    assert "median of" not in pages.text(pages.compare.cards[1])
    kept = pages.shown[pages.compare.kept]
    assert [one.request.prompt for one in kept] == [prompts[1], prompts[0]]
    assert len(pages.shown[pages.compare.earlier]) == 2
    pages.shown.update(pages.compare._again(kept, SimpleNamespace(index=1)))
    assert pages.shown[pages.compare.last] is first
    assert "median of 5 draws" in pages.text(pages.compare.cards[1])
    assert pages.shown[pages.compare.cards[2]]["visible"] is True
    assert pages.shown[pages.compare.prompt] == prompts[0] and pages.shown[pages.compare.repeat] is True
    assert pages.shown[pages.compare.first.form] == "fora:2"


def test_earlier_pictures_have_an_end(flux, monkeypatch):
    for _ in range(compare_page.KEPT + 2):
        draw(flux, "a red circle", steps=2)
    assert len(flux.shown[flux.compare.kept]) == compare_page.KEPT
    monkeypatch.setattr(compare_page, "KEPT_BYTES", 1)
    draw(flux, "a red circle", steps=2)
    assert flux.shown[flux.compare.kept] == [flux.shown[flux.compare.last]]  # the newest stays, whatever its size


def test_a_stop_while_drawing_again_leaves_the_pictures(flux, monkeypatch):
    compare = flux.studio.compare

    def stopped(*given: Any) -> Any:
        for event in compare(*given):
            yield event
            if isinstance(event, Repeated):
                raise Stopped

    monkeypatch.setattr(flux.studio, "compare", stopped)
    draw(flux, "a red circle", repeat=True)
    assert "Stopped." in flux.text(flux.compare.status)
    assert "median of 2 draws" in flux.text(flux.compare.cards[1])
    assert flux.shown[flux.compare.last].complete


@pytest.mark.parametrize("seed", [-1, 2.5, "x", 2**32, float("nan"), True])
def test_a_seed_is_refused_as_steps_are(flux, seed):
    draw(flux, "a red circle", seed=seed)
    assert "The seed must be" in flux.text(flux.compare.status)
    assert flux.compare.seed.preprocess(seed) is seed  # no rounding before the check


def test_seeds_of_an_exploration_count_up_to_the_largest(flux):
    flux.run(flux.explore._explore("fora", [2], [], "a\nb", 4, 2**32 - 1, "psnr", False, VISITOR))
    assert "between 0 and 4294967294 for 2 prompts" in flux.text(flux.explore.progress)


def test_no_reason_is_given_that_was_not_measured(flux, monkeypatch):
    monkeypatch.setattr("dita.demo.studio.Studio.flops", lambda *_: (1.0, 1.0))
    draw(flux, "a red circle")
    last = flux.shown[flux.compare.last]
    last.finished[1] = dataclasses.replace(last.finished[1], speedup=0.5)
    said = str(flux.compare._done(last)[flux.compare.status])
    assert "Nothing was faster than plain here, in seconds.</p>" in said


def linked(page: Pages, **query: str) -> dict[Any, Any]:
    return page.compare._from_link(SimpleNamespace(query_params=query))


def test_a_link_sets_what_it_names(pages):
    prompt = (pages.studio.loaded.labels or ("a blue star",))[-1]
    found = linked(pages, prompt=prompt, seed="7", steps="5", a="fora:2", b="", repeat="true", __theme="dark")
    compare = pages.compare
    assert (found[compare.prompt], found[compare.seed], found[compare.steps]) == (prompt, 7, 5)
    assert (found[compare.first.text], found[compare.second.text], found[compare.repeat]) == ("fora:2", "", True)
    assert found[compare.second.form] == found[compare.second.choice] == ""
    assert compare.guidance not in found
    assert list(linked(pages, __theme="dark")) == [compare.status]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"seed": "-1"}, "seed must be between"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"steps": "1e9"}, "steps must be between"),
        ({"guidance": "nan"}, "Guidance must be a number"),
        ({"prompt": "x" * 501}, "501 characters"),
        ({"a": "magic"}, "Unknown method"),
        ({"b": "/etc/passwd"}, "Unknown method"),
        ({"a": "tgate", "seed": "3"}, "does not run on flux"),
    ],
)
def test_a_wrong_link_changes_nothing_and_says_why(flux, query, words):
    found = linked(flux, **query)
    assert list(found) == [flux.compare.status]
    assert words in found[flux.compare.status]


def test_bundled_models_examples_have_pictures() -> None:
    for name in miniature.MINIATURES:
        for prompt in miniature.prompts(name, compare_page.EXAMPLES):
            found = thumbnail(name, prompt)
            assert found is not None, f"draw them anew: python -m dita.demo.thumbnails ({name}: {prompt})"
            with Image.open(found) as picture:
                assert max(picture.size) <= 64
    assert thumbnail("somebody/else", "a red circle") is None
    assert thumbnail("../..", "../../x") is None
