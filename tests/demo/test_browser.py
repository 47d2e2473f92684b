"""The app in a real browser, with the bundled model: what a visitor does, and what is shown."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("gradio", reason="the demo's packages are not installed: pip install 'dita[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from dita import miniature  # noqa: E402
from dita.demo.app import launch  # noqa: E402
from dita.demo.grid import rivals  # noqa: E402
from dita.demo.loaded import load  # noqa: E402
from dita.demo.studio import Studio  # noqa: E402
from dita.methods import parse  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = os.environ.get("DITA_PATIENCE", "8" if "PYTEST_XDIST_WORKER" in os.environ else "1")  # workers share cores
WAIT = 30_000 * float(PATIENCE)  # milliseconds for anything
PROMPT = "a red circle on a white background"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    made = Studio(load("shapes-flux", "float32", "cpu"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    app = launch(studio)
    yield app.local_url
    app.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=WAIT)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Opens the app as a new visitor; in the end, nothing but the app was ever asked for anything."""
    contexts, elsewhere, faults = [], [], []

    def opened(width: int = 1440, scheme: str = "light", query: str = "") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(WAIT)
        contexts.append(context)

        def sort(route: Any) -> None:
            if route.request.url.startswith((address, "data:", "blob:")):
                route.continue_()
            else:
                elsewhere.append(route.request.url)
                route.abort()

        context.route(re.compile(r"^(?!data:|blob:)"), sort)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address + query, timeout=WAIT)
        page.locator("#a-strip .dita-strip").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert faults == []


def fill(field: Any, text: str, opener: Any = None, key: str | None = None) -> None:
    """Writes into a field, which `opener` may have to unfold. Gradio may set a field once more just after it was
    unfolded, and what was written within that moment, as no hand does, is lost: then it is written again."""
    if opener is not None and not field.is_visible():
        opener.click()
    for _ in range(20):
        field.fill(text)
        if key:
            field.press(key)
        field.blur()
        field.page.wait_for_timeout(400)
        if field.input_value() == text:
            return
    raise AssertionError(f"{text!r} does not stay: {field.input_value()!r}")


def choose(page: Any, picker: str, short: str) -> None:
    """Writes a method in short."""
    field = page.locator(f"#{picker}-text textarea, #{picker}-text input").first
    fill(field, short, page.locator(f"#{picker}-parameters button").first)


def set_number(page: Any, name: str, value: int) -> None:
    """Sets one of the numbers of the picture."""
    field = page.locator(f"#{name} input[type=number]")
    fill(field, str(value), page.locator("#compare-picture button").first, key="Enter")


def compare(page: Any, prompt: str = PROMPT) -> None:
    page.locator("#compare-prompt textarea").fill(prompt)
    page.locator("#compare-run").click()


def card(page: Any, slot: int, state: str = "done") -> Any:
    found = page.locator(f'#compare-card-{slot} .dita-card[data-state="{state}"]')
    found.wait_for()
    return found


def status(page: Any, words: str, where: str = "compare") -> None:
    page.locator(f"#{where}-status", has_text=words).wait_for()


def test_a_prompt_becomes_two_pictures_side_by_side(visit):
    page = visit()
    set_number(page, "compare-steps", 12)
    choose(page, "b", "")
    compare(page)
    preview = card(page, 0, "running").locator("img").first  # it is there before the picture is done
    preview.wait_for()
    card(page, 0)
    card(page, 1)
    status(page, "Done.")
    rows = page.locator("#compare-numbers tbody tr")
    assert rows.count() == 2
    assert rows.nth(0).locator("th").inner_text() == "plain"
    assert "toca:4:0.9" in rows.nth(1).inner_text()
    assert rows.nth(1).locator("td[data-right]").inner_text()  # the judge knows this caption
    assert page.locator("#compare-card-2").is_hidden()


def test_the_slider_moves_between_before_and_after(visit):
    page = visit()
    set_number(page, "compare-steps", 6)
    compare(page)
    status(page, "Done.")
    handle = page.locator("#compare-slider [data-testid=slider]")
    handle.scroll_into_view_if_needed()
    box = page.locator("#compare-slider .slider-wrap").bounding_box()
    knob = page.locator("#compare-slider .icon-wrap").bounding_box()
    before = handle.get_attribute("style")
    page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, knob["y"] + knob["height"] / 2, steps=4)
    page.mouse.up()
    playwright.expect(handle).not_to_have_attribute("style", before)
    page.locator("#compare-difference img").wait_for()
    page.locator("#compare-against label", has_text="Method B").click()
    page.locator("#compare-difference code", has_text="steps:0.5").wait_for()


def test_the_method_and_the_lines_can_be_saved(visit, tmp_path):
    page = visit()
    set_number(page, "compare-steps", 4)
    choose(page, "b", "")
    compare(page)
    status(page, "Done.")
    with page.expect_download() as download:
        page.get_by_text("Save the Python lines").click()
    download.value.save_as(tmp_path / "picture.py")
    lines = (tmp_path / "picture.py").read_text()
    assert repr(PROMPT) in lines
    assert "toca:4:0.9" in lines
    with page.expect_download() as download:
        page.get_by_text("Save the method").click()
    assert download.value.suggested_filename == "method.json"


