"""A tiny random autoencoder: 2 pixels a latent cell, 4 channels."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL


def tiny_vae(seed: int = 0, **config) -> AutoencoderKL:
    torch.manual_seed(seed)
    settings = dict(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    return AutoencoderKL(**(settings | config)).eval()
