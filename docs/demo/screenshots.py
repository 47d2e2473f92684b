"""Takes the screenshots of the demo in this folder: every page, light and dark, as wide as a desk and as a phone.

python docs/demo/screenshots.py                                    # serves shapes-flux itself
python docs/demo/screenshots.py --address http://127.0.0.1:7860/   # of an app that runs already
"""

from __future__ import annotations

import argparse
import io
import itertools
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).parent
WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}
WAIT = 600_000  # milliseconds
PROMPT = "a small orange square on a white and grey checkered background"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Reads the command line and takes what it asks for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--address", help="of a running app; one is served otherwise")
    options.add_argument("--out", type=Path, default=HERE)
    options.add_argument("--only", help="part of a file's name, such as dark-phone")
    given = options.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    app = studio = None
    if given.address is None:
        from dita.demo.app import launch
        from dita.demo.loaded import load
        from dita.demo.studio import Studio

        studio = Studio(load("shapes-flux"))
        app = launch(studio)
        given.address = app.local_url
    with sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = started.chromium.launch(executable_path=program, args=arguments, timeout=WAIT)
        for scheme, (name, size) in itertools.product(("light", "dark"), WIDTHS.items()):
            if not given.only or given.only in f"{scheme}-{name}":
                take(browser, given.address, given.out, scheme, name, size)
        browser.close()
    if app is not None and studio is not None:
        app.close()
        studio.close()


def take(browser: Browser, address: str, out: Path, scheme: Any, name: str, size: tuple[int, int]) -> None:
    """The pages in one colour scheme and width."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.goto(f"{address}?__theme={scheme}", timeout=WAIT)
    page.locator("#b-strip .dita-strip").wait_for()
    page.locator("#compare-prompt textarea").fill(PROMPT)
    page.locator("#compare-run").click()
    page.locator("#compare-status", has_text="Done.").wait_for()
    page.locator("#compare-slider img").first.wait_for()
    save(page, out / f"compare-{scheme}-{name}.png")
    open_tab(page, "Where the time goes")
    page.locator("#time-look:enabled").click()
    page.locator("#time-tokens img").wait_for()
    save(page, out / f"time-{scheme}-{name}.png")
    open_tab(page, "Explore")
    page.locator("#explore-prompts textarea").fill(PROMPT)
    page.locator("#explore-run").click()
    page.locator("#explore-progress", has_text="done").wait_for()
    save(page, out / f"explore-{scheme}-{name}.png")
    context.close()


def open_tab(page: Page, name: str) -> None:
    """Opens a page of the app; on a phone its name is in a menu."""
    menu = page.locator(".overflow-menu > button:visible")
    if menu.count() and not page.get_by_role("tab", name=name).is_visible():
        menu.first.click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        page.get_by_role("tab", name=name).click()


def save(page: Page, path: Path) -> None:
    """The whole page, once pictures and fonts are there."""
    page.evaluate("document.fonts.ready")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)  # Gradio fades
    Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB").save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
