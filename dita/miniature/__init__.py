"""Small real models that ship with dita, trained on drawings that the program makes itself (see docs/miniature.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MINIATURES: dict[str, str] = {
    "shapes-flux": "FLUX (FluxPipeline): captioned drawings of one or two shapes, 64x64 pixels, 256 image tokens",
}
"""The bundled models: name and what it is."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "shapes-flux": {
        "height": 64,
        "width": 64,
        "num_inference_steps": 28,
        "guidance_scale": 3.5,
        "max_sequence_length": 32,
    },
}


def _check(name: str) -> None:
    if name not in MINIATURES:
        raise ValueError(f"no bundled model is named {name!r}: choose one of {', '.join(sorted(MINIATURES))}")


def folder(name: str) -> Path:
    """The diffusers folder of a bundled model; `from_pretrained` of its pipeline class loads it.

    Raises:
        ValueError: no bundled model has that name.
        FileNotFoundError: the installation lacks the model's files.
    """
    _check(name)
    place = Path(__file__).parent / name
    if not (place / "model_index.json").is_file():
        raise FileNotFoundError(f"{place} holds no model: install dita with its data, or train it (docs/miniature.md)")
    return place


def defaults(name: str) -> dict[str, Any]:
    """The arguments of a pipeline call that the model was trained for, as a new dict.

    Raises:
        ValueError: no bundled model has that name.
    """
    _check(name)
    return dict(_DEFAULTS[name])


def load(
    name: str,
    pipeline_class: type[Any] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Any:
    """A bundled model as a pipeline of `pipeline_class` (FluxPipeline by default), without network.

    A call without `height` and `width` makes a picture of the native size. The weights are stored in fp16 and loaded as
    `dtype`, float32 by default. Other arguments that suit the model are in `defaults(name)`.

    Raises:
        ValueError: no bundled model has that name.
        FileNotFoundError: the installation lacks the model's files.
    """
    place = folder(name)
    import diffusers
    import torch

    keyword = "torch_dtype" if diffusers.__version__.startswith("0.41.") else "dtype"
    pipe: Any = (pipeline_class or diffusers.FluxPipeline).from_pretrained(
        str(place), local_files_only=True, **{keyword: dtype or torch.float32}
    )
    pipe.default_sample_size = _DEFAULTS[name]["height"] // pipe.vae_scale_factor
    return pipe.to(device)
