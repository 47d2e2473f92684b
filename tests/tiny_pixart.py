"""A tiny random PixArt: enough layers for every code path, milliseconds a step."""

from __future__ import annotations

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

from tests.tiny_vae import tiny_vae

FAMILY = "pixart"
TEXT_TOKENS = 6
LENGTHS = (4, 6, 5, 3, 6, 4, 5, 6)  # of the prompts, in tokens; the rest is padding


def tiny_transformer(seed: int = 0, layers: int = 3, **config) -> PixArtTransformer2DModel:
    torch.manual_seed(seed)
    settings = dict(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=layers,
        cross_attention_dim=24,
        caption_channels=20,
        sample_size=16,
        interpolation_scale=1,
    )
    model = PixArtTransformer2DModel(**(settings | config)).eval()
    with torch.no_grad():  # large weights: blocks that change little would hide a wrong branch
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
            if "attn2.to_q" in name:  # but attention to one word alone would give all tokens the same entropy
                parameter.mul_(0.01)
    return model.requires_grad_(False)


def tiny_pipeline(seed: int = 0, pipeline=PixArtAlphaPipeline, **config) -> PixArtAlphaPipeline:
    """A pipeline without text encoder: call it with `prompts(...)`."""
    pipe = pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=tiny_vae(seed),
        transformer=tiny_transformer(seed, **config),
        scheduler=DPMSolverMultistepScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts(count: int = 1, seed: int = 1, text_tokens: int = TEXT_TOKENS, first: int = 0) -> dict[str, torch.Tensor]:
    """Embeddings and masks of `count` random prompts, from number `first` on, as call arguments."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(8, text_tokens, 20, generator=generator)[first : first + count]
    lengths = torch.tensor(LENGTHS)[first : first + count, None]
    return {
        "prompt_embeds": embeds,
        "prompt_attention_mask": (torch.arange(text_tokens) < lengths).long(),
        "negative_prompt_embeds": torch.randn(1, text_tokens, 20, generator=generator).expand(count, -1, -1),
        "negative_prompt_attention_mask": (torch.arange(text_tokens) < 1).long().expand(count, -1),
    }


def call(pipe, count: int = 1, first: int = 0, steps: int = 8, size: int = 32, **kwargs) -> torch.Tensor:
    """The final latents for `count` prompts; each prompt has a noise of its own."""
    height, width = kwargs.pop("height", size), kwargs.pop("width", size)
    arguments = dict(
        prompts(count, first=first),
        negative_prompt=None,
        height=height,
        width=width,
        num_inference_steps=steps,
        output_type="latent",
        use_resolution_binning=False,
        generator=[torch.Generator().manual_seed(100 + first + i) for i in range(count)],
    )
    return pipe(**(arguments | kwargs)).images


def transformer_inputs(batch: int = 1, grid: tuple[int, int] = (8, 8), seed: int = 3) -> dict[str, torch.Tensor]:
    """Arguments of one call of the bare transformer, but the timestep."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, 4, 2 * grid[0], 2 * grid[1], generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, 20, generator=generator),
        "encoder_attention_mask": (torch.arange(TEXT_TOKENS) < torch.tensor(LENGTHS)[:batch, None]).long(),
    }


def forward(model, inputs: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
    """The transformer's prediction, of the latents' shape, at `progress` in [0, 1) of the run."""
    timestep = torch.full((len(inputs["hidden_states"]),), 999.0 * (1 - progress))
    return model(**inputs, timestep=timestep, return_dict=False)[0][:, :4]


def blocks(model) -> list[torch.nn.Module]:
    return list(model.transformer_blocks)
