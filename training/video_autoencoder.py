"""The miniature's video autoencoder: the 2D one of the pictures, and a temporal one that learns on its latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from dita.miniature import world
from dita.miniature.judge.pictures import to_tensor
from dita.pipelines.opensora import AutoencoderKLOpenSora
from training import autoencoder, recipe
from training.autoencoder import crops
from training.loop import Schedule, Trainer, write_whole

MEASURED = 512
"""Clips whose latents are measured for their means and deviations."""


def build(pictures: AutoencoderKL, seed: int = 0) -> AutoencoderKLOpenSora:
    """An untrained temporal part around the 2D autoencoder `pictures`, whose shift is inside (`with_shift_inside`).

    Open-Sora's 2D part has attention in its middle, which adds nothing here: its output is zero.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLOpenSora(**recipe.VIDEO_VAE, spatial_scaling_factor=pictures.config.scaling_factor)
    missing, unexpected = vae.spatial_vae.load_state_dict(pictures.state_dict(), strict=False)
    if unexpected or not all(".mid_block.attentions." in name for name in missing):
        raise ValueError(f"the 2D autoencoder does not fit the recipe: {[*missing, *unexpected][:3]}")
    for half in (vae.spatial_vae.encoder, vae.spatial_vae.decoder):
        for attention in half.mid_block.attentions:
            nn.init.zeros_(attention.to_out[0].weight)
            nn.init.zeros_(attention.to_out[0].bias)
    return vae


def sample_clips(count: int, seed: int, split: str = "train") -> list[world.Clip]:
    """`count` random clips, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [world.sample_clip(rng, split) for _ in range(count)]


@torch.no_grad()
def frame_latents(vae: AutoencoderKLOpenSora, clips: list[world.Clip]) -> Tensor:
    """Scaled 2D latents of all frames: (N, 4, T, h, w) in float16."""
    scenes = [scene for clip in clips for scene in world.clip_scenes(clip, recipe.FRAMES)]
    latents = autoencoder.encode(vae.spatial_vae, world.draw_all(scenes, recipe.PICTURE))
    latents = (latents * vae.config.spatial_scaling_factor).half()
    return latents.unflatten(0, (len(clips), recipe.FRAMES)).transpose(1, 2).contiguous()


def frames_pool(vae: AutoencoderKLOpenSora, count: int, seed: int, file: Path) -> Tensor:
    """`frame_latents` of `count` clips, computed once and kept in `file`."""
    if not file.exists():
        clips = sample_clips(count, seed)
        parts = [frame_latents(vae, clips[start : start + 64]) for start in range(0, count, 64)]
        write_whole(file, lambda part: torch.save(torch.cat(parts), part))
    return torch.load(file, weights_only=True)


def loss(vae: AutoencoderKLOpenSora, pool: Tensor, how: recipe.VideoVaeRecipe, random: torch.Generator) -> Tensor:
    """L1 + L2 of the 2D latents and a faint pull of the temporal ones to a unit Gaussian, on windows of clips."""
    device = next(vae.parameters()).device
    rows = torch.randint(len(pool), (how.batch,), generator=random)
    clips = pool[rows].float()
    windows = crops(clips.flatten(1, 2), min(how.window, clips.shape[-1]), random).unflatten(1, clips.shape[1:3])
    windows = windows.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        moments = vae.temporal_vae.encode(windows).float()
        posterior = DiagonalGaussianDistribution(moments)
        noise = torch.randn(posterior.mean.shape, generator=random).to(device)
        seen = vae.temporal_vae.decode(posterior.mean + posterior.std * noise, windows.shape[2]).float()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return nn.functional.l1_loss(seen, windows) + nn.functional.mse_loss(seen, windows) + how.kl * kl


def trainer(vae: AutoencoderKLOpenSora, pool: Tensor, schedule: Schedule, run: Path, seed: int) -> Trainer:
    """The trainer of the temporal part."""
    how = recipe.VideoVaeRecipe()
    return Trainer(vae.temporal_vae, lambda random, _: loss(vae, pool, how, random), schedule, run, "temporal", seed)


def finish(vae: AutoencoderKLOpenSora, trained: Trainer, pool: Tensor) -> None:
    """Gives `vae` the averaged weights and its latents' statistics, and freezes it."""
    vae.temporal_vae.load_state_dict(trained.averaged())
    vae.eval().requires_grad_(False)
    measure(vae, pool[:MEASURED])


@torch.no_grad()
def temporal_latents(vae: AutoencoderKLOpenSora, frames: Tensor, batch: int = 16) -> Tensor:
    """Means of the temporal latents of 2D latents (N, 4, T, h, w), not yet normalised: (N, 4, T / 4, h, w)."""
    device = next(vae.parameters()).device
    parts = []
    for part in frames.split(batch):
        with torch.autocast(device.type, torch.bfloat16):
            moments = vae.temporal_vae.encode(part.float().to(device))
        parts.append(moments.float().chunk(2, dim=1)[0].cpu())
    return torch.cat(parts)


def measure(vae: AutoencoderKLOpenSora, frames: Tensor) -> None:
    """Sets latents_mean and latents_std of each channel, from 2D latents of clips."""
    latents = temporal_latents(vae, frames)
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def normalised(vae: AutoencoderKLOpenSora, latents: Tensor) -> Tensor:
    """Latents as the pipeline's transformer sees them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) / std


@torch.no_grad()
def psnr(vae: AutoencoderKLOpenSora, clips: list[world.Clip]) -> float:
    """Fidelity of decode(encode(clips)) in dB, against the range 0 to 255."""
    drawn = np.stack([world.draw_clip(clip, recipe.FRAMES, recipe.PICTURE) for clip in clips])
    video = to_tensor(drawn.reshape(-1, *drawn.shape[2:]))
    video = video.unflatten(0, (len(clips), recipe.FRAMES)).transpose(1, 2).to(next(vae.parameters()).device)
    seen = vae(video).sample.clamp(-1, 1)
    return 10 * float(torch.log10(4 / (seen - video).square().mean()))
