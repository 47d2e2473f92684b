"""The miniature's autoencoder: its training on drawings, its latents' statistics, its fidelity."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dita.miniature import world
from dita.miniature.judge.pictures import to_tensor
from training import recipe
from training.loop import Schedule, Trainer

DTYPE_ARGUMENT = "torch_dtype" if diffusers.__version__.startswith("0.41.") else "dtype"
"""What diffusers calls the precision to load in."""

MEASURED = 2048
"""Drawings whose latents are measured for their scale and shift."""


def build(seed: int = 0) -> AutoencoderKL:
    """An untrained autoencoder with the recipe's sizes."""
    torch.manual_seed(seed)
    return AutoencoderKL(**recipe.VAE).to(memory_format=torch.channels_last)


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
    """Sets scaling_factor and shift_factor so that scaled latents of MEASURED drawings have mean 0 and deviation 1."""
    latents = encode(vae, world.pictures(MEASURED, seed, recipe.PICTURE)[0])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))


def trainer(run: Path, schedule: Schedule, seed: int, device: str) -> Trainer:
    """The trainer of the autoencoder."""
    vae = build(seed).to(device)
    how = recipe.VaeRecipe()
    return Trainer(vae, lambda random, _: loss(vae, how, random), schedule, run, "vae", seed)


def finished(trainer: Trainer, seed: int) -> AutoencoderKL:
    """The averaged autoencoder with its latents' scale measured, frozen."""
    vae = trainer.module
    assert isinstance(vae, AutoencoderKL)
    vae = copy.deepcopy(vae)
    vae.load_state_dict(trainer.averaged())
    vae.eval().requires_grad_(False)
    measure_scale(vae, seed + 1)
    return vae


def load(place: Path) -> AutoencoderKL:
    """A trained autoencoder in float32, frozen: of a pipeline's folder, or of a run's checkpoint.

    Raises `FileNotFoundError` where `place` holds neither.
    """
    if (place / "vae").is_dir():
        vae = AutoencoderKL.from_pretrained(place / "vae", local_files_only=True, **{DTYPE_ARGUMENT: torch.float32})
        return vae.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    file = place / "vae.pt"
    if not file.is_file():
        raise FileNotFoundError(f"{place} holds neither a pipeline nor a run: it has no folder vae and no vae.pt")
    seed = torch.load(file, map_location="cpu", weights_only=True)["seed"]
    trained = trainer(place, Schedule(1), seed, "cpu")
    trained.take_up()
    return finished(trained, seed)


@torch.no_grad()
def with_shift_inside(vae: AutoencoderKL) -> AutoencoderKL:
    """A copy whose latents have the mean 0 by themselves: for pipelines that know a scale, but no shift of latents.

    The shift becomes the bias of the 1x1 convolutions next to the latents, which are the identity otherwise.
    """
    shift = vae.config.shift_factor
    moved = AutoencoderKL(**{**vae.config, "shift_factor": None, "use_quant_conv": True, "use_post_quant_conv": True})
    moved.load_state_dict(vae.state_dict(), strict=False)
    for conv in (moved.quant_conv, moved.post_quant_conv):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    moved.quant_conv.bias[: vae.config.latent_channels] = -shift  # the means; the log-variances stay
    moved.post_quant_conv.bias.fill_(shift)
    return moved.to(memory_format=torch.channels_last).eval().requires_grad_(False)
