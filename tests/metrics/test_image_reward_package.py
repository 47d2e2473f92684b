"""The image-reward package as a second backend, with a small package of the same name in its place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dita.metrics import catalogue
from dita.metrics.image_reward_package import load_package_scorer, package_backend
from dita.networks import Networks

STAND_IN = """
class Tokens:
    def __init__(self, text):
        self.input_ids = text.split()


class Model:
    class blip:
        tokenizer = Tokens

    def score(self, prompt, image):
        return len(prompt) + image.size[0]


def load(name, device, med_config):
    assert name.endswith("ImageReward.pt") and med_config.endswith("med_config.json") and device == "cpu"
    return Model()
"""


def test_the_package_says_why_it_does_not_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="is not installed; dita's own ImageReward needs no package"):
        package_backend()
    (tmp_path / "ImageReward.py").write_text("from transformers import apply_chunking_to_forward_no_more\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"needs transformers 4.48 to 4.55.*here is transformers 5"):
        package_backend()


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with files of the official names, and an importable package."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "ImageReward.pt").write_bytes(b"weights")
    (folder / "med_config.json").write_text("{}")
    (tmp_path / "ImageReward.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    sys.modules.pop("ImageReward", None)


def test_the_package_scores_each_picture_for_its_own_text(official: Path) -> None:
    scorer = load_package_scorer(official)
    pictures = [np.zeros((8, side, 3), np.uint8) for side in (8, 16)]
    rewards, truncated = scorer.rewards(pictures, ["abc", "a " * 40])
    assert rewards.tolist() == [11, 96]
    assert truncated == 1
    with pytest.raises(ValueError, match="got 1 for 2"):
        scorer.rewards(pictures, ["abc"])
    (official / "med_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs ImageReward.pt and med_config.json: no .*med_config.json"):
        load_package_scorer(official)


def test_an_evaluation_can_choose_the_package(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = Networks(chosen={"image-reward": f"package:{official}"})
    assert networks.has(catalogue.METRICS["image-reward"])
    assert networks.reward().name == "ImageReward-v1.0 by image-reward"
    assert not networks.bundled
    with pytest.raises(ValueError, match="no file or folder"):
        Networks(chosen={"image-reward": "package:nowhere"}).find("image-reward")


def test_a_package_that_does_not_import_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "ImageReward.pt").write_bytes(b"weights")
    with pytest.raises(ValueError, match="image-reward: the package image-reward is not installed"):
        Networks(chosen={"image-reward": f"package:{tmp_path}"}).locate([catalogue.METRICS["image-reward"]])
