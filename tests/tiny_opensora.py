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

FAMILY = "opensora"
FRAMES = 2  # latent frames of `call` and `transformer_inputs`
TEXT_TOKENS = 6
LENGTHS = (4, 6, 2, 5, 3, 6, 1, 4)  # of the prompts of `prompts`, in tokens; the rest is padding
CAPTION_CHANNELS = 24
SIZES = {"64p": {"1:1": [64, 64], "1:2": [48, 96]}, "32p": {"1:1": [32, 32], "1:3": [16, 48]}}
"""A size table of its own, so that tests need no 144p."""
SETTINGS = {"sizes": SIZES}  # of a pipeline beside its components


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


def tiny_text_encoder(seed: int = 0, width: int = CAPTION_CHANNELS) -> T5EncoderModel:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=2000,
        d_model=width,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def tiny_pipeline(
    seed: int = 0, text: bool = True, sizes=SIZES, pipeline=OpenSoraPipeline, **config
) -> OpenSoraPipeline:
    pipe = pipeline(
        tokenizer=t5_tokenizer() if text else None,
        text_encoder=tiny_text_encoder(seed) if text else None,
        vae=tiny_autoencoder(seed),
        transformer=tiny_transformer(seed, **config),
        scheduler=flow_scheduler(),
        sizes=sizes,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip(pipe: OpenSoraPipeline, prompt: str | list[str] = "a red circle", **kwargs):
    """The frames of a short clip; latents unless said otherwise."""
    arguments = dict(
        num_frames=4,
        num_inference_steps=3,
        output_type="latent",
        generator=torch.Generator().manual_seed(7),
        aesthetic_score=None,
    )
    return pipe(prompt, **(arguments | kwargs)).frames


# what the contracts of all families (tests/caching) call


def prompts(count: int = 1, seed: int = 1, first: int = 0) -> dict[str, torch.Tensor]:
    """Embeddings and masks of `count` random prompts, from number `first` on, as call arguments."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LENGTHS)[first : first + count, None]
    return {
        "prompt_embeds": torch.randn(8, TEXT_TOKENS, CAPTION_CHANNELS, generator=generator)[first : first + count],
        "prompt_attention_mask": (torch.arange(TEXT_TOKENS) < lengths).long(),
    }


def call(pipe, count: int = 1, first: int = 0, steps: int = 8, size: int = 32, **kwargs) -> torch.Tensor:
    """The final latents for `count` prompts; each prompt has a noise of its own."""
    height, width = kwargs.pop("height", size), kwargs.pop("width", size)
    arguments = dict(
        prompts(count, first=first),
        height=height,
        width=width,
        num_frames=4 * FRAMES,
        num_inference_steps=steps,
        output_type="latent",
        generator=[torch.Generator().manual_seed(100 + first + i) for i in range(count)],
    )
    return pipe(**(arguments | kwargs)).frames


def transformer_inputs(batch: int = 1, grid: tuple[int, int] = (5, 7), seed: int = 3) -> dict[str, torch.Tensor]:
    """Arguments of one call of the bare transformer, but the timestep; `grid` in patches."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, 4, FRAMES, 2 * grid[0], 2 * grid[1], generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, CAPTION_CHANNELS, generator=generator),
        "encoder_attention_mask": (torch.arange(TEXT_TOKENS) < torch.tensor(LENGTHS)[:batch, None]).long(),
    }


def forward(model, inputs: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
    """The transformer's prediction, of the latents' shape, at `progress` in [0, 1) of the run."""
    timestep = torch.full((len(inputs["hidden_states"]),), 1000.0 * (1 - progress))
    return model(**inputs, timestep=timestep, return_dict=False)[0][:, :4]


def blocks(model) -> list[torch.nn.Module]:
    return [block for pair in zip(model.spatial_blocks, model.temporal_blocks, strict=True) for block in pair]
