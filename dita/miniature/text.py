"""The text encoders' own training, before the flow's: to tell from a caption every attribute of its scene.

Real pipelines come with text encoders that understand language; the miniature's must learn its language first. With
features that hold whose colour is whose, the transformer has only to learn to draw.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, T5EncoderModel

from dita.miniature import recipe, world
from dita.miniature.labels import SIZES, labels
from dita.miniature.tokenizers import CLIP_LENGTH, clip_tokenizer, t5_tokenizer


def tokens(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids for T5 (N, TEXT_TOKENS) and CLIP (N, CLIP_LENGTH), padded as FluxPipeline pads them."""
    how: dict[str, Any] = dict(padding="max_length", truncation=True, return_tensors="pt")
    t5 = t5_tokenizer()(captions, max_length=recipe.TEXT_TOKENS, **how).input_ids
    clip = clip_tokenizer()(captions, max_length=CLIP_LENGTH, **how).input_ids
    return t5, clip


class Reader(nn.Module):
    """Both encoders with heads that read the attributes: from T5 by one query an attribute, from CLIP's pooled vector.

    The heads are thrown away after the training.
    """

    def __init__(self, t5: T5EncoderModel, clip: CLIPTextModel) -> None:
        super().__init__()
        self.t5, self.clip = t5, clip
        width = t5.config.d_model
        self.queries = nn.Parameter(torch.randn(len(SIZES), width) * width**-0.5)
        self.key = nn.Linear(width, width, bias=False)
        self.from_t5 = nn.ModuleList(nn.Linear(width, size) for size in SIZES)
        self.from_clip = nn.Linear(clip.config.hidden_size, sum(SIZES))

    def forward(self, t5: Tensor, clip: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (N, classes) of every attribute, by T5 and by CLIP."""
        features = self.t5(t5).last_hidden_state
        weights = (self.queries @ self.key(features).mT).softmax(dim=-1)  # (N, attributes, tokens)
        read = (weights @ features).unbind(dim=1)
        by_t5 = [head(vector).float() for head, vector in zip(self.from_t5, read, strict=True)]
        by_clip = self.from_clip(self.clip(clip).pooler_output).float().split(SIZES, dim=-1)
        return by_t5, list(by_clip)


def loss(reader: Reader, batch: int, random: torch.Generator) -> Tensor:
    """Cross entropy, the mean over attributes and over both encoders, of `batch` fresh captions."""
    scenes = world.scenes(batch, int(torch.randint(2**31, (), generator=random)))
    device = reader.queries.device
    said = labels(scenes, said=True).to(device)
    t5, clip = (ids.to(device) for ids in tokens([world.caption(scene) for scene in scenes]))
    with torch.autocast(device.type, torch.bfloat16):
        answers = reader(t5, clip)
    losses = [nn.functional.cross_entropy(a, said[:, i]) for by in answers for i, a in enumerate(by)]
    return torch.stack(losses).mean()


@torch.no_grad()
def accuracy(reader: Reader, count: int, seed: int) -> tuple[float, float]:
    """Share of attributes read rightly by T5 and by CLIP, on `count` held-out captions."""
    scenes = world.scenes(count, seed, split="held-out")
    said = labels(scenes, said=True)
    t5, clip = tokens([world.caption(scene) for scene in scenes])
    device = reader.queries.device
    answers = reader.eval()(t5.to(device), clip.to(device))
    by_t5, by_clip = (
        float((torch.stack([a.argmax(dim=-1).cpu() for a in by], dim=-1) == said).float().mean()) for by in answers
    )
    return by_t5, by_clip
