"""Finding the evaluators' networks: a path that was given, an environment variable, a local cache, or a bundled one.

Nothing is downloaded unless it is asked for.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from dita import miniature
from dita.metrics import features
from dita.metrics import lpips as lpips_network
from dita.metrics.catalogue import Metric, Need
from dita.metrics.checkpoints import sha256
from dita.metrics.clip import ClipScorer, load_clip, load_open_clip
from dita.metrics.features import FeatureNetwork, Identity
from dita.metrics.image_reward import RewardScorer, load_image_reward
from dita.metrics.image_reward_package import PackageScorer, load_package_scorer, package_backend
from dita.metrics.images import Preparation
from dita.metrics.inception import Resize
from dita.models import HUB_ID
from dita.values import unknown

Origin = Literal["given", "environment", "cache", "hub", "bundled"]
T = TypeVar("T")
PACKAGE = "package:"  # before the path of ImageReward's files: the image-reward package is to load them


@dataclass(frozen=True)
class Place:
    """Where one network may be: names inside a weights folder, an environment variable, hub ids (with the file to
    fetch, where the repository is no transformers folder), files of torch's hub cache, and the bundled stand-in."""

    names: tuple[str, ...]
    variable: str
    hub: tuple[str, ...] = ()
    hub_file: str = ""
    torch_hub: tuple[str, ...] = ()
    bundled: str = ""


_INCEPTION = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")

PLACES: dict[Need, Place] = {
    "inception": Place(
        (*_INCEPTION, "inception.safetensors"), "DITA_INCEPTION", torch_hub=_INCEPTION, bundled="shapes-features"
    ),
    "clip": Place(
        ("clip", "clip-vit-large-patch14"), "DITA_CLIP", ("openai/clip-vit-large-patch14",), bundled="shapes-clip"
    ),
    "cmmd": Place(
        ("clip-vit-large-patch14-336",), "DITA_CMMD", ("openai/clip-vit-large-patch14-336",), bundled="shapes-clip"
    ),
    "pickscore": Place(("PickScore_v1", "pickscore"), "DITA_PICKSCORE", ("yuvalkirstain/PickScore_v1",)),
    "hpsv2": Place(
        ("HPS_v2.1_compressed.pt", "HPS_v2_compressed.pt"), "DITA_HPSV2", ("xswu/HPSv2",), "HPS_v2.1_compressed.pt"
    ),
    "image-reward": Place(
        ("ImageReward.pt", "ImageReward", "image-reward"),
        "DITA_IMAGE_REWARD",
        ("THUDM/ImageReward", "zai-org/ImageReward"),
        "ImageReward.pt",
        bundled="shapes-reward",
    ),
    "dino": Place(("dinov2-large", "dinov2"), "DITA_DINO", ("facebook/dinov2-large",), bundled="shapes-features"),
    "lpips": Place(
        ("alexnet-owt-7be5be79.pth", "alexnet.safetensors"),
        "DITA_LPIPS_ALEX",
        torch_hub=("alexnet-owt-7be5be79.pth",),
        bundled="shapes-features",
    ),
    "lpips-vgg": Place(
        ("vgg16-397923af.pth", "vgg16.safetensors"), "DITA_LPIPS_VGG", torch_hub=("vgg16-397923af.pth",)
    ),
}
CLIP_TOKENIZERS = (
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-base-patch32",
)
BUNDLED_SMALLEST = 16  # pixels a side for distances in their features
BUNDLED_SIDE = 64  # pixels a side of dita's own drawings
BERT_TOKENIZER = "google-bert/bert-base-uncased"


@dataclass(frozen=True)
class Found:
    """A network's files: a local path, or a hub id where the network may be used."""

    source: str
    origin: Origin


