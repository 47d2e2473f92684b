"""The site of the documentation, built with warnings as errors, and looked at in a browser."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from dita import cli
from dita.methods import METHODS
from tests.test_docs import options_of, text_of

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
LOOKED_AT = ("index", "which_method", "tutorial", "cli", "api", "results/index", "methods/toca", "families", "demo")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    pytest.importorskip("mkdocs", reason="the site is built with dita[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_needs_nothing_from_elsewhere_and_pictures_say_what_they_show(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    source = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?://[^\s\">]+)")
    sheet = re.compile(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|preload)[^>]*href=\"?(https?://[^\s\">]+)")
    for page in pages:
        text = text_of(page)
        assert not source.findall(text) + sheet.findall(text), page
        assert re.search(r"<title>[^<]{3,}</title>", text), page
        assert not [image for image in re.findall(r"<img[^>]*>", text) if not re.search(r'alt="?[^"\s>]', image)], page


def test_the_site_has_every_command_option_and_method(site: Path) -> None:
    text = text_of(site / "cli.html")
    group: Any = typer.main.get_command(cli.app)
    for name in group.commands:
        assert f'id="dita-{name}"' in text
        assert all(f"<code>{option}</code>" in text for option in options_of(name)[0] - {"--help"})
    listed = text_of(site / "methods.html")
    assert all(f"methods/{name}.html" in listed for name in METHODS)
    assert 'id="dita.enable"' in text_of(site / "api.html")


# --- in a browser


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_their_width_and_can_be_read(browser: Any, address: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    page.on("request", lambda request: None if request.url.startswith(address) else faults.append(request.url))
    for name in LOOKED_AT:
        page.goto(f"{address}/{name}.html", wait_until="load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(CONTRAST) == {}, name
        broken = page.evaluate("[...document.images].filter((one) => one.complete && !one.naturalWidth).length")
        assert broken == 0, name
    context.close()
    assert faults == []


def test_the_search_finds_a_word_of_the_glossary(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{address}/index.html?q=converged")
    page.locator(".md-search-result__link").first.wait_for(state="attached", timeout=60_000)
    page.close()
