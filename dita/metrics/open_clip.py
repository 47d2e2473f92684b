"""open_clip's names and sizes in those of transformers: how a checkpoint such as HPSv2's becomes a CLIPModel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

_BLOCK = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
_NAMES = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a CLIP that its tensors do not say, or not alone. The MLPs are four times as wide as their model."""

    embedding: int
    image_size: int
    patch: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: int = 49408
    context: int = 77


VIT_H_14 = Sizes(1024, 224, 14, 1280, 32, 16, 1024, 24, 16)
"""Of HPSv2, HPSv2.1 and PickScore."""


def config(sizes: Sizes) -> dict[str, Any]:
    """Arguments of transformers' CLIPConfig. The activation is the exact GELU: `quick_gelu` moves a score by 4e-3."""
    return {
        "projection_dim": sizes.embedding,
        "text_config": {
            "hidden_size": sizes.text_width,
            "intermediate_size": 4 * sizes.text_width,
            "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": sizes.text_heads,
            "max_position_embeddings": sizes.context,
            "vocab_size": sizes.vocabulary,
            "projection_dim": sizes.embedding,
            "hidden_act": "gelu",
            "bos_token_id": sizes.vocabulary - 2,
            "eos_token_id": sizes.vocabulary - 1,
            "pad_token_id": sizes.vocabulary - 1,
        },
        "vision_config": {
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch,
            "projection_dim": sizes.embedding,
            "hidden_act": "gelu",
        },
    }


def rename(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of an open_clip state dict under transformers' names; unknown names stay as they are, for the message."""
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        if key == "attn_mask":  # the causal mask, which is computed
            continue
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", key)
        if key in _NAMES:
            renamed[_NAMES[key]] = tensor
        elif key in _TRANSPOSED:
            renamed[_TRANSPOSED[key]] = tensor.T.contiguous()
        elif block:
            tower = "vision_model" if block[1] else "text_model"
            renamed.update(_block(f"{tower}.encoder.layers.{block[2]}.", block[3], tensor))
        else:
            renamed[key] = tensor
    return renamed


def _block(prefix: str, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{prefix}self_attn.{part}_proj.{kind}": value.contiguous() for part, value in parts}
    for theirs, ours in _BLOCK:
        if name.startswith(theirs):
            return {prefix + ours + name.removeprefix(theirs): tensor}
    return {prefix + name: tensor}