def test_controls_write_the_method_and_the_plan_follows(visit):
    page = visit()
    page.locator("#a-parameters button").first.click()
    cycle = page.locator("#a-toca-cycle input[type=number]")
    fill(cycle, "7", key="Enter")
    text = page.locator("#a-text textarea, #a-text input").first
    playwright.expect(text).to_have_value("toca:cycle=7")
    assert parse("toca:cycle=7").cycle == 7
    page.locator("#a-strip", has_text="6 full").wait_for()
    page.locator("#a-parameters button", has_text="More of toca").click()
    warmup = page.locator("#a-toca-warmup input")
    fill(warmup, "5")  # at once, as a paste does: no key is pressed
    playwright.expect(text).to_have_value("toca:cycle=7:warmup=5")
    warmup.press("End")
    warmup.press("Backspace")
    playwright.expect(text).to_have_value("toca:cycle=7")
    choose(page, "a", "fora:2")
    page.locator("#a-fora-cycle").wait_for()  # its controls are those of the method now
    assert page.locator("#a-toca-cycle").count() == 0


def test_what_is_no_method_is_said_below_it(visit):
    page = visit()
    choose(page, "a", "toca:0")
    page.locator("#a-strip [role=alert]", has_text="cycle must be a whole number").wait_for()
    compare(page)
    status(page, "Cycle must be a whole number, at least 1")
    assert "Traceback" not in page.content()


def test_an_empty_prompt_is_refused_in_words(visit):
    page = visit()
    compare(page, "   ")
    status(page, "The prompt is empty")
    playwright.expect(page.locator("#compare-run")).to_be_enabled()


def test_stopping_stops_the_sampler_and_the_next_run_works(visit, studio):
    page = visit()
    set_number(page, "compare-steps", 100)
    compare(page)
    card(page, 0, "running").locator("img").wait_for()
    page.locator("#compare-stop").click()
    status(page, "Stopped.")
    card(page, 0, "stopped")
    assert studio.visits == 0
    set_number(page, "compare-steps", 4)
    compare(page)
    status(page, "Done.")


def test_closing_the_tab_stops_the_run(visit, studio):
    page = visit()
    set_number(page, "compare-steps", 100)
    compare(page)
    card(page, 0, "running").locator("img").wait_for()
    page.context.close()
    left = time.monotonic() + WAIT / 1000
    while studio.visits and time.monotonic() < left:
        time.sleep(0.1)
    assert studio.visits == 0


def test_two_visitors_see_their_own_pictures(visit):
    first, second = visit(), visit()
    for page, seed in ((first, 1), (second, 2)):
        set_number(page, "compare-steps", 6)
        set_number(page, "compare-seed", seed)
        choose(page, "b", "")
    compare(first, "a red circle on a white background")
    compare(second, "a blue star on a black background")
    pictures = []
    for page in (first, second):
        status(page, "Done.")
        pictures.append(page.locator("#compare-card-1 img").get_attribute("src"))
    assert pictures[0] != pictures[1]
    compare(first, "a red circle on a white background")  # and again, alone
    first.locator('#compare-card-1 .dita-card:not([data-state="done"])').wait_for()
    status(first, "Done.")
    assert first.locator("#compare-card-1 img").get_attribute("src") == pictures[0]


def test_where_the_time_goes_follows_the_comparison(visit):
    page = visit()
    page.get_by_role("tab", name="Where the time goes").click()
    status(page, "Make a comparison first", "time")
    page.get_by_role("tab", name="Compare").click()
    set_number(page, "compare-steps", 8)
    compare(page)
    status(page, "Done.")
    page.get_by_role("tab", name="Where the time goes").click()
    page.locator("#time-method label", has_text="toca:4:0.9").wait_for()
    page.locator("#time-look").click()
    page.locator("#time-plan img").wait_for()
    tokens = page.locator("#time-tokens img")
    tokens.wait_for()
    assert page.locator("#time-spent tbody tr").count() >= 3  # full, partial, and the rest
    shown = tokens.get_attribute("src")
    slider = page.locator("#time-step input[type=number]")
    slider.fill("0")
    slider.press("Enter")
    slider.blur()
    page.wait_for_function("before => document.querySelector('#time-tokens img')?.src !== before", arg=shown)


def test_exploring_fills_the_plot_point_by_point(visit):
    page = visit()
    page.get_by_role("tab", name="Explore").click()
    fill(page.locator("#explore-prompts textarea"), PROMPT)
    fill(page.locator("#explore-steps input[type=number]"), "6", key="Enter")
    for name in ("4", "6"):
        page.locator("#explore-n").get_by_label(name, exact=True).uncheck()
    page.locator("#explore-run").click()
    page.locator("#explore-progress", has_text="done").wait_for()
    rows = page.locator("#explore-table tbody tr")
    assert rows.count() == 1 + len(rivals("flux", 6, 1)) + 2  # plain, fewer steps, N = 2 with two R
    page.locator("#explore-plot img").wait_for()
    page.locator("#explore-take").click()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#a-choice input").wait_for()
    page.wait_for_function(
        "document.querySelector('#a-text textarea, #a-text input')?.value.startsWith('toca:2') ?? true"
    )


def test_an_exploration_can_be_stopped(visit, studio):
    page = visit()
    page.get_by_role("tab", name="Explore").click()
    page.locator("#explore-run").click()
    page.locator("#explore-progress", has_text="of").wait_for()
    page.locator("#explore-stop").click()
    page.locator("#explore-progress", has_text="Stopped after").wait_for()
    assert studio.visits == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(visit, scheme):
    page = visit(width=390, scheme=scheme)
    set_number(page, "compare-steps", 4)
    prompt = "an extraordinarily-long-word" * 10 + " دائرة ${7*7} {{7*7}} <b>bold</b>"
    compare(page, prompt)
    status(page, "Done.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert prompt in page.locator("#compare-card-0 img").get_attribute("alt")  # as it was written: nothing is evaluated
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#compare-prompt textarea')).unicodeBidi") == "plaintext"
    )


def test_examples_are_captions_that_the_model_knows(visit):
    page = visit()
    page.locator("#compare-examples button").first.click()
    wanted = miniature.prompts("shapes-flux", 6)[1]
    page.locator("#compare-examples").get_by_role("button", name=wanted).click()
    playwright.expect(page.locator("#compare-prompt textarea")).to_have_value(wanted)


@pytest.mark.parametrize("width", [1440, 390])
def test_a_link_keeps_the_settings(visit, width):
    query = "?prompt=a+blue+star&seed=7&steps=5&guidance=3&a=fora%3A2&b=&repeat=true"
    page = visit(width=width, query=query)
    field = page.locator("#a-text textarea, #a-text input").first
    page.locator("#a-strip", has_text="3 full + 2 reused").wait_for()
    page.locator("#a-parameters button").first.click()
    playwright.expect(field).to_have_value("fora:2")
    playwright.expect(page.locator("#a-choice input")).to_have_value("Own parameters")
    page.locator("#compare-picture button").first.click()
    seed = page.locator("#compare-seed input")
    playwright.expect(seed).to_have_value("7")
    playwright.expect(page.locator("#compare-steps input[type=number]")).to_have_value("5")
    playwright.expect(page.locator("#compare-repeat input")).to_be_checked()
    page.locator("#compare-random").click()
    playwright.expect(seed).not_to_have_value("7")
    drawn = seed.input_value()
    assert 0 <= int(drawn) < 2**32
    page.locator("#compare-link").click()
    status(page, "in the address bar")
    kept = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query, keep_blank_values=True).items()}
    wanted = {"prompt": "a blue star", "seed": drawn, "steps": "5", "guidance": "3", "a": "fora:2", "b": ""}
    assert kept == wanted | {"height": "64", "width": "64", "repeat": "true"}


@pytest.mark.parametrize("width", [1440, 390])
def test_five_draws_and_earlier_pictures(visit, width):
    page = visit(width=width, query="?steps=4&a=fora%3A2&b=")
    page.locator("#a-strip", has_text="2 full + 2 reused").wait_for()
    page.locator("#compare-repeat input").check()
    compare(page)
    status(page, "Done.")
    assert "median of 5 draws" in card(page, 1).inner_text()
    assert "Seconds are medians of 5 draws" in page.locator("#compare-numbers").inner_text()
    first = card(page, 1).locator("img").get_attribute("src")
    page.locator("#compare-repeat input").uncheck()
    compare(page, "a blue star on a black background")
    tiles = page.locator("#compare-earlier button.thumbnail-item")
    playwright.expect(tiles).to_have_count(2)
    status(page, "Done.")
    assert card(page, 1).locator("img").get_attribute("src") != first
    tiles.nth(1).click()
    page.locator("#compare-numbers", has_text="medians of 5 draws").wait_for()
    assert card(page, 1).locator("img").get_attribute("src") == first
    playwright.expect(page.locator("#compare-prompt textarea")).to_have_value(PROMPT)
    results, settings = (page.locator(f".dita-{name}").bounding_box() for name in ("results", "settings"))
    if width == 390:
        assert results["y"] < settings["y"]
    else:
        assert results["x"] > settings["x"] and results["y"] < settings["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1440, 390])
def test_merging_presets_have_plans_and_examples_pictures(visit, width):
    page = visit(width=width)
    page.locator("#a-choice input").click()
    page.get_by_role("option", name="Merged tokens: ToMe").click()
    page.locator("#a-strip", has_text="50% of the tokens merged").wait_for()
    assert page.locator("#a-strip [role=alert]").count() == 0
    page.locator("#compare-examples button").first.click()
    pictures = page.locator("#compare-examples .dita-example img")
    playwright.expect(pictures).to_have_count(6)
    page.wait_for_function("[...document.querySelectorAll('.dita-example img')].every((one) => one.naturalWidth > 0)")
    page.locator("#compare-picture button").first.click()
    fill(page.locator("#compare-seed input"), "2.5")
    compare(page)
    status(page, "The seed must be a whole number, got 2.5.")
