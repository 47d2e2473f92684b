"""What a vision network's `preprocessor_config.json` says of its pictures, in every form that transformers has written.

A size has been a number, a pair (height, width), and a dictionary; keys may be missing or null; transformers 5 puts the
same keys into `processor_config.json`, as `image_processor`. How pictures are resized stays dita's (`images`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dita.metrics.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

FILE, COMBINED = "preprocessor_config.json", "processor_config.json"

Channels = tuple[float, float, float]

_HALF: Channels = (0.5, 0.5, 0.5)
_DEFAULTS: Mapping[str, tuple[Channels, Channels]] = {
    **dict.fromkeys(("CLIP", "ChineseCLIP", "Bit", "Blip"), (CLIP_MEAN, CLIP_STD)),
    **dict.fromkeys(("ViT", "DeiT", "Beit", "ConvNext", "DPT", "Siglip", "Siglip2"), (_HALF, _HALF)),
    "DINOv3ViT": (IMAGENET_MEAN, IMAGENET_STD),
}
"""Mean and deviation that the classes of transformers have by themselves, by the beginning of their names."""

_PAIRS = (("height", "width"), ("max_height", "max_width"))
_EDGES = ("shortest_edge", "longest_edge")
_CLASS = re.compile(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?")


@dataclass(frozen=True)
class Told:
    """What the file at `path` says; nothing where there is none."""

    path: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> int | None:
        """Pixels a side of the network's input: of the crop where one is made, else of the resize; None if unsaid.

        Raises `ValueError` for what is no size, and for one that is not square.
        """
        for key in ("crop_size", "size"):
            value = self.data.get(key)
            if value and not (key == "crop_size" and self.data.get("do_center_crop") is False):
                return self._side(key, value)
        return None

    def normalisation(self, mean: Channels, std: Channels) -> tuple[Channels, Channels]:
        """Mean and deviation of channels in 0..1. What the file leaves out is its class's, or else `mean` and `std`.

        Raises `ValueError` for what is neither a number nor three, and for a deviation that is not above 0.
        """
        mean, std = _DEFAULTS.get(self._class(), (mean, std))
        mean, std = self._channels("image_mean", mean), self._channels("image_std", std)
        if min(std) <= 0:
            raise ValueError(f"{self.path!r}: image_std must be above 0, got {self.data['image_std']!r}")
        if self.data.get("do_normalize") is False:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        scale = self._scale()
        return _divided(mean, scale), _divided(std, scale)

    def _class(self) -> str:
        """The family in the name of the file's class, such as `CLIP`; empty where it names none."""
        for key in ("image_processor_type", "feature_extractor_type"):
            found = _CLASS.fullmatch(str(self.data.get(key) or ""))
            if found:
                return found[1]
        return ""

    def _scale(self) -> float:
        """By how much the file's own scaling of bytes is more than that to 0..1."""
        if self.data.get("do_rescale") is False:
            return 255.0
        factor = self.data.get("rescale_factor")
        if factor is None:
            return 1.0
        if not _is_number(factor) or factor <= 0:
            raise ValueError(f"{self.path!r}: rescale_factor must be a number above 0, got {factor!r}")
        scale = 255.0 * factor
        return 1.0 if abs(scale - 1) < 1e-6 else scale

    def _side(self, key: str, value: Any) -> int:
        sides = _sides(value)
        if not sides or any(not _is_number(side) or side < 1 or side != int(side) for side in sides):
            raise ValueError(
                f"{self.path!r}: {key} must be a number of pixels, a pair, or a dictionary with height and width or"
                f" shortest_edge, got {value!r}"
            )
        if len(set(sides)) > 1:
            raise ValueError(f"{self.path!r}: {key} is {sides[0]}x{sides[1]}; only square input is supported")
        return int(sides[0])

    def _channels(self, key: str, default: Channels) -> Channels:
        value = self.data.get(key)
        if value is None:
            return default
        values = [value] * 3 if _is_number(value) else value
        if not isinstance(values, list) or len(values) != 3 or not all(_is_number(number) for number in values):
            raise ValueError(f"{self.path!r}: {key} must be a number or three, got {value!r}")
        return float(values[0]), float(values[1]), float(values[2])


def read(source: str | os.PathLike[str], *, local_files_only: bool = True) -> Told:
    """What the file of a folder or hub id says. Raises `ValueError` where it is not JSON, or no object."""
    for name in (COMBINED, FILE):
        path = _located(os.fspath(source), name, local_files_only)
        if path is None:
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(data).__name__}")
        if name == FILE:
            return Told(str(path), data)
        if isinstance(data.get("image_processor"), dict):
            return Told(str(path), data["image_processor"])
    return Told()


def _located(source: str, name: str, local_files_only: bool) -> Path | None:
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        if local_files_only:
            found = try_to_load_from_cache(source, name)
            return Path(found) if isinstance(found, str) else None
        return Path(hf_hub_download(source, name))
    except (EntryNotFoundError, HFValidationError, OSError):
        return None


def _sides(value: Any) -> list[Any]:
    """Height and width, or the one edge, of a size in any of its forms; nothing for other forms."""
    if isinstance(value, list):
        return value if len(value) == 2 else []
    if not isinstance(value, dict):
        return [value]
    for pair in _PAIRS:
        if all(key in value for key in pair):
            return [value[key] for key in pair]
    return next(([value[key]] for key in _EDGES if value.get(key) is not None), [])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _divided(values: Channels, scale: float) -> Channels:
    return values[0] / scale, values[1] / scale, values[2] / scale
