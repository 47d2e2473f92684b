"""A tiny random Open-Sora: every code path, milliseconds a step."""

from __future__ import annotations

import torch
from transformers import T5Config, T5EncoderModel

from dita.miniature.tokenizers import t5_tokenizer
from dita.pipelines.opensora import (
    AutoencoderKLOpenSora,
    OpenSoraPipeline,
    OpenSoraTransformer3DModel,
    flow_scheduler,
)

CAPTION_CHANNELS = 24
SIZES = {"64p": {"1:1": [64, 64], "1:2": [48, 96]}}
"""A size table of its own, so that tests need no 144p."""


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Large weights: blocks that change little would hide a wrong branch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            scale = 1 / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
            if "norm" in name and name.endswith("weight"):
                tensor.add_(1)
    return model.eval().requires_grad_(False)


def tiny_transformer(seed: int = 0, **config) -> OpenSoraTransformer3DModel:
    settings = dict(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        caption_channels=CAPTION_CHANNELS,
        caption_max_length=12,
    )
    torch.manual_seed(seed)
    return randomise(OpenSoraTransformer3DModel(**(settings | config)), seed)


def tiny_autoencoder(seed: int = 0, **config) -> AutoencoderKLOpenSora:
    settings = dict(
        spatial_block_out_channels=(4, 4, 4, 4),
        spatial_layers_per_block=1,
        norm_num_groups=2,
        temporal_block_out_channels=(4, 4, 8, 8),
        temporal_layers_per_block=1,
        temporal_norm_num_groups=2,
    )
    torch.manual_seed(seed)
    return randomise(AutoencoderKLOpenSora(**(settings | config)), seed)


def tiny_text_encoder(seed: int = 0) -> T5EncoderModel:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=2000,
        d_model=CAPTION_CHANNELS,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def tiny_pipeline(seed: int = 0, text: bool = True, sizes=SIZES, **config) -> OpenSoraPipeline:
    pipe = OpenSoraPipeline(
        tokenizer=t5_tokenizer() if text else None,
        text_encoder=tiny_text_encoder(seed) if text else None,
        vae=tiny_autoencoder(seed),
        transformer=tiny_transformer(seed, **config),
        scheduler=flow_scheduler(),
        sizes=sizes,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: OpenSoraPipeline, prompt: str | list[str] = "a red circle", **kwargs):
    """The frames of a short clip; latents unless said otherwise."""
    arguments = dict(
        num_frames=4,
        num_inference_steps=3,
        output_type="latent",
        generator=torch.Generator().manual_seed(7),
        aesthetic_score=None,
    )
    return pipe(prompt, **(arguments | kwargs)).frames
