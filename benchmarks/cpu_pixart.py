"""How near the seconds of ToCa come to its FLOPs: a random PixArt of XL/2 width, cut to 8 layers, 1024 image tokens.

The batch of 2 is one picture under guidance, without and with its prompt of 120 tokens. Plain and accelerated runs of
the bare transformer are interleaved in one process, warm-up excluded; the figures are medians over `--repeats`.
`efficiency` is the ratio of seconds (plain / accelerated) over the ratio of FLOPs.
"""

from __future__ import annotations

import torch
from diffusers import PixArtTransformer2DModel
from measuring import Inputs, Workload, main

WIDTH, HEADS, LAYERS = 1152, 16, 8
GRID, TEXT_TOKENS = 32, 120
PROMPT_TOKENS = (1, 20)  # without and with the prompt; the rest is padding, computed but masked


def build(dtype: torch.dtype, device: str) -> PixArtTransformer2DModel:
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        num_layers=LAYERS,
        cross_attention_dim=WIDTH,
        caption_channels=4096,
        sample_size=2 * GRID,
    )
    return model.to(device, dtype).eval().requires_grad_(False)


def inputs(dtype: torch.dtype, device: str) -> Inputs:
    mask = torch.arange(TEXT_TOKENS) < torch.tensor(PROMPT_TOKENS)[:, None]
    return {
        "hidden_states": torch.randn(1, 4, 2 * GRID, 2 * GRID).repeat(2, 1, 1, 1).to(device, dtype),
        "encoder_hidden_states": torch.randn(2, TEXT_TOKENS, 4096).to(device, dtype),
        "encoder_attention_mask": mask.to(device, dtype),
    }


def predict(model: PixArtTransformer2DModel, arguments: Inputs, progress: float) -> torch.Tensor:
    timestep = torch.full((2,), int(999 * (1 - progress)), device=arguments["hidden_states"].device)
    noise = model(**arguments, timestep=timestep, return_dict=False)[0][:, :4]
    negative, positive = noise.chunk(2)
    return (negative + 4.5 * (positive - negative)).repeat(2, 1, 1, 1)


SIZES = {"width": WIDTH, "layers": LAYERS, "image_tokens": GRID * GRID, "text_tokens": TEXT_TOKENS, "batch": 2}

if __name__ == "__main__":
    main(Workload(SIZES, build, inputs, predict), __doc__, method="toca:3:0.7", steps=20)
