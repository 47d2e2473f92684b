"""A tiny random FLUX: enough layers for every code path, milliseconds a step."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

FAMILY = "flux"
TEXT_TOKENS = 6


def tiny_transformer(seed: int = 0, double_layers: int = 2, single_layers: int = 3, **config) -> FluxTransformer2DModel:
    torch.manual_seed(seed)
    settings = dict(
        in_channels=16,
        num_layers=double_layers,
        num_single_layers=single_layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=12,
        guidance_embeds=False,
        axes_dims_rope=(4, 6, 6),
    )
    model = FluxTransformer2DModel(**(settings | config)).eval()
    with torch.no_grad():  # large weights: blocks that change little would hide a wrong branch
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
            if name.endswith(("norm_q.weight", "norm_k.weight", "norm_added_q.weight", "norm_added_k.weight")):
                parameter.add_(1)
    return model.requires_grad_(False)


def tiny_pipeline(seed: int = 0, **config) -> FluxPipeline:
    """A FluxPipeline without text encoders: call it with `prompts(...)`."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    ).eval()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=tiny_transformer(seed, **config),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts(count: int = 1, seed: int = 1, text_tokens: int = TEXT_TOKENS, first: int = 0) -> dict[str, torch.Tensor]:
    """Embeddings of `count` random prompts, from number `first` on, as call arguments."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(8, text_tokens, 24, generator=generator)[first : first + count]
    pooled = torch.randn(8, 12, generator=generator)[first : first + count]
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def call(pipe, count: int = 1, first: int = 0, steps: int = 8, size: int = 32, **kwargs) -> torch.Tensor:
    """The final latents for `count` prompts; each prompt has a noise of its own."""
    height, width = kwargs.pop("height", size), kwargs.pop("width", size)
    arguments = dict(
        prompts(count, first=first),
        height=height,
        width=width,
        num_inference_steps=steps,
        output_type="latent",
        generator=[torch.Generator().manual_seed(100 + first + i) for i in range(count)],
    )
    return pipe(**(arguments | kwargs)).images


def transformer_inputs(batch: int = 1, grid: tuple[int, int] = (8, 8), seed: int = 3) -> dict[str, torch.Tensor]:
    """Arguments of one call of the bare transformer, but the timestep."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(*grid, 3)
    ids[..., 1] += torch.arange(grid[0])[:, None]
    ids[..., 2] += torch.arange(grid[1])[None]
    return {
        "hidden_states": torch.randn(batch, grid[0] * grid[1], 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, 24, generator=generator),
        "pooled_projections": torch.randn(batch, 12, generator=generator),
        "img_ids": ids.reshape(-1, 3),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
    }


def forward(model, inputs: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
    """The transformer's prediction, of the latents' shape, at `progress` in [0, 1) of the run."""
    timestep = torch.full((len(inputs["hidden_states"]),), 1 - progress)
    return model(**inputs, timestep=timestep, return_dict=False)[0]


def blocks(model) -> list[torch.nn.Module]:
    return [*model.transformer_blocks, *model.single_transformer_blocks]
