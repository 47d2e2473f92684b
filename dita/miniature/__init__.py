"""Small real models that ship with dita, trained on drawings that the program makes itself (see docs/miniature.md)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel

    from dita.miniature.alignment.reward import Reward
    from dita.miniature.judge import Judge
    from dita.miniature.judge.features import Features

MINIATURES: dict[str, str] = {
    "shapes-flux": "FLUX (FluxPipeline): captioned drawings of one or two shapes, 64x64 pixels, 256 image tokens",
    "shapes-pixart": "PixArt-alpha (PixArtAlphaPipeline): the same drawings with guidance, 256 image tokens",
    "shapes-dit": "DiT (DiTPipeline): one shape on a plain background, by its class, with guidance, 256 image tokens",
    "shapes-opensora": "Open-Sora 1.2 (OpenSoraPipeline): clips of 16 frames, one moving shape, 4 x 64 video tokens",
}
"""The bundled models: name and what it is."""

_PIPELINES: dict[str, tuple[str, str]] = {
    "shapes-flux": ("diffusers", "FluxPipeline"),
    "shapes-pixart": ("diffusers", "PixArtAlphaPipeline"),
    "shapes-dit": ("diffusers", "DiTPipeline"),
    "shapes-opensora": ("dita.pipelines.opensora", "OpenSoraPipeline"),
}
"""The pipeline class of each: module and name."""

EVALUATORS: dict[str, str] = {
    "shapes-judge": "tells of each attribute of a caption whether a drawing has it right (load_judge)",
    "shapes-features": "256 features for Frechet distances, of the judge's trunk: its folder is the judge's",
    "shapes-clip": "CLIPModel of transformers, 64x64 pixels, trained on drawings and captions",
    "shapes-reward": "ImageReward's architecture, 64x64 pixels, trained on ranked pairs; official weight names",
}
"""The bundled networks that judge pictures: name and what it is. Their training: docs/judge.md."""

_FOLDERS = {"shapes-features": "shapes-judge"}
"""Folders that are named otherwise than what they hold."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "shapes-flux": {
        "height": 64,
        "width": 64,
        "num_inference_steps": 28,
        "guidance_scale": 3.5,
        "max_sequence_length": 32,
    },
    "shapes-pixart": {
        "height": 64,
        "width": 64,
        "num_inference_steps": 20,
        "guidance_scale": 2.0,
        "max_sequence_length": 32,
        "use_resolution_binning": False,  # its table begins at 256 pixels
        "clean_caption": False,  # it is for captions of the web
    },
    "shapes-dit": {"num_inference_steps": 50, "guidance_scale": 4.0},
    "shapes-opensora": {
        "height": 64,
        "width": 64,
        "num_frames": 16,
        "num_inference_steps": 30,
        "guidance_scale": 7.0,
        "aesthetic_score": None,  # no caption of the world has one
        "clean_caption": False,  # nor what is cleaned
    },
}


def _check(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"no bundled model is named {name!r}: choose one of {', '.join(sorted(known))}")


def folder(name: str) -> Path:
    """The folder of a bundled model: for `from_pretrained` of its pipeline class, or of one of EVALUATORS.

    Raises:
        ValueError: no bundled model has that name.
        FileNotFoundError: the installation lacks the model's files.
    """
    _check(name, [*MINIATURES, *EVALUATORS])
    place = Path(__file__).parent / _FOLDERS.get(name, name)
    needed = "config.json" if name in EVALUATORS else "model_index.json"
    if not (place / needed).is_file():
        page = "judge" if name in EVALUATORS else "miniature"
        command = f"python -m training.train {place.name.removeprefix('shapes-')}"
        raise FileNotFoundError(
            f"{place} holds no model: install dita with its data, or train it in a clone of its repository: {command}"
            f" (docs/{page}.md)"
        )
    return place


def tuned(name: str) -> Path | None:
    """The file of the plan that `dita tune` found for a bundled model; None if there is none.

    Raises `ValueError` for a name that no bundled model has.
    """
    _check(name, MINIATURES)
    path = Path(__file__).parent / "tuned" / f"{name}.json"
    return path if path.is_file() else None


def load_judge(device: str | torch.device = "cpu") -> Judge:
    """The ground-truth judge: `judge(pictures, prompts)` gives a Verdict for each picture.

    Raises:
        FileNotFoundError: the installation lacks its files.
    """
    from dita.miniature.judge.judge import load

    return load(folder("shapes-judge"), device)


def load_features(device: str | torch.device = "cpu") -> Features:
    """The feature network: a module of pictures (N, 3, H, W) to (N, 256), for Frechet distances.

    Raises:
        FileNotFoundError: the installation lacks its files.
    """
    from dita.miniature.judge.features import Features
    from dita.miniature.judge.judge import load_eyes

    return Features(load_eyes(folder("shapes-features"))).to(device)


def load_clip(device: str | torch.device = "cpu") -> CLIPModel:
    """The small CLIP in float32; its tokenizer is `dita.miniature.tokenizers.clip_tokenizer()`.

    Raises:
        FileNotFoundError: the installation lacks its files.
    """
    import torch
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(str(folder("shapes-clip")), local_files_only=True, dtype=torch.float32).to(device)


def load_reward(device: str | torch.device = "cpu") -> Reward:
    """The small reward model in float32; `dita.miniature.alignment.reward.rewards` applies it.

    Raises:
        FileNotFoundError: the installation lacks its files.
    """
    from dita.miniature.alignment.reward import load

    return load(folder("shapes-reward")).to(device)


def defaults(name: str) -> dict[str, Any]:
    """The arguments of a pipeline call that the model was trained for, as a new dict.

    Raises:
        ValueError: no bundled model has that name.
    """
    _check(name, MINIATURES)
    return dict(_DEFAULTS[name])


def prompts(name: str, count: int, seed: int = 0) -> list[str]:
    """`count` prompts that the model knows: captions, or names of classes; the same for the same seed.

    Raises:
        ValueError: no bundled model has that name, or a `count` for which there are not enough captions.
    """
    _check(name, MINIATURES)
    from dita.miniature import classes, world

    if name == "shapes-dit":
        return classes.prompts(count, seed)
    return world.clip_prompts(count, seed) if name == "shapes-opensora" else world.prompts(count, seed)


def load(
    name: str,
    pipeline_class: type[Any] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Any:
    """A bundled model as a pipeline of `pipeline_class` (its family's own by default), without network.

    The weights are stored in fp16 and loaded as `dtype`, float32 by default. The arguments that a call should have are
    in `defaults(name)`; the size can be left out.

    Raises:
        ValueError: no bundled model has that name.
        FileNotFoundError: the installation lacks the model's files.
    """
    _check(name, MINIATURES)
    place = folder(name)
    import diffusers
    import torch

    keyword = "torch_dtype" if diffusers.__version__.startswith("0.41.") else "dtype"
    if pipeline_class is None:
        module, class_name = _PIPELINES[name]
        pipeline_class = getattr(importlib.import_module(module), class_name)
    pipe: Any = pipeline_class.from_pretrained(str(place), local_files_only=True, **{keyword: dtype or torch.float32})
    if name == "shapes-flux":  # FluxPipeline does not ask its transformer for the size
        pipe.default_sample_size = _DEFAULTS[name]["height"] // pipe.vae_scale_factor
    return pipe.to(device)
