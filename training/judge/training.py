"""How the judge learns to see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dita.miniature.judge.marks import COLOURS, LAYERS
from dita.miniature.judge.network import Eyes, Widths
from dita.miniature.judge.pictures import to_tensor
from training.autoencoder import world_seed
from training.judge.disturbances import disturbed
from training.judge.samples import draw, sample
from training.judge.targets import LayerTarget, background_target, layer_target, loss

BATCH = 64
"""Pictures a step."""


def build(seed: int = 0, widths: Widths | None = None) -> Eyes:
    """Untrained eyes."""
    torch.manual_seed(seed)
    eyes: Eyes = Eyes(widths).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return eyes


def batch(count: int, random: torch.Generator) -> tuple[Tensor, dict[str, LayerTarget], Tensor]:
    """Disturbed pictures (N, 3, 64, 64) in [-1, 1], the target of each layer, and of the background (N, 3)."""
    rng = np.random.default_rng(world_seed(random))
    samples = [sample(rng) for _ in range(count)]
    pictures = disturbed(to_tensor(draw(samples)), random)
    seen = [one.seen for one in samples]
    targets = {layer: layer_target(layer, seen) for layer in LAYERS}
    return pictures, targets, background_target([one.background() for one in samples])


def step_loss(eyes: Eyes, random: torch.Generator, count: int = BATCH) -> Tensor:
    """The loss of one training step."""
    pictures, targets, background = batch(count, random)
    with torch.autocast("cpu", torch.bfloat16):
        said = eyes(pictures.contiguous(memory_format=torch.channels_last))
    return loss(said, targets, background)


def write_folder(eyes: Eyes, folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes sizes, weights (fp16) and `facts` (recipe.json); the folder is replaced as a whole."""
    fresh = folder.with_name(folder.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {name: weight.half().contiguous() for name, weight in eyes.state_dict().items()}
    save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt"})
    config = {"widths": eyes.widths.as_json(), "layers": LAYERS, "colours": COLOURS}
    for name, content in (("config.json", config), ("recipe.json", facts)):
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
