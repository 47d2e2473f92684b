"""Feature networks for FID and its kin: what turns pictures into vectors, with its identity for the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dita.metrics import inception, preprocessor_file
from dita.metrics.checkpoints import sha256
from dita.metrics.clip import ClipScorer
from dita.metrics.images import IMAGENET_MEAN, IMAGENET_STD, Picture, Preparation
from dita.metrics.libraries import exact_float32, transformers_class
from dita.values import unknown


@dataclass(frozen=True)
class Identity:
    """What a value depends on beside the pictures: network, sha256 of its weights, how pictures are resized."""

    network: str
    weights: str
    resize: str


@dataclass(frozen=True)
class FeatureNetwork:
    """A network as a function from pictures to features (B, width) in float32, on any device.

    Copies share it. It can be pickled where `extract` can, as all those of this module can.
    """

    identity: Identity
    width: int
    extract: Callable[[Sequence[Picture]], torch.Tensor]

    def __call__(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Features (B, width) on the CPU of uint8 pictures (H, W, 3). Raises `ValueError` where they are not finite."""
        with torch.inference_mode(), exact_float32():
            # A copy: a slice, such as a class token, would keep the whole activation alive as long as it is kept.
            features = self.extract(pictures).to("cpu", torch.float32, copy=True)
        if features.shape != (len(pictures), self.width):
            expected = (len(pictures), self.width)
            raise ValueError(f"{self.identity.network} gave features of {tuple(features.shape)}, expected {expected}")
        if not torch.isfinite(features).all():
            raise ValueError(f"{self.identity.network} gave features that hold NaN or infinity")
        return features

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureNetwork:
        """Returns itself: it has no state, and its weights are large."""
        return self


def inception_features(
    weights: str | Path, *, resize: inception.Resize = "tensorflow", device: str | torch.device = "cpu"
) -> FeatureNetwork:
    """The 2048 features of FID. See `inception.load_inception` and `inception.prepare` for errors and modes."""
    if resize not in inception.RESIZES:
        raise unknown("resize", resize, inception.RESIZES)
    extract = _FromPixels(inception.load_inception(weights).to(device), partial(inception.prepare, resize=resize))
    return FeatureNetwork(Identity("inception-2015-12-05", sha256(weights), resize), inception.WIDTH, extract)


def clip_features(scorer: ClipScorer, *, antialias: bool = False) -> FeatureNetwork:
    """CLIP image embeddings of length 1, as CMMD wants them.

    CMMD resizes straight to the network's square, bicubic and without antialiasing; with `antialias` the preparation
    is that of the CLIP score.
    """
    resize = str(scorer.preparation) if antialias else f"squash {scorer.preparation.size} bicubic, no antialiasing"
    extract = scorer.image_embeddings if antialias else partial(_stretched_embeddings, scorer)
    return FeatureNetwork(Identity(scorer.name, scorer.weights, resize), scorer.width, extract)


def transformers_features(
    source: str | Path, *, device: str | torch.device = "cpu", local_files_only: bool = True
) -> FeatureNetwork:
    """The pooled output of a vision network of transformers, such as DINOv2's class token, from a folder or a hub id.

    As in FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675): stretched to 224x224 (the size of the folder's
    `preprocessor_config.json`, where there is one), bicubic, ImageNet's normalisation (or that of the file). Raises
    `ValueError` where there is no such network, and as `preprocessor_file.read`.
    """
    model_class = transformers_class("AutoModel")
    try:
        loaded = model_class.from_pretrained(str(source), local_files_only=local_files_only, dtype=torch.float32)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{str(source)!r} holds no vision network that transformers loads: {reason}") from None
    model = loaded.eval().requires_grad_(False).to(device)
    told = preprocessor_file.read(source, local_files_only=local_files_only)
    mean, std = told.normalisation(IMAGENET_MEAN, IMAGENET_STD)
    preparation = Preparation(told.side or 224, fit="squash", mean=mean, std=std)
    extract = _FromPixels(model, preparation, by_name=True)
    with torch.inference_mode():
        width = extract([np.zeros((8, 8, 3), np.uint8)]).shape[1]
    folder = Path(source) if Path(source).is_dir() else Path(str(getattr(model, "name_or_path", source)))
    weights = sha256(folder) if folder.is_dir() else str(getattr(model.config, "_commit_hash", None) or "unknown")
    name = Path(source).resolve().name if Path(source).is_dir() else str(source)
    return FeatureNetwork(Identity(name, weights, str(preparation)), width, extract)


def module_features(
    module: torch.nn.Module, width: int, preparation: Preparation, identity: Identity
) -> FeatureNetwork:
    """Any network of your own: `module` maps prepared pictures (B, 3, S, S) to a tensor (B, width) or to an output
    with `features` or `pooler_output`."""
    return FeatureNetwork(identity, width, _FromPixels(module.eval().requires_grad_(False), preparation))


@dataclass(frozen=True)
class _FromPixels:
    """The features (B, width) of a network on the device of its parameters; `by_name` calls it with `pixel_values`."""

    network: torch.nn.Module
    prepare: Callable[[Sequence[Picture]], torch.Tensor]
    by_name: bool = False

    def __call__(self, pictures: Sequence[Picture]) -> torch.Tensor:
        place = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        pixels = self.prepare(pictures).to(place)
        if self.by_name:
            return _features_of(self.network(pixel_values=pixels)).flatten(1)
        return _features_of(self.network(pixels))


def _features_of(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    for name in ("features", "pooler_output"):
        value = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(value, torch.Tensor):
            return value
    raise TypeError(f"a feature network gives a tensor, or an output with `features`; got {type(output).__name__}")


def _stretched_embeddings(scorer: ClipScorer, pictures: Sequence[Picture]) -> torch.Tensor:
    return scorer.embed_pixels(_bicubic(pictures, scorer.preparation))


def _bicubic(pictures: Sequence[Picture], preparation: Preparation) -> torch.Tensor:
    """Pictures as (B, 3, S, S), stretched by bicubic interpolation without antialiasing, normalised."""
    sides = (preparation.size, preparation.size)
    sized = []
    for picture in pictures:
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
        sized.append(F.interpolate(tensor, sides, mode="bicubic", align_corners=False).clamp(0, 1))
    mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
    return (torch.cat(sized) - mean) / std
