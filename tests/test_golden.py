"""The golden vectors: those that ship with the tests, then the whole set; what is in neither skips a test."""

from __future__ import annotations

import subprocess
import sys
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
    files = [path for path in conftest.SHIPPED.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 2**20
    text = (conftest.SHIPPED / "README.md").read_text()
    folders = {path.relative_to(conftest.SHIPPED).parts[0] for path in files if path.parent != conftest.SHIPPED}
    assert folders and all(f"`{folder}/" in text for folder in folders)


def test_the_recorder_names_what_a_clone_computes_otherwise(tmp_path: Path) -> None:
    functions = {
        "flux-ToCa/src/flux/modules/cache_functions": {
            "cal_type": "current['type'] = 'full' if current['step'] % 3 == 0 else 'ToCa'",
            "fresh_ratio_scheduler": "return cache['fresh_ratio']",
        },
        "PixArt-alpha-ToCa/diffusion/model/cache_functions": {
            "global_force_fresh": "return current['step'] % 2 == 0",
            "force_scheduler": "cache['cal_threshold'] = 2.0",
            "fresh_ratio_scheduler": "return 0.5",
        },
    }
    for folder, modules in functions.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").write_text("raise ImportError('models')")
        for name, body in modules.items():
            (tmp_path / folder / f"{name}.py").write_text(f"def {name}(cache, current):\n    {body}\n")
    command = [sys.executable, str(conftest.SHIPPED / "record_plans.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    said = done.stdout.splitlines()
    assert "flux_toca.json: types S=50 N=4 r=0.1 differs" in said
    assert "flux_toca.json: types S=50 N=3 r=0.0 differs" not in said, "the stand-in has that very cycle"
    assert "flux_toca.json: k constant r=0.1 S=50 s=3 N=4 img=4096 txt=512 differs" not in said
    assert "pixart_toca.json: S=20 N=2 r=0.0 ToCa Nt=256 layers=28 differs" not in said
    assert "pixart_toca.json: S=20 N=3 r=0.3 ToCa Nt=256 layers=28 differs" in said
