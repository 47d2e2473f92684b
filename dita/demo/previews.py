"""What a picture will be, seen while it is made: the sampler's present guess of the clean latents, decoded cheaply."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from torch import Tensor

from dita.demo.loaded import Loaded

LARGEST = 32  # cells a side that a preview decodes; larger latents are averaged to this


def clean_latents(scheduler: Any, model_output: Tensor, sample: Tensor, result: Any) -> Tensor:
    """The clean latents that the step just taken points at, of `sample`'s shape.

    Multistep solvers have kept them, DDIM and its kin return them, and of a flow they follow from the velocity
    (x_0 = x - sigma v). For any other scheduler: the latents after the step, which are noisy.
    """
    config = scheduler.config
    if str(config.get("algorithm_type", "")).endswith("dpmsolver++") and scheduler.model_outputs[-1] is not None:
        kept: Tensor = scheduler.model_outputs[-1]
        return kept
    found = getattr(result, "pred_original_sample", None)
    if found is not None:
        return torch.as_tensor(found)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and scheduler.step_index:
        sigma = scheduler.sigmas[scheduler.step_index - 1].to(sample.device)
        return sample - sigma * model_output
    moved = result[0] if isinstance(result, tuple) else result.prev_sample
    return torch.as_tensor(moved)


@torch.no_grad()
def decoded(loaded: Loaded, latents: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of the first sample of `latents`; of a video, its first frame."""
    pipe, latents = loaded.pipe, latents[:1]
    if loaded.family == "opensora":
        pixels = pipe.decode_latents(_smaller(latents[:, :, :1]), 1)[:, :, 0]
    else:
        if loaded.family == "flux":
            latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
        config = pipe.vae.config
        latents = _smaller(latents) / config.scaling_factor + (config.get("shift_factor") or 0.0)
        pixels = pipe.vae.decode(latents.to(pipe.vae.dtype), return_dict=False)[0]
    unit = (pixels[0].float() / 2 + 0.5).clamp(0, 1).nan_to_num(0.0)
    picture: NDArray[np.uint8] = (unit * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return picture


def _smaller(latents: Tensor) -> Tensor:
    """Latents (..., H, W) of at most LARGEST cells a side: blocks of them averaged."""
    rows, columns = latents.shape[-2:]
    times = -(-max(rows, columns) // LARGEST)
    if times == 1:
        return latents
    size = (max(1, rows // times), max(1, columns // times))
    flat = latents.float().flatten(0, -4) if latents.ndim > 3 else latents.float()[None]
    small = F.interpolate(flat, size=size, mode="area")
    return small.reshape(*latents.shape[:-2], *size).to(latents.dtype)
