"""How the judge learns to see."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dita.miniature.autoencoder import to_tensor, world_seed
from dita.miniature.judge.disturbances import disturbed
from dita.miniature.judge.marks import LAYERS, LayerTarget, background_target, layer_target
from dita.miniature.judge.network import Eyes, Widths, loss
from dita.miniature.judge.samples import draw, sample

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
