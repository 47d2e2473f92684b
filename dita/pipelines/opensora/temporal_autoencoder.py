"""The temporal half of Open-Sora's VAE: causal 3D convolutions that make one latent frame of four frames of 2D latents.

Causal in time: every convolution pads zeros in front only, so that a frame never depends on a later one, and a single
image is a video of one frame.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class CausalConv3d(nn.Conv3d):
    """A cubic convolution, same-padded in space, padded in front in time; `time_stride` 2 halves the frames."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, time_stride: int = 1, bias: bool = True
    ) -> None:
        side = kernel_size // 2
        super().__init__(
            in_channels, out_channels, kernel_size, stride=(time_stride, 1, 1), padding=(0, side, side), bias=bias
        )
        self.front = kernel_size - time_stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (0, 0, 0, 0, self.front, 0)))


class ResnetBlock3D(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))); the shortcut is a 1x1x1 convolution where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, bias=False)
        self.conv_shortcut = (
            CausalConv3d(in_channels, out_channels, kernel_size=1, bias=False)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class TimeUpsampler(nn.Module):
    """A convolution to twice the channels, which become twice the frames: channel 2c + k of frame t goes to 2t + k."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, 2 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).unflatten(1, (-1, 2))  # (B, C, 2, T, H, W)
        return x.transpose(2, 3).flatten(2, 3)


class Level(nn.Module):
    """Residual blocks of one width, then at most one change of the frame rate."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, groups: int, resample: nn.Module | None
    ) -> None:
        super().__init__()
        widths = (in_channels, *(out_channels,) * layers)
        self.resnets = nn.Sequential(*(ResnetBlock3D(a, b, groups) for a, b in pairwise(widths)))
        self.resample = resample or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resample(self.resnets(x))


class TemporalEncoder(nn.Module):
    """2D latents of all frames `(B, channels, T, H, W)`, with T a multiple of 4, to the moments of T / 4 frames."""

    def __init__(
        self,
        channels: int,
        moments: int,
        widths: tuple[int, ...],
        layers: int,
        downsample: tuple[bool, ...],
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(channels, widths[0], bias=False)
        halves = (*downsample, False)  # never after the last level
        self.down_blocks = nn.Sequential(
            *(
                Level(a, b, layers, groups, CausalConv3d(b, b, time_stride=2) if halve else None)
                for (a, b), halve in zip(pairwise((widths[0], *widths)), halves, strict=True)
            )
        )
        self.mid_block = Level(widths[-1], widths[-1], layers, groups, None)
        self.norm_out = nn.GroupNorm(groups, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], moments, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mid_block(self.down_blocks(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class TemporalDecoder(nn.Module):
    """Latents back to 2D latents of four times the frames: the levels of the encoder, widest first."""

    def __init__(
        self,
        latents: int,
        channels: int,
        widths: tuple[int, ...],
        layers: int,
        downsample: tuple[bool, ...],
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(latents, widths[-1])
        self.mid_block = Level(widths[-1], widths[-1], layers, groups, None)
        rising = tuple(reversed(widths))
        doubles = (*reversed(downsample), False)
        self.up_blocks = nn.Sequential(
            *(
                Level(a, b, layers, groups, TimeUpsampler(b) if double else None)
                for (a, b), double in zip(pairwise((rising[0], *rising)), doubles, strict=True)
            )
        )
        self.norm_out = nn.GroupNorm(groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], channels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.up_blocks(self.mid_block(self.conv_in(z)))
        return self.conv_out(F.silu(self.norm_out(x)))


class TemporalAutoencoder(nn.Module):
    """Encodes and decodes one clip of 2D latents; a clip is short (17 frames in Open-Sora 1.2).

    Args:
        channels: of the 2D latents.
        latent_channels: of the result.
        widths: channels of the levels.
        layers: residual blocks of a level.
        downsample: after which levels but the last the frame rate is halved.
        groups: of the group norms, which span the whole clip.
    """

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        widths: tuple[int, ...],
        layers: int,
        downsample: tuple[bool, ...],
        groups: int,
    ) -> None:
        super().__init__()
        if len(downsample) != len(widths) - 1:
            raise ValueError(f"{len(widths)} levels need {len(widths) - 1} values of downsample, got {len(downsample)}")
        self.compression = 2 ** sum(downsample)
        self.encoder = TemporalEncoder(channels, 2 * latent_channels, widths, layers, downsample, groups)
        self.decoder = TemporalDecoder(latent_channels, channels, widths, layers, downsample, groups)
        self.quant_conv = CausalConv3d(2 * latent_channels, 2 * latent_channels, kernel_size=1)
        self.post_quant_conv = CausalConv3d(latent_channels, latent_channels, kernel_size=1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Mean and log-variance in one tensor `(B, 2 * latent_channels, ceil(T / 4), H, W)`; zeros fill up in front."""
        front = -x.shape[2] % self.compression
        return self.quant_conv(self.encoder(F.pad(x, (0, 0, 0, 0, front, 0))))

    def decode(self, z: torch.Tensor, num_frames: int) -> torch.Tensor:
        """The last `num_frames` that the latents hold: those before them come from what `encode` filled up."""
        return self.decoder(self.post_quant_conv(z))[:, :, -num_frames:]
