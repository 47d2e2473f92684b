"""Noise of the trainings: how much, and the schedule of the models that predict it (PixArt, DiT)."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from training import recipe


def noise_levels(count: int, how: recipe.LatentRecipe, random: torch.Generator) -> Tensor:
    """Noise levels s in (0, 1): logit-normal, uniform in a share of the cases."""
    s = torch.sigmoid(how.noise_mean + how.noise_std * torch.randn(count, generator=random))
    plain = torch.rand(count, generator=random)
    return torch.where(torch.rand(count, generator=random) < how.noise_uniform, plain, s)


class NoiseSchedule:
    """The steps t of a diffusion x = signal[t] latents + noise[t] eps (Ho et al., arXiv 2006.11239).

    `level` is noise / (signal + noise) of each step, rising: the noise level s at which flow matching sees the same x,
    but for a factor.
    """

    def __init__(self) -> None:
        kept = DDPMScheduler(**recipe.NOISE_SCHEDULE).alphas_cumprod
        self.signal, self.noise = kept.sqrt(), (1 - kept).sqrt()
        self.level = self.noise / (self.signal + self.noise)

    def steps(self, levels: Tensor) -> Tensor:
        """For each noise level the first step that has it, or the last step: int64."""
        return torch.searchsorted(self.level, levels).clamp(max=len(self.level) - 1)

    def weights(self, steps: Tensor, most: float) -> Tensor:
        """What an error of eps counts at each step: as much as it moves the velocity eps - latents of flow matching.

        That is 1 / (1 - s)^2, at most `most`. With equal weights the steps of much noise, where eps is nearly all of x
        and the layout of the picture is decided, would hardly teach anything.
        """
        return ((1 - self.level[steps]) ** -2).clamp(max=most)