class Networks:
    """The networks that metrics need, each found before the work starts and loaded when it is first used.

    Args:
        weights: a folder that holds them under the names of `PLACES`.
        chosen: a path or hub id for single ones, by name: `{"clip": "openai/clip-vit-base-patch32"}`.
        device: where they run.
        resize: of pictures for Inception.
        download: whether hub ids may be fetched; otherwise they must be in the local cache.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        chosen: Mapping[str, str] | None = None,
        device: str | torch.device = "cpu",
        resize: Resize = "tensorflow",
        download: bool = False,
    ) -> None:
        self.weights = Path(weights) if weights is not None else None
        if self.weights is not None and not self.weights.is_dir():
            raise FileNotFoundError(f"there is no folder of weights {str(weights)!r}")
        self.chosen = dict(chosen or {})
        for name in self.chosen:
            if name not in PLACES:
                raise unknown("network", name, PLACES)
        self.device, self.resize, self.download = torch.device(device), resize, download
        self._found: dict[Need, Found] = {}
        self._loaded: dict[str, Any] = {}

    def on(self, device: str | torch.device) -> Networks:
        """The same networks for another device, not loaded yet; found where these were."""
        other = copy.copy(self)
        other.device = torch.device(device)
        other._found, other._loaded = dict(self._found), {}
        return other

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: where they are, not what is loaded."""
        return {**self.__dict__, "_loaded": {}}

    def locate(self, metrics: Iterable[Metric]) -> dict[Need, Found]:
        """Where the networks of `metrics` are.

        Raises `ValueError` that names every metric whose network is nowhere, and how to give it.
        """
        missing = []
        for metric in metrics:
            if metric.needs == "none":
                continue
            try:
                self.find(metric.needs)
            except ValueError as error:
                missing.append(f"{metric.name}: {error}")
        if missing:
            raise ValueError("; ".join(missing))
        return dict(self._found)

    def has(self, metric: Metric) -> bool:
        """Whether the network of `metric` can be found."""
        try:
            self.locate([metric])
        except ValueError:
            return False
        return True

    def find(self, need: Need) -> Found:
        """Where one network is. Raises `ValueError` that says all the places where it was looked for."""
        if need not in self._found:
            self._found[need] = self._search(need)
        return self._found[need]

    @property
    def bundled(self) -> list[str]:
        """The bundled stand-ins among the networks found so far."""
        return sorted({found.source for found in self._found.values() if found.origin == "bundled"})

    def stand_ins(self) -> str:
        """The line that says which bundled small networks serve in place of the published ones."""
        names = ", ".join(self.bundled)
        return (
            f"bundled small networks in place of the published ones: {names}. They know dita's drawings only: compare"
            " their values with each other, never with published ones."
        )

    def features(self, need: Need) -> FeatureNetwork:
        """The feature network of `fid` and `kid` ("inception"), `cmmd`, or of DINO ("dino")."""
        return self._once(f"features {need}", lambda: self._features(need))

    def clip(self, need: Need = "clip") -> ClipScorer:
        """The CLIP of `clip`, `cmmd`, `pickscore` or `hpsv2`."""
        return self._once(f"clip {self.find(need).source}", lambda: self._clip(need).to(self.device))

    def reward(self) -> RewardScorer | PackageScorer:
        """The ImageReward."""

        def load() -> RewardScorer | PackageScorer:
            given = self.find("image-reward").source
            if given.startswith(PACKAGE):
                return load_package_scorer(given.removeprefix(PACKAGE), self.device)
            source = self._path("image-reward")
            folder = source if source.is_dir() else source.parent
            own = any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json"))
            return load_image_reward(source, folder if own else self._bert()).to(self.device)

        return self._once("image-reward", load)

    def lpips(self, need: Need) -> tuple[lpips_network.PairNetwork, Identity]:
        """LPIPS with AlexNet ("lpips") or VGG16 ("lpips-vgg"), and its identity."""

        def load() -> tuple[lpips_network.PairNetwork, Identity]:
            if self.find(need).origin == "bundled":
                source = self.find(need).source
                trunk = miniature.load_features(self.device).trunk
                distance = lpips_network.LevelsNetwork(trunk, trunk.levels, smallest=BUNDLED_SMALLEST)
                return distance, Identity(f"lpips-by-{source}", sha256(miniature.folder(source)), "none")
            backbone: lpips_network.Backbone = "vgg" if need == "lpips-vgg" else "alex"
            path = self._path(need)
            network = lpips_network.load_lpips(backbone, path).to(self.device)
            return network, Identity(f"lpips-0.1-{backbone}", sha256(path), "none")

        return self._once(need, load)

    def _once(self, key: str, load: Callable[[], T]) -> T:
        if key not in self._loaded:
            self._loaded[key] = load()
        found: T = self._loaded[key]
        return found

    def _features(self, need: Need) -> FeatureNetwork:
        found = self.find(need)
        if need == "cmmd":
            return features.clip_features(self.clip("cmmd"))
        if found.origin == "bundled":
            return bundled_features(found.source, self.device)
        if need == "dino":
            return features.transformers_features(found.source, device=self.device, local_files_only=not self.download)
        return features.inception_features(self._path(need), resize=self.resize, device=self.device)

    def _clip(self, need: Need) -> ClipScorer:
        found = self.find(need)
        if need == "hpsv2":
            path = self._path(need)
            return load_open_clip(path, self._clip_tokenizer(path.parent), name=path.stem)
        source = miniature.folder(found.source) if found.origin == "bundled" else found.source
        tokenizer = self._clip_tokenizer(Path(source)) if need == "pickscore" else None
        return load_clip(source, tokenizer, local_files_only=not self.download)

    def _search(self, need: Need) -> Found:
        place = PLACES[need]
        if need == "image-reward" and self.chosen.get(need, "").startswith(PACKAGE):
            return _with_package(self.chosen[need])
        if need in self.chosen:
            return _given(self.chosen[need], f"--network {need}", "given", may_be_hub_id=bool(place.hub))
        if self.weights is not None:
            for name in place.names:
                if (self.weights / name).exists():
                    return Found(str(self.weights / name), "given")
        if os.environ.get(place.variable):
            source = os.environ[place.variable]
            return _given(source, place.variable, "environment", may_be_hub_id=bool(place.hub))
        for name in place.torch_hub:
            path = Path(torch.hub.get_dir()) / "checkpoints" / name
            if path.is_file():
                return Found(str(path), "cache")
        for hub_id in place.hub:
            if _is_cached(hub_id, place.hub_file or "config.json"):
                return Found(hub_id, "cache")
        if self.download and place.hub:
            return Found(place.hub[0], "hub")
        if place.bundled:
            try:
                miniature.folder(place.bundled)
                return Found(place.bundled, "bundled")
            except (ValueError, FileNotFoundError):
                stand_in = f"; the bundled stand-in {place.bundled} is not in this installation"
        else:
            stand_in = ""
        cached = ", ".join((*place.hub, *place.torch_hub))
        raise ValueError(
            f"its network is nowhere: put {place.names[0]!r} into the folder of --weights, or set {place.variable};"
            f" the local cache holds none of {cached}{stand_in}"
        )

    def _path(self, need: Need) -> Path:
        """The local file or folder of a network, fetched from the hub where it is a hub id."""
        found = self.find(need)
        if found.origin == "bundled":
            return miniature.folder(found.source)
        path = Path(found.source)
        if path.exists():
            if path.is_dir() and need in ("inception", "hpsv2", "lpips", "lpips-vgg"):
                files = [path / name for name in PLACES[need].names if (path / name).is_file()]
                if not files:
                    raise FileNotFoundError(f"folder {str(path)!r} holds none of {', '.join(PLACES[need].names)}")
                return files[0]
            return path
        from huggingface_hub import hf_hub_download

        file = PLACES[need].hub_file
        return Path(hf_hub_download(found.source, file, local_files_only=not self.download))

    def _clip_tokenizer(self, folder: Path) -> str:
        """A tokenizer of CLIP's 49408 tokens: they are the same for all of these networks."""
        folders = [folder, *(folder / name for name in ("tokenizer", "clip", *PLACES["clip"].names))]
        if self.weights is not None:
            folders += [self.weights / name for name in ("tokenizer", *PLACES["clip"].names)]
        for candidate in folders:
            if any((candidate / name).is_file() for name in ("tokenizer.json", "vocab.json")):
                return str(candidate)
        for hub_id in CLIP_TOKENIZERS:
            if any(_is_cached(hub_id, name) for name in ("tokenizer.json", "vocab.json")):
                return hub_id
        if self.download:
            return _fetched(CLIP_TOKENIZERS[0])
        raise ValueError(f"CLIP's tokenizer is nowhere: put it into {str(folder)!r} (tokenizer.json)")

    def _bert(self) -> str | None:
        """Where BERT's tokenizer is, or None where it must lie beside the checkpoint."""
        if self.weights is not None and (self.weights / "bert-base-uncased").is_dir():
            return str(self.weights / "bert-base-uncased")
        for hub_id in (BERT_TOKENIZER, "bert-base-uncased"):
            if _is_cached(hub_id, "vocab.txt"):
                return hub_id
        return _fetched(BERT_TOKENIZER) if self.download else None


