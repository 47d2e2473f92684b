"""The small CLIP as it is applied: what it takes of pictures and texts, and the vectors that it makes of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel

from dita.miniature import world
from dita.miniature.judge.pictures import to_tensor
from dita.miniature.tokenizers import CLIP_LENGTH, clip_tokenizer

SIDE = 64
"""Side of the pictures, in pixels."""

PATCH = 8
"""Side of a patch, in pixels."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of red, green and blue in [0, 1] (Radford et al. 2021, the published preprocessing)."""

WIDTH = 128
"""Width of both towers and of the common space."""


def normalised(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as CLIP takes them: (N, 3, H, W), normalised by channel."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return ((pictures + 1) / 2 - mean) / deviation


def tokens(captions: list[str]) -> dict[str, Tensor]:
    """Token ids and mask (N, L), padded to the longest caption."""
    found = clip_tokenizer()(captions, padding=True, truncation=True, max_length=CLIP_LENGTH, return_tensors="pt")
    return {"input_ids": found.input_ids, "attention_mask": found.attention_mask}


@torch.no_grad()
def embeddings(clip: CLIPModel, pictures: world.Picture, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, WIDTH) of pictures (N, 64, 64, 3) and of captions."""
    image = clip.get_image_features(pixel_values=normalised(to_tensor(pictures))).pooler_output
    text = clip.get_text_features(**tokens(captions)).pooler_output
    return functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)
