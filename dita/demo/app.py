"""The app: its pages over one studio, and how it is served."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

from importlib import resources
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dita import miniature
from dita.demo import endpoints, figures
from dita.demo.address import check_address
from dita.demo.compare_page import ComparePage, session_of
from dita.demo.endpoints import CALLING
from dita.demo.explore_page import EXPLORING, ExplorePage
from dita.demo.studio import Studio
from dita.demo.time_page import TimePage

CACHE = (600, 3600)  # seconds: how often Gradio's folder of pictures is cleared, of what is older
TITLE = "dita: diffusion transformers, faster"


def build(studio: Studio) -> gr.Blocks:
    """The pages, over one studio."""
    loaded = studio.loaded
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CACHE) as app:
        gr.HTML(figures.head(loaded, miniature.MINIATURES.get(loaded.name, "")))
        with gr.Tab("Compare", id="compare", elem_id="tab-compare"):
            compare = ComparePage(studio)
        with gr.Tab("Where the time goes", id="time", elem_id="tab-time") as time_tab:
            time = TimePage(studio)
        with gr.Tab("Explore", id="explore", elem_id="tab-explore"):
            explore = ExplorePage(studio)
        endpoints.add(studio)
        compare.connect(app.load)
        time.connect(time_tab, compare.last)
        explore.connect(compare)

        def leave(visitor: gr.Request) -> None:
            for part in ("", EXPLORING, CALLING):
                studio.stop(session_of(visitor) + part)

        app.unload(leave)
    app.queue(default_concurrency_limit=8, max_size=4 * studio.limits.waiting)
    return app


def launch(studio: Studio, *, port: int | None = None, host: str = "127.0.0.1", share: bool = False) -> gr.Blocks:
    """Serves the app in a thread, and returns it once it is up. Close it with `close()`.

    No file of the server can be reached; nothing is sent anywhere or fetched from elsewhere, unless `share`, which
    lends the app a public address through Gradio's servers. Raises `ValueError` for an address that nothing can be
    served at, such as a port in use, and `OSError` where no port is free.
    """
    check_address(host, port)
    app = build(studio)
    studio.warm_up()
    app.launch(server_name=host, server_port=port, share=share, prevent_thread_lock=True, **settings(studio))
    return app


def theme() -> gr.themes.Base:
    """Colours and letters; the letters come with Gradio."""
    weights = (400, 700)  # of the other weights, Gradio 6.31 has files with a few letters only
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="md",
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=weights), "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=weights), "ui-monospace", "Consolas", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_500",  # Gradio's own is too pale to read on white
        block_info_text_color="*neutral_500",
    )


def settings(studio: Studio | None = None) -> dict[str, Any]:
    """The arguments of `launch` that make the app what it is, wherever it is hosted; with `studio`, GET /health too."""
    files = resources.files("dita.demo")
    return {
        "allowed_paths": [],
        "app_kwargs": {} if studio is None else {"routes": [_health(studio)]},
        "show_error": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "run_history": False,
        "max_file_size": "1kb",
        "footer_links": ["api", "settings"],
        "css": (files / "look.css").read_text(),
        "head": f"<script>{(files / 'look.js').read_text()}</script>",
        "theme": theme(),
        "quiet": True,
    }


def _health(studio: Studio) -> Route:
    """What a load balancer asks: status 200 once pictures can be made, 503 before."""

    async def answer(_: Request) -> JSONResponse:
        health = studio.health()
        return JSONResponse(health, 200 if health["status"] == "ok" else 503)

    return Route("/health", answer, methods=["GET"])
