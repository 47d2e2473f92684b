"""The golden vectors: those that ship with the tests, then the whole set; what is in neither skips a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import Golden


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(shipped, whole), with a case of a family in each."""
    shipped, whole = tmp_path / "tests" / "golden", tmp_path / "shared" / "golden"
    for folder in (shipped / "flux" / "plain", whole / "flux" / "plain", whole / "flux" / "fora"):
        folder.mkdir(parents=True)
        (folder / "data.json").write_text(folder.parent.parent.name)
    monkeypatch.setattr(conftest, "SHIPPED", shipped)
    monkeypatch.setattr(conftest, "WHOLE", whole)
    return shipped, whole


def test_what_ships_comes_first_and_the_rest_from_the_whole_set(places) -> None:
    shipped, whole = places
    golden = Golden(shipped)
    assert golden / "flux" / "plain" / "data.json" == shipped / "flux" / "plain" / "data.json"
    assert golden / "flux" / "fora" / "data.json" == whole / "flux" / "fora" / "data.json"


def test_a_name_that_the_whole_set_lacks_is_an_error_and_no_skipped_test(places) -> None:
    missing = Golden(places[0]) / "flux" / "misspelt" / "data.json"
    with pytest.raises(FileNotFoundError):
        missing.read_text()


def test_without_the_whole_set_a_test_of_its_vectors_is_skipped(places, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(conftest, "WHOLE", tmp_path / "nowhere")
    golden = Golden(places[0])
    assert (golden / "flux" / "plain" / "data.json").is_file()
    with pytest.raises(pytest.skip.Exception, match="no golden vectors flux/fora"):
        golden / "flux" / "fora"


def test_what_ships_is_small_and_explained() -> None:
    files = [path for path in conftest.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2**20
    text = (conftest.SHIPPED / "README.md").read_text()
    assert all(f"`{path.relative_to(conftest.SHIPPED).parts[0]}/" in text for path in files if path.name != "README.md")
