"""The video autoencoder of Open-Sora 1.2: a 2D VAE on each frame, then a causal temporal VAE on the 2D latents."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook

from dita.pipelines.opensora.temporal_autoencoder import TemporalAutoencoder

CHUNK_FRAMES = 17
"""Frames of a clip that is encoded at once, as in training: five latent frames."""


class ChunkedGaussianDistribution:
    """The posterior of a video as its clips give it: one diagonal Gaussian a clip, joined along time."""

    def __init__(self, chunks: list[DiagonalGaussianDistribution]) -> None:
        self.chunks = chunks

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """A sample `(B, C, T, H, W)`; the noise is drawn clip after clip."""
        return torch.cat([chunk.sample(generator) for chunk in self.chunks], dim=2)

    def mode(self) -> torch.Tensor:
        """The mean `(B, C, T, H, W)`."""
        return torch.cat([chunk.mode() for chunk in self.chunks], dim=2)


class AutoencoderKLOpenSora(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Videos `(B, 3, T, H, W)` in [-1, 1] to latents of H / 8, W / 8, and 5 frames for every 17, and back.

    Clips of 17 frames go through the temporal part alone, and `frame_batch_size` frames at a time through the 2D part,
    so that memory does not grow with the length of a video; `enable_tiling` bounds it in the size of a frame, too.
    Latents are raw: the pipeline subtracts `config.latents_mean` and divides by `config.latents_std`.
    The defaults are those of `hpcai-tech/OpenSora-VAE-v1.2`.

    Args:
        in_channels, out_channels: of a frame.
        latent_channels: of the 2D latents and of the result.
        spatial_block_out_channels, spatial_layers_per_block, norm_num_groups: of the 2D VAE, diffusers' AutoencoderKL.
        spatial_scaling_factor: of the 2D latents; Open-Sora keeps 0.18215 though SDXL's autoencoder uses 0.13025.
        temporal_block_out_channels, temporal_layers_per_block, temporal_norm_num_groups: of the temporal VAE.
        temporal_downsample: after which levels, but the last, it halves the frames.
        chunk_frames: frames of a clip.
        latents_mean, latents_std: of every latent channel.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 4,
        spatial_block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        spatial_layers_per_block: int = 2,
        norm_num_groups: int = 32,
        spatial_scaling_factor: float = 0.18215,
        temporal_block_out_channels: tuple[int, ...] = (128, 256, 256, 512),
        temporal_layers_per_block: int = 4,
        temporal_norm_num_groups: int = 32,
        temporal_downsample: tuple[bool, ...] = (False, True, True),
        chunk_frames: int = CHUNK_FRAMES,
        latents_mean: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98),
        latents_std: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06),
    ) -> None:
        super().__init__()
        for name, values in (("latents_mean", latents_mean), ("latents_std", latents_std)):
            if len(values) != latent_channels:
                raise ValueError(f"{name} must have {latent_channels} values, one a latent channel, got {len(values)}")
        levels = len(spatial_block_out_channels)
        self.spatial_vae = AutoencoderKL(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(spatial_block_out_channels),
            layers_per_block=spatial_layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            scaling_factor=spatial_scaling_factor,
            force_upcast=False,
        )
        self.temporal_vae = TemporalAutoencoder(
            latent_channels,
            latent_channels,
            tuple(temporal_block_out_channels),
            temporal_layers_per_block,
            tuple(temporal_downsample),
            temporal_norm_num_groups,
        )
        self.spatial_compression_ratio = 2 ** (levels - 1)
        self.temporal_compression_ratio = self.temporal_vae.compression
        self.frame_batch_size = 4  # of the reference; fewer take less memory

    def enable_tiling(self, **settings: Any) -> None:
        """Frames larger than a tile (512 pixels) go through the 2D part in overlapping tiles, as in AutoencoderKL."""
        self.spatial_vae.enable_tiling(**settings)

    def disable_tiling(self) -> None:
        """Whole frames again."""
        self.spatial_vae.disable_tiling()

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video of `num_frames`: 5 for every full clip of 17, one for every 4 begun after that."""
        return sum(math.ceil(frames / self.temporal_compression_ratio) for frames in self._clips(num_frames))

    def sample_frames(self, latent_frames: int) -> int:
        """The most frames that `latent_frames` hold: 17 for every 5, and 4 for each one after that."""
        clip_latents = math.ceil(self.config.chunk_frames / self.temporal_compression_ratio)
        full, rest = divmod(latent_frames, clip_latents)
        return full * self.config.chunk_frames + rest * self.temporal_compression_ratio

    def _clips(self, num_frames: int) -> list[int]:
        full, rest = divmod(num_frames, self.config.chunk_frames)
        return [self.config.chunk_frames] * full + [rest] * bool(rest)

    @apply_forward_hook
    def encode(
        self,
        x: torch.Tensor,
        generator: torch.Generator | None = None,
        sample_frames: bool = True,
        return_dict: bool = True,
    ) -> AutoencoderKLOutput | tuple[ChunkedGaussianDistribution]:
        """The posterior of videos `(B, 3, T, H, W)` in [-1, 1].

        The 2D latents of the frames are samples of their own posteriors, drawn here with `generator` as the official
        pipeline draws them; `sample_frames=False` takes their means, for a deterministic result.
        """
        by_frame = []
        for frames in x.transpose(1, 2).flatten(0, 1).split(self.frame_batch_size):
            posterior = self.spatial_vae.encode(frames).latent_dist
            by_frame.append(posterior.sample(generator) if sample_frames else posterior.mode())
        latents = torch.cat(by_frame) * self.config.spatial_scaling_factor
        latents = latents.unflatten(0, (x.shape[0], -1)).transpose(1, 2)  # (B, C, T, h, w)
        posterior = ChunkedGaussianDistribution(
            [
                DiagonalGaussianDistribution(self.temporal_vae.encode(clip))
                for clip in latents.split(self.config.chunk_frames, dim=2)
            ]
        )
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(
        self, z: torch.Tensor, num_frames: int | None = None, return_dict: bool = True
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Videos `(B, 3, num_frames, H, W)` of latents `(B, C, T, h, w)`.

        `num_frames` must be given where the last clip is not a full one: latents do not tell whether they came from 13
        or from 16 frames. By default it is the largest that fits.
        Raises `ValueError` where it does not fit the latents.
        """
        if num_frames is None:
            num_frames = self.sample_frames(z.shape[2])
        if self.latent_frames(num_frames) != z.shape[2]:
            raise ValueError(
                f"{num_frames} frames have {self.latent_frames(num_frames)} latent frames, but the latents have"
                f" {z.shape[2]}; the most that these hold is {self.sample_frames(z.shape[2])} frames"
            )
        clip_latents = math.ceil(self.config.chunk_frames / self.temporal_compression_ratio)
        clips = zip(z.split(clip_latents, dim=2), self._clips(num_frames), strict=True)
        latents = torch.cat([self.temporal_vae.decode(clip, frames) for clip, frames in clips], dim=2)
        frames = latents.transpose(1, 2).flatten(0, 1) / self.config.spatial_scaling_factor
        decoded = [self.spatial_vae.decode(batch).sample for batch in frames.split(self.frame_batch_size)]
        video = torch.cat(decoded).unflatten(0, (z.shape[0], -1)).transpose(1, 2)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Videos encoded and decoded again; with posterior means, unless `sample_posterior`."""
        posterior = self.encode(sample, generator, sample_frames=sample_posterior).latent_dist
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(latents, sample.shape[2], return_dict=return_dict)
