"""Drawings that are encoded once and kept in a file, for all steps of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dita.miniature import world
from training import autoencoder
from training.layout import Layout, layout
from training.loop import write_whole

LAYOUT = ("figure", "colour", "place")


@dataclass(frozen=True)
class Pool:
    """Scaled latents (N, ...), the layouts, and what the model is told of each, by name: tensors (N, ...)."""

    latents: Tensor
    said: dict[str, Tensor]
    layout: Layout


def kept(file: Path, make: Callable[[], Pool]) -> Pool:
    """The pool in `file`, which `make` makes where it is not there yet."""
    if not file.exists():
        made = make()
        content = {"latents": made.latents, **made.said, **vars(made.layout)}
        write_whole(file, lambda part: torch.save(content, part))
    said = torch.load(file, weights_only=True)
    where = Layout(**{name: said.pop(name) for name in LAYOUT})
    return Pool(said.pop("latents"), said, where)


def drawings(
    vae: AutoencoderKL,
    count: int,
    side: int,
    seed: int,
    file: Path,
    told: Callable[[list[world.Scene]], dict[str, Tensor]],
    sample: Callable[[int, int], list[world.Scene]] = world.scenes,
) -> Pool:
    """`count` drawings of `side` pixels; `sample(count, seed)` gives scenes, `told` what the model hears of them."""

    def make() -> Pool:
        latents, scenes = [], []
        for start in range(0, count, 2048):
            drawn = sample(min(2048, count - start), seed + start)
            raw = autoencoder.encode(vae, world.draw_all(drawn, side))
            latents.append(((raw - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor).half())
            scenes += drawn
        return Pool(torch.cat(latents), told(scenes), layout(scenes, side // 4))

    return kept(file, make)
