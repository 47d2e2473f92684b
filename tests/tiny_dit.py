"""A tiny random DiT: enough layers for every code path, milliseconds a step."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from tests.tiny_vae import tiny_vae

FAMILY = "dit"


def tiny_transformer(seed: int = 0, layers: int = 3, **config) -> DiTTransformer2DModel:
    torch.manual_seed(seed)
    settings = dict(num_attention_heads=2, attention_head_dim=12, num_layers=layers, sample_size=16, out_channels=8)
    model = DiTTransformer2DModel(**(settings | config)).eval()
    with torch.no_grad():  # large weights: blocks that change little would hide a wrong branch
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
    return model.requires_grad_(False)


def tiny_pipeline(seed: int = 0, pipeline=DiTPipeline, **config) -> DiTPipeline:
    pipe = pipeline(
        vae=tiny_vae(seed), transformer=tiny_transformer(seed, **config), scheduler=DDIMScheduler(clip_sample=False)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe, count: int = 1, first: int = 0, steps: int = 8, **kwargs) -> torch.Tensor:
    """The pictures for `count` classes; each has a noise of its own. (The pipeline does not hand out latents.)"""
    arguments = dict(
        class_labels=list(range(first, first + count)),
        num_inference_steps=steps,
        output_type="pt",
        generator=[torch.Generator().manual_seed(100 + first + i) for i in range(count)],
    )
    return pipe(**(arguments | kwargs)).images


def transformer_inputs(batch: int = 1, grid: tuple[int, int] = (8, 8), seed: int = 3) -> dict[str, torch.Tensor]:
    """Arguments of one call of the bare transformer, but the timestep. DiT has one size: the grid must be 8x8."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, 4, 2 * grid[0], 2 * grid[1], generator=generator),
        "class_labels": torch.arange(batch),
    }


def forward(model, inputs: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
    """The transformer's prediction, of the latents' shape, at `progress` in [0, 1) of the run."""
    timestep = torch.full((len(inputs["hidden_states"]),), int(999 * (1 - progress)))
    return model(**inputs, timestep=timestep, return_dict=False)[0][:, :4]


def blocks(model) -> list[torch.nn.Module]:
    return list(model.transformer_blocks)
