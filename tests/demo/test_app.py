"""The served app: its endpoints work from gradio_client, and it gives away nothing of the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio", reason="the demo's packages are not installed: pip install 'dita[demo]'")
httpx = pytest.importorskip("httpx")

from gradio_client import Client  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from PIL import Image  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from dita.demo.app import launch, settings  # noqa: E402
from dita.demo.studio import Studio  # noqa: E402
from dita.methods import METHODS, parse  # noqa: E402
from tests.demo.small import small  # noqa: E402

pytestmark = pytest.mark.slow
WAIT = 300  # seconds: a busy machine must not fail a test by being slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    studio = Studio(small("flux"))
    app = launch(studio)
    yield app.local_url
    app.close()
    studio.close()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    made = Client(address, verbose=False, httpx_kwargs={"timeout": WAIT})
    yield made
    made.close()


def test_the_endpoints_have_names_and_the_pages_events_have_none(client):
    described = client.view_api(return_format="dict", print_info=False)
    assert set(described["named_endpoints"]) == {"/compare", "/generate", "/health", "/plan", "/methods"}
    assert not described["unnamed_endpoints"]


def test_compare_gives_both_pictures_and_their_numbers(client):
    plain, fast, numbers = client.predict("a red circle", "fora:2", 3, 6, 3.5, 32, 32, api_name="/compare")
    for path in (plain, fast):
        with Image.open(path) as picture:
            assert picture.size == (32, 32)
    assert parse(numbers["label"]) == parse("fora:2")
    assert numbers["speedup"] == pytest.approx(numbers["plain_seconds"] / numbers["seconds"])
    assert numbers["flops_ratio"] > 1.2


@pytest.mark.parametrize("method", ["fora:2", "plain", "steps:0.5"])
def test_generate_gives_one_picture_that_compare_gives_too(client, method):
    path, numbers = client.predict("a red circle", method, 3, 6, 3.5, 32, 32, api_name="/generate")
    other = "fora:3" if method == "plain" else method
    plain, fast, compared = client.predict("a red circle", other, 3, 6, 3.5, 32, 32, api_name="/compare")
    with Image.open(path) as mine, Image.open(plain if method == "plain" else fast) as theirs:
        assert mine.tobytes() == theirs.tobytes()
    assert parse(numbers["label"]) == parse(method)
    assert numbers["seconds"] > 0
    assert numbers["flops_ratio"] == (1 if method == "plain" else compared["flops_ratio"])


def test_health_says_what_is_served_as_an_endpoint_and_at_an_address(client, address):
    health = client.predict(api_name="/health")
    assert (health["status"], health["model"], health["family"]) == ("ok", "tiny-flux", "flux")
    assert (health["requests"], health["most_requests"]) == (0, 16)
    answer = httpx.get(f"{address}health", timeout=WAIT)
    assert (answer.status_code, answer.json()) == (200, health)
    assert "<html" in httpx.get(address, timeout=WAIT).text  # the page is where it was


def test_a_server_that_loads_is_not_healthy_yet(studio):
    assert studio.health()["status"] == "loading"
    answer = TestClient(Starlette(routes=settings(studio)["app_kwargs"]["routes"])).get("/health")
    assert answer.status_code == 503


def test_plan_costs_a_method_without_making_anything(client):
    plan = client.predict("fora:2", 6, api_name="/plan")
    assert plan["method"] == parse("fora:2").as_json()


def test_methods_lists_those_of_the_model(client):
    methods = client.predict(api_name="/methods")
    assert set(methods) == {name for name, cls in METHODS.items() if "flux" in cls.families}
    assert methods["toca"]["parameters"]["ratio"]["high"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", "fora:2", 0, 6, 3.5, 32, 32), "prompt is empty"),
        (("a red circle", "fora:2", "x", 6, 3.5, 32, 32), "seed must be a whole number"),
        (("a red circle", "magic", 0, 6, 3.5, 32, 32), "Unknown method"),
        (("a red circle", "fora:2", 0, 10**6, 3.5, 32, 32), "between 1 and 100"),
        (("a red circle", "fora:2", 0, 6, 3.5, 10**6, 32), "between 4 and 64"),
        (("x" * 10_000, "fora:2", 0, 6, 3.5, 32, 32), "at most 500"),
    ],
)
def test_errors_are_messages(client, arguments, words):
    for endpoint in ("/compare", "/generate"):
        with pytest.raises(AppError, match=words) as failed:
            client.predict(*arguments, api_name=endpoint)
        assert "Traceback" not in str(failed.value)
        assert "File " not in str(failed.value)


def test_no_file_of_the_server_can_be_read(address):
    for path in ("/etc/passwd", str(Path("pyproject.toml").resolve()), "pyproject.toml", "../pyproject.toml"):
        for route in ("gradio_api/file=", "file="):
            assert httpx.get(f"{address}{route}{path}", timeout=WAIT).status_code in (403, 404), path


def test_a_path_is_no_picture_of_a_request(address):
    """Components that take files refuse the names of files that were not uploaded."""
    data = {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "fora:2", 0, 6, 3.5, 32, 32]}
    started = httpx.post(f"{address}gradio_api/call/compare", json=data, timeout=WAIT)
    if started.status_code == 200:
        answer = httpx.get(f"{address}gradio_api/call/compare/{started.json()['event_id']}", timeout=WAIT).text
        assert "event: error" in answer
        assert "root:" not in answer


def test_uploads_are_too_large_to_be_of_use(address):
    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("big.bin", b"0" * 100_000)}, timeout=WAIT)
    assert answer.status_code >= 400


def test_nothing_is_told_to_others(address):
    config = httpx.get(f"{address}config", timeout=WAIT).json()
    assert config["analytics_enabled"] is False
    page = httpx.get(address, timeout=WAIT).text
    assert "fonts.googleapis.com" not in page
