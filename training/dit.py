"""The miniature DiT: a transformer that is told a class, and predicts noise with guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

from dita.miniature import classes, world
from training import pools, recipe
from training.denoising import Denoiser
from training.groups import by_kind
from training.layout import Reader
from training.loop import Group
from training.pools import Pool

NO_CLASS = 1000
"""The class that stands for none: DiTPipeline has this number in its code, so the model has 1000 classes, as ImageNet,
of which the first are used."""


class DiT(Denoiser):
    """The trained part of the pipeline. All blocks share one embedding of step and class, as the published DiT does."""

    def __init__(self, transformer: DiTTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.reader = Reader(transformer.inner_dim)

    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def predict(self, x: Tensor, steps: Tensor, said: dict[str, Tensor], dropped: Tensor) -> Tensor:
        labels = said["label"].masked_fill(dropped, NO_CLASS)
        return self.transformer(x, timestep=steps, class_labels=labels, return_dict=False)[0]


def build(seed: int = 0) -> DiT:
    """An untrained model with the recipe's sizes. Every block begins as the identity.

    The vector of a class begins as the sum of three, for its shape, its colour and its background, so that what is
    learned of red circles is known of red squares.
    """
    torch.manual_seed(seed)
    transformer = DiTTransformer2DModel(**recipe.DIT)
    blocks = transformer.transformer_blocks
    shared = blocks[0].norm1.emb
    shared.class_embedder.dropout_prob = 0.0  # the loss drops classes, with random numbers of its own
    for block in blocks:
        block.norm1.emb = shared
    table = shared.class_embedder.embedding_table.weight
    words = [list(dict.fromkeys(part)) for part in zip(*classes.PARTS, strict=True)]
    with torch.no_grad():
        vectors = [torch.randn(len(part), table.shape[1]) / len(words) ** 0.5 for part in words]
        table.zero_()
        for number, parts in enumerate(classes.PARTS):
            for part, known, word in zip(vectors, words, parts, strict=True):
                table[number] += part[known.index(word)]
    for module in (*(block.norm1.linear for block in blocks), transformer.proj_out_1, transformer.proj_out_2):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    return DiT(transformer)


def groups(model: DiT) -> list[Group]:
    """What learns how."""
    return by_kind(model.transformer, model.reader.parameters())


def pool(vae: AutoencoderKL, count: int, side: int, seed: int, file: Path) -> Pool:
    """`count` drawings of `side` pixels with their class as `label` (N,)."""

    def told(scenes: list[world.Scene]) -> dict[str, Tensor]:
        return {"label": torch.tensor([classes.number(scene) for scene in scenes])}

    return pools.drawings(vae, count, side, seed, file, told, classes.scenes)


def pipeline(model: DiT, vae: AutoencoderKL) -> DiTPipeline:
    """A stock DiTPipeline, silent; each block of its transformer has its own copy of the shared embedding."""
    transformer = DiTTransformer2DModel(**recipe.DIT).eval().requires_grad_(False)
    transformer.load_state_dict(model.transformer.state_dict())
    pipe = DiTPipeline(
        transformer=transformer.to(next(model.parameters()).device),
        vae=vae,
        scheduler=DDIMScheduler(**recipe.NOISE_SCHEDULE, clip_sample=False),
        id2label=id2label(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def id2label() -> dict[int, Any]:
    """The name of each class, as model_index.json has it."""
    return dict(enumerate(classes.names()))
