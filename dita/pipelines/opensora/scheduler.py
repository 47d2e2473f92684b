"""Rectified flow as Open-Sora 1.2 samples it, on diffusers' flow-match Euler scheduler.

x_t = (1 - s) data + s noise with s = t / 1000; the network predicts data - noise, so the scheduler's model output is
its negative. The times are moved towards noise the more the larger and longer a video is.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

TRAIN_TIMESTEPS = 1000
BASE_PIXELS = 512 * 512


def flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of Open-Sora 1.2: Euler steps, times shifted linearly by the `mu` that each run gives."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS, use_dynamic_shifting=True, time_shift_type="linear"
    )


def set_timesteps(
    scheduler: FlowMatchEulerDiscreteScheduler,
    steps: int,
    shift: float,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Sets and returns `steps` times, from 1000 on: s = 1, 1 - 1/N, ... each moved to r s / (1 + (r - 1) s)."""
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=shift, device=device)
    scheduler.set_begin_index(0)
    return scheduler.timesteps


def time_shift(height: int, width: int, num_frames: int, dtype: torch.dtype = torch.float32) -> float:
    """r = sqrt(height width / 512^2) sqrt(F) with nominal pixels, F = 1 for an image, else the latent frames.

    `dtype` is that of the official inference's size arguments, the model's: 854 is 856 in bfloat16, and the times
    were rounded that way in training. For fewer than 17 frames the official F is 0, and its times are not numbers;
    here F counts the latent frames of such a clip, too.
    """
    latent_frames = 1 if num_frames == 1 else num_frames // 17 * 5 or -(-num_frames // 4)
    pixels = torch.tensor(float(height)).to(dtype) * torch.tensor(float(width)).to(dtype)
    ratio = (pixels / BASE_PIXELS).sqrt() * torch.tensor(float(latent_frames)).to(dtype).sqrt()
    return ratio.item()


def active_frames(mask: torch.Tensor, timestep: float) -> torch.Tensor:
    """Which frames of a mask in [0, 1] are denoised at `timestep`: bool, of the same shape.

    A frame of 1 always is, though the first time can come out as 1000.0001.
    """
    return (mask >= 1) | (mask * TRAIN_TIMESTEPS >= timestep)


def add_noise(data: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """(1 - s) data + s noise with s = timestep / 1000; `timestep` is one number, or one a sample."""
    s = (timestep.float() / TRAIN_TIMESTEPS).to(data.device)
    s = s.reshape(-1, *(1,) * (data.ndim - 1))
    return ((1 - s) * data + s * noise).to(data.dtype)
