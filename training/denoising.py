"""The training of the miniatures that predict the noise of a diffusion: PixArt and DiT, on stored latents."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from training import recipe
from training.attention import PlainAttention
from training.layout import Reader
from training.noise import NoiseSchedule, noise_levels
from training.pools import Pool


class Denoiser(nn.Module):
    """A transformer and what it needs to hear its captions; the head that reads the layout only trains."""

    transformer: Any
    reader: Reader

    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks: the layout is read after the middle one."""
        raise NotImplementedError

    def predict(self, x: Tensor, steps: Tensor, said: dict[str, Tensor], dropped: Tensor) -> Tensor:
        """The noise in x (N, 4, h, w) at `steps` (N,), and what else the transformer hands out after it.

        `said` is what the pool says of each sample; where `dropped` (N,) is true the model hears nothing of it.
        """
        raise NotImplementedError


class NoiseLoss:
    """Weighted mean squared error of eps at x = signal latents + noise eps, and of the layout.

    The second half of the transformers' channels, a variance in the published models, is neither trained nor used: the
    pipelines cut it off.
    """

    def __init__(self, model: Denoiser, pools: dict[int, Pool], how: recipe.NoiseRecipe) -> None:
        self.model, self.pools, self.how = model, pools, how
        self.schedule = NoiseSchedule()

    def __call__(self, random: torch.Generator, progress: float) -> Tensor:
        device = next(self.model.parameters()).device
        phase = self.how.phase(progress)
        data = self.pools[phase.side]
        rows = torch.randint(len(data.latents), (phase.batch,), generator=random)
        latents = data.latents[rows].float()
        noise = torch.randn(latents.shape, generator=random)
        steps = self.schedule.steps(noise_levels(phase.batch, self.how, random))
        dropped = torch.rand(phase.batch, generator=random) < self.how.drop_caption
        signal, sigma = (part[steps, None, None, None] for part in (self.schedule.signal, self.schedule.noise))

        x = (signal * latents + sigma * noise).to(device)
        said = {name: values[rows].long().to(device) for name, values in data.said.items()}
        weights = self.schedule.weights(steps, self.how.most_weight).to(device)
        attention = PlainAttention() if device.type == "cpu" else nullcontext()
        blocks = self.model.blocks()
        seen: list[Tensor] = []
        watch = blocks[(len(blocks) - 1) // 2].register_forward_hook(lambda _, __, out: seen.append(out))
        with torch.autocast(device.type, torch.bfloat16), attention, watch:
            predicted = self.model.predict(x, steps.to(device), said, dropped.to(device))[:, : latents.shape[1]]
            missed = (predicted.float() - noise.to(device)).square().mean(dim=(1, 2, 3))
            layout = self.model.reader.loss(seen[0], data.layout[rows].to(device))
        return (weights * missed).mean() + self.how.layout_weight * layout