def bundled_features(name: str, device: str | torch.device = "cpu") -> FeatureNetwork:
    """The feature network of a bundled folder: dita's own (`miniature.load_features`), or one of transformers.

    Raises `ValueError` and `FileNotFoundError` as `miniature.folder` does.
    """
    folder = miniature.folder(name)
    if "model_type" in json.loads((folder / "config.json").read_text()):
        return features.transformers_features(folder, device=device)
    # The module takes pictures in 0..1; resizing is PIL's, as for every other network.
    module = miniature.load_features(device)
    preparation = Preparation(BUNDLED_SIDE, fit="squash", mean=(0, 0, 0), std=(1, 1, 1))
    identity = Identity(name, sha256(folder), str(preparation))
    return features.module_features(module, module.width, preparation, identity)


def _given(source: str, where: str, origin: Origin, *, may_be_hub_id: bool) -> Found:
    path = Path(source).expanduser()
    if path.exists():
        return Found(str(path), origin)
    if may_be_hub_id and HUB_ID.fullmatch(source):
        return Found(source, origin)
    wanted = "neither a file or folder nor a hub id" if may_be_hub_id else "no file or folder"
    raise ValueError(f"{where} is {source!r}, which is {wanted}")


def _with_package(chosen: str) -> Found:
    try:
        package_backend()
    except ImportError as error:
        raise ValueError(str(error)) from None
    found = _given(chosen.removeprefix(PACKAGE), "--network image-reward", "given", may_be_hub_id=False)
    return Found(PACKAGE + found.source, found.origin)


def _fetched(hub_id: str) -> str:
    """A folder with the tokenizer of a hub repository, fetched where it is not in the cache."""
    from huggingface_hub import snapshot_download

    return snapshot_download(hub_id, allow_patterns=["*.json", "*.txt"])


def _is_cached(hub_id: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, file), str)
