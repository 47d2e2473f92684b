"""How near the seconds of ToCa come to its FLOPs: a random FLUX of 512 width, 4 + 8 layers, 1024 image tokens.

Plain and accelerated runs of the bare transformer are interleaved in one process, warm-up excluded; the figures are
medians over `--repeats`. `efficiency` is the ratio of seconds (plain / accelerated) over the ratio of FLOPs.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from measuring import Inputs, Workload, main

WIDTH, HEADS, DOUBLE, SINGLE = 512, 8, 4, 8
GRID, TEXT_TOKENS = 32, 128


def build(dtype: torch.dtype, device: str) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=512,
        pooled_projection_dim=256,
        guidance_embeds=True,
        axes_dims_rope=(8, 28, 28),
    )
    return model.to(device, dtype).eval().requires_grad_(False)


def inputs(dtype: torch.dtype, device: str) -> Inputs:
    ids = torch.zeros(GRID, GRID, 3)
    ids[..., 1] += torch.arange(GRID)[:, None]
    ids[..., 2] += torch.arange(GRID)[None]
    tensors = {
        "hidden_states": torch.randn(1, GRID * GRID, 64),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, 512),
        "pooled_projections": torch.randn(1, 256),
        "guidance": torch.tensor([3.5]),
    }
    placed = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    placed["img_ids"] = ids.reshape(-1, 3).to(device)
    placed["txt_ids"] = torch.zeros(TEXT_TOKENS, 3, device=device)
    return placed


def predict(model: FluxTransformer2DModel, arguments: Inputs, progress: float) -> torch.Tensor:
    timestep = arguments["hidden_states"].new_full((1,), 1 - progress)
    return model(**arguments, timestep=timestep, return_dict=False)[0]


SIZES = {"width": WIDTH, "layers": [DOUBLE, SINGLE], "image_tokens": GRID * GRID, "text_tokens": TEXT_TOKENS}

if __name__ == "__main__":
    main(Workload(SIZES, build, inputs, predict), __doc__, method="toca:4:0.9", steps=50)
