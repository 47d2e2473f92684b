"""The miniature's autoencoder: its training on drawings, its latents' statistics, its fidelity."""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dita.miniature import recipe, world


def build(seed: int = 0) -> AutoencoderKL:
    """An untrained autoencoder with the recipe's sizes."""
    torch.manual_seed(seed)
    return AutoencoderKL(**recipe.VAE).to(memory_format=torch.channels_last)


def to_tensor(pictures: world.Picture) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def world_seed(random: torch.Generator) -> int:
    """A seed of the world, drawn from a step's random numbers."""
    return int(torch.randint(2**31, (), generator=random))


def crops(pictures: Tensor, side: int, random: torch.Generator) -> Tensor:
    """One window of `side` pixels at a random place of each picture: (N, C, H, W) to (N, C, side, side)."""
    rows, columns = (
        torch.randint(length - side + 1, (len(pictures), 1), generator=random) + torch.arange(side)
        for length in pictures.shape[2:]
    )
    return pictures[torch.arange(len(pictures))[:, None, None], :, rows[:, :, None], columns[:, None]].movedim(-1, 1)


def loss(vae: AutoencoderKL, how: recipe.VaeRecipe, random: torch.Generator) -> Tensor:
    """The loss of one step: windows of half the side from drawings at the native size, and whole small drawings.

    The autoencoder sees a few pixels around each place, so windows teach it as much as whole pictures do.
    """
    half, small = recipe.PICTURE // 2, how.batch // 4
    device = next(vae.parameters()).device
    native = to_tensor(world.pictures(how.batch - small, world_seed(random), recipe.PICTURE)[0])
    tiny = to_tensor(world.pictures(small, world_seed(random), half)[0])
    drawn = torch.cat([crops(native, half, random), tiny]).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        posterior = vae.encode(drawn.contiguous(memory_format=torch.channels_last)).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=random).to(device)
        seen = vae.decode((mean + noise * torch.exp(0.5 * log_variance)).to(drawn.dtype)).sample.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return nn.functional.l1_loss(seen, drawn) + nn.functional.mse_loss(seen, drawn) + how.kl * kl


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: world.Picture, batch: int = 64) -> Tensor:
    """Means of the latents, not yet scaled: (N, 4, H/2, W/2) in float32 on the CPU."""
    device = next(vae.parameters()).device
    parts = []
    for start in range(0, len(pictures), batch):
        part = to_tensor(pictures[start : start + batch]).to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            parts.append(vae.encode(part).latent_dist.mean.float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: world.Picture) -> float:
    """Fidelity of decode(encode(pictures)) in dB, against the range 0 to 255, in float32."""
    drawn = to_tensor(pictures).to(next(vae.parameters()).device)
    seen = vae.decode(vae.encode(drawn).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * math.log10(4 / float((seen - drawn).square().mean()))


def measure_scale(vae: AutoencoderKL, seed: int) -> None:
    """Sets scaling_factor and shift_factor from 2048 drawings, so that scaled latents have mean 0 and deviation 1."""
    latents = encode(vae, world.pictures(2048, seed, recipe.PICTURE)[0])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
