"""The image-reward package as a second backend of ImageReward, where it imports; dita's own gives the same numbers."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dita.metrics.checkpoints import sha256
from dita.metrics.image_reward import CHECKPOINT
from dita.metrics.images import Picture

TEXT_CONFIG = "med_config.json"
LONGEST_PROMPT = 35


def package_backend() -> Any:
    """The loaded module of the image-reward package.

    Raises `ImportError` that says why it does not import here.
    """
    try:
        return importlib.import_module("ImageReward")
    except ModuleNotFoundError as error:
        if error.name == "ImageReward":
            raise ImportError(
                "the package image-reward is not installed; dita's own ImageReward needs no package"
            ) from None
        reason = str(error)
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
    version = importlib.metadata.version("transformers")
    raise ImportError(
        f"the package image-reward does not import ({reason}): version 1.5 needs transformers 4.48 to 4.55 and"
        f" setuptools below 82, here is transformers {version}; use it in an environment of its own, or dita's own"
        " ImageReward, which gives the same numbers"
    )


@dataclass(frozen=True)
class PackageScorer:
    """The package's model, with the methods of `image_reward.RewardScorer` that evaluations use."""

    model: Any
    name: str
    weights: str
    preparation: str = "the package's own"

    @torch.inference_mode()
    def rewards(self, pictures: Sequence[Picture | Image.Image], texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        """The reward of each picture for its own text, (B,), and how many texts were truncated.

        Raises `ValueError` for different counts.
        """
        if len(pictures) != len(texts):
            raise ValueError(f"there must be one text for each picture, got {len(texts)} for {len(pictures)}")
        images = [one if isinstance(one, Image.Image) else Image.fromarray(one) for one in pictures]
        rewards = [float(self.model.score(text, image)) for text, image in zip(texts, images, strict=True)]
        lengths = [len(self.model.blip.tokenizer(text).input_ids) for text in texts]
        return torch.tensor(rewards), sum(length > LONGEST_PROMPT for length in lengths)


def load_package_scorer(source: str | Path, device: str | torch.device = "cpu") -> PackageScorer:
    """The package's ImageReward from the official files, `ImageReward.pt` and `med_config.json` side by side.

    `source` is their folder, or the checkpoint. The package takes the tokenizer of bert-base-uncased from the hub or
    its cache. Raises `ImportError` where the package does not import, `FileNotFoundError` where a file is missing.
    """
    package = package_backend()
    source = Path(source)
    checkpoint = source / CHECKPOINT if source.is_dir() else source
    config = checkpoint.with_name(TEXT_CONFIG)
    for file in (checkpoint, config):
        if not file.is_file():
            raise FileNotFoundError(f"the image-reward package needs {CHECKPOINT} and {TEXT_CONFIG}: no {str(file)!r}")
    model = package.load(str(checkpoint), device=str(device), med_config=str(config))
    return PackageScorer(model, "ImageReward-v1.0 by image-reward", sha256(checkpoint))
