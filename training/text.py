"""The text encoders' own training, before the flow's: to tell from a caption every attribute of its scene.

Real pipelines come with text encoders that understand language; the miniature's must learn its language first. With
features that hold whose colour is whose, the transformer has only to learn to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from dita.miniature import world
from dita.miniature.tokenizers import CLIP_LENGTH, clip_tokenizer, t5_tokenizer
from training import recipe
from training.labels import SIZES, labels

PAD = 0
"""T5's padding token."""


def tokens(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids for T5 (N, TEXT_TOKENS) and CLIP (N, CLIP_LENGTH), padded as FluxPipeline pads them."""
    how: dict[str, Any] = dict(padding="max_length", truncation=True, return_tensors="pt")
    t5 = t5_tokenizer()(captions, max_length=recipe.TEXT_TOKENS, **how).input_ids
    clip = clip_tokenizer()(captions, max_length=CLIP_LENGTH, **how).input_ids
    return t5, clip


def words(captions: list[str]) -> Tensor:
    """Token ids for T5 alone (N, TEXT_TOKENS), in lower case as PixArt's and Open-Sora's pipelines read a prompt."""
    how: dict[str, Any] = dict(padding="max_length", truncation=True, return_tensors="pt")
    return t5_tokenizer()([caption.lower() for caption in captions], max_length=recipe.TEXT_TOKENS, **how).input_ids


def mask_of(ids: Tensor) -> Tensor:
    """1 for the tokens of a caption, 0 for its padding: what the pipelines give T5 and cross-attention."""
    return (ids != PAD).long()


def build_t5() -> T5EncoderModel:
    """An untrained T5 encoder with the recipe's sizes."""
    vocabulary = t5_tokenizer()
    t5 = T5EncoderModel(
        T5Config(
            **recipe.T5,
            vocab_size=len(vocabulary),
            pad_token_id=vocabulary.pad_token_id,
            eos_token_id=vocabulary.eos_token_id,
        )
    )
    _look_both_ways(t5)
    return t5


@torch.no_grad()
def _look_both_ways(t5: T5EncoderModel) -> None:
    """Starts T5's heads with a direction: one sees what was said before, one what follows, two the nearest words.

    Without it the encoder is slow to find which of two objects a colour belongs to.
    """
    bias = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # (buckets, heads)
    near = torch.arange(len(bias)) % (len(bias) // 2)  # of both halves the first buckets are the nearest words
    before = (torch.arange(len(bias)) < len(bias) // 2).float()
    bias[:, 0] += 3 * before - 1.5
    bias[:, 1] += 1.5 - 3 * before
    bias[:, 2] += 3 * before - 0.7 * near
    bias[:, 3] += 3 * (1 - before) - 0.7 * near


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
    return _missed([a for by in answers for a in by], said.repeat(1, 2))


@torch.no_grad()
def accuracy(reader: Reader, count: int, seed: int) -> tuple[float, float]:
    """Share of attributes read rightly by T5 and by CLIP, on `count` held-out captions."""
    scenes = world.scenes(count, seed, split="held-out")
    said = labels(scenes, said=True)
    t5, clip = tokens([world.caption(scene) for scene in scenes])
    device = reader.queries.device
    by_t5, by_clip = (_right(by, said) for by in reader.eval()(t5.to(device), clip.to(device)))
    return by_t5, by_clip


Told = Callable[[int, int, str], tuple[list[str], Tensor]]
"""`told(count, seed, split)`: captions, and the class number of each of their attributes (count, attributes)."""


def of_scenes(count: int, seed: int, split: str = "train") -> tuple[list[str], Tensor]:
    """Captions of drawings and their attributes, with the classes `labels.SIZES`."""
    scenes = world.scenes(count, seed, split)
    return [world.caption(scene) for scene in scenes], labels(scenes, said=True)


class T5Reader(nn.Module):
    """T5 alone, its padding masked, with heads that read attributes of `sizes` classes each, as in `Reader`."""

    def __init__(self, t5: T5EncoderModel, sizes: Sequence[int] = SIZES) -> None:
        super().__init__()
        self.t5 = t5
        width = t5.config.d_model
        self.queries = nn.Parameter(torch.randn(len(sizes), width) * width**-0.5)
        self.key = nn.Linear(width, width, bias=False)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Logits (N, classes) of every attribute."""
        mask = mask_of(ids)
        features = self.t5(ids, attention_mask=mask).last_hidden_state
        scores = self.queries @ self.key(features).mT  # (N, attributes, tokens)
        read = scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(dim=-1) @ features
        return [head(vector).float() for head, vector in zip(self.heads, read.unbind(dim=1), strict=True)]


def t5_loss(reader: T5Reader, told: Told, batch: int, random: torch.Generator) -> Tensor:
    """Cross entropy, the mean over attributes, of `batch` fresh captions."""
    captions, said = told(batch, int(torch.randint(2**31, (), generator=random)), "train")
    device = reader.queries.device
    with torch.autocast(device.type, torch.bfloat16):
        answers = reader(words(captions).to(device))
    return _missed(answers, said.to(device))


@torch.no_grad()
def t5_accuracy(reader: T5Reader, told: Told, count: int, seed: int) -> float:
    """Share of attributes read rightly, on `count` held-out captions."""
    captions, said = told(count, seed, "held-out")
    return _right(reader.eval()(words(captions).to(reader.queries.device)), said)


def _missed(answers: list[Tensor], said: Tensor) -> Tensor:
    return torch.stack([nn.functional.cross_entropy(a, said[:, i]) for i, a in enumerate(answers)]).mean()


def _right(answers: list[Tensor], said: Tensor) -> float:
    return float((torch.stack([a.argmax(dim=-1).cpu() for a in answers], dim=-1) == said).float().mean())
