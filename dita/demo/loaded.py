"""One loaded pipeline, and what a page must know of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dita import miniature, models, realistic_prompts
from dita.caching.adapters import adapter_for
from dita.caching.attachment import transformer_of
from dita.model_names import canonical

FALLBACK_STEPS = 28  # for models that say nothing


@dataclass(frozen=True, eq=False)
class Loaded:
    """A pipeline and its facts.

    Attributes:
        name: what to call the model: a bundled name, a hub id, or the last part of a folder's path.
        pipe: the pipeline, plain.
        call: the arguments that its calls should have where a visitor gives none.
    """

    name: str
    pipe: Any
    call: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def family(self) -> str:
        return adapter_for(transformer_of(self.pipe)).family

    @property
    def makes_videos(self) -> bool:
        return self.family == "opensora"

    @property
    def bundled(self) -> bool:
        return models.is_bundled(self.name)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes that a class-conditional pipeline draws; empty where prompts are free."""
        return tuple(getattr(self.pipe, "labels", None) or ()) if hasattr(self.pipe, "get_label_ids") else ()

    @property
    def steps(self) -> int:
        return int(self.call.get("num_inference_steps", FALLBACK_STEPS))

    @property
    def least_steps(self) -> int:
        """The fewest that the sampler takes: PixArt's pipeline takes one step to be a distilled model's, and fails."""
        return 2 if self.family == "pixart" else 1

    @property
    def guidance(self) -> float:
        return float(self.call.get("guidance_scale", 3.5 if self.family == "flux" else 4.5))

    @property
    def token_pixels(self) -> int:
        """Pixels a side of one image token."""
        patch = 2 if self.family == "flux" else int(self._config.patch_size)
        return patch * self.cell_pixels

    @property
    def cell_pixels(self) -> int:
        """Pixels a side of one cell of the latents."""
        config = self.pipe.vae.config
        channels = config.get("block_out_channels") or config.get("spatial_block_out_channels")
        return int(2 ** (len(channels) - 1))

    @property
    def _config(self) -> Any:
        transformer: Any = transformer_of(self.pipe)
        return transformer.config

    @property
    def fixed_size(self) -> bool:
        """Whether the model makes one size only: DiT by its position embedding, videos by their table of sizes."""
        return self.family in ("dit", "opensora")

    @cached_property
    def side(self) -> tuple[int, int]:
        """(height, width) in pixels where a visitor gives none."""
        if "height" in self.call:
            return int(self.call["height"]), int(self.call.get("width", self.call["height"]))
        cells = getattr(self.pipe, "default_sample_size", None) or self._config.sample_size
        if isinstance(cells, int):
            return cells * self.cell_pixels, cells * self.cell_pixels
        return 240, 426  # Open-Sora's own

    @property
    def where(self) -> str:
        """Device and number format, for people."""
        device = str(getattr(self.pipe, "_execution_device", self.pipe.device))
        return f"{device}, {str(self.pipe.dtype).removeprefix('torch.')}"

    @property
    def device(self) -> str:
        """The kind of device: cpu, cuda ..."""
        return str(getattr(self.pipe, "_execution_device", self.pipe.device)).partition(":")[0]

    def examples(self, count: int) -> list[str]:
        """Prompts that the model knows: captions of the bundled world, classes, or realistic prompts."""
        if self.bundled:
            return miniature.prompts(self.name, count)
        if self.labels:
            return realistic_prompts.class_prompts(self.labels, min(count, len(set(self.labels))))
        return realistic_prompts.texts(count)


def load(
    model: str | os.PathLike[str], dtype: str | None = None, device: str | None = None, local_files_only: bool = False
) -> Loaded:
    """The pipeline of `model`, silent. Raises `ValueError` as `dita.models.load` does, and for unsupported families."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe, call = models.load(model, dtype, device=device, local_files_only=local_files_only)
    pipe.set_progress_bar_config(disable=True)
    name = Path(model).resolve().name if Path(model).is_dir() else canonical(model)
    loaded = Loaded(name, pipe, call)
    assert loaded.family  # refuses what has no adapter before a page is built
    return loaded
