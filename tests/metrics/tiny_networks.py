"""Tiny random networks in the place of the evaluators' own."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from dita.metrics.features import FeatureNetwork, Identity, module_features
from dita.metrics.images import Preparation


def tiny_features(width: int = 6, seed: int = 0) -> FeatureNetwork:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    preparation = Preparation(16, fit="squash")
    return module_features(module, width, preparation, Identity("tiny", f"{seed:064d}", str(preparation)))


def save_tiny_dino(folder: Path, width: int = 24) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def save_tiny_reward(folder: Path, golden: Path) -> Path:
    from dita.metrics.image_reward import load_image_reward, save_image_reward
    from tests.metrics.test_image_reward import TINY

    source = golden / "metrics" / "imagereward_tiny"
    save_image_reward(load_image_reward(source, sizes=TINY).model, folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder
