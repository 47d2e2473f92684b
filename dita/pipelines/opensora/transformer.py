"""STDiT3, the diffusion transformer of Open-Sora 1.2, as a diffusers model (Apache-2.0 weights: hpcai-tech)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import AttentionMixin, FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, get_timestep_embedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from dita.pipelines.opensora.attention import OpenSoraAttention, Rotary
from dita.pipelines.opensora.embeddings import frame_rotary, patch_positions

SINUSOID = 256
"""Width of the sinusoids of timestep and frame rate."""


class OpenSoraTransformerBlock(nn.Module):
    """One block: self-attention over a frame (spatial) or over time (temporal), attention to the text, MLP.

    Self-attention and MLP are modulated and gated (adaLN-single with a table of its own); cross-attention is neither.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, mlp_ratio: float, qk_norm: str | None, temporal: bool
    ) -> None:
        super().__init__()
        self.temporal = temporal
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attn1 = OpenSoraAttention(dim, heads, head_dim, qk_norm=qk_norm)
        self.attn2 = OpenSoraAttention(dim, heads, head_dim, is_cross_attention=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.ff = FeedForward(dim, mult=mlp_ratio, activation_fn="gelu-approximate")

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        modulation: torch.Tensor,
        num_frames: int,
        encoder_attention_mask: torch.Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> torch.Tensor:
        """`(B, T * S, C)` from `(B, T * S, C)`, tokens frame by frame.

        `modulation` is `(B, 1, 6, C)`, or `(B, T, 6, C)` where frames differ in their timestep.
        """
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.modulations(modulation)
        x = hidden_states.unflatten(1, (num_frames, -1))  # (B, T, S, C)
        sequences = self.fold(modulate(self.norm1(x), shift_attn, scale_attn))
        x = x + gate_attn * self.unfold(self.attn1(sequences, rotary=rotary), len(x))
        hidden_states = x.flatten(1, 2)
        hidden_states = hidden_states + self.attn2(hidden_states, encoder_hidden_states, encoder_attention_mask)
        x = hidden_states.unflatten(1, (num_frames, -1))
        mlp_in = modulate(self.norm2(x), shift_mlp, scale_mlp).flatten(1, 2)
        x = x + gate_mlp * self.ff(mlp_in).unflatten(1, (num_frames, -1))
        return x.flatten(1, 2)

    def modulations(self, modulation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Shift, scale and gate of the self-attention, then of the MLP, each `(B, 1 or T, 1, C)`."""
        return (self.scale_shift_table + modulation)[..., None, :].unbind(2)

    def fold(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, T, S, C)` as the sequences of self-attention: `(B * T, S, C)` in space, `(B * S, T, C)` in time."""
        return (x.transpose(1, 2) if self.temporal else x).flatten(0, 1)

    def unfold(self, sequences: torch.Tensor, batch: int) -> torch.Tensor:
        """What `fold` did, undone: `(B, T, S, C)`."""
        x = sequences.unflatten(0, (batch, -1))
        return x.transpose(1, 2) if self.temporal else x


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x (1 + scale) + shift."""
    return x * (1 + scale) + shift


class OpenSoraTransformer3DModel(ModelMixin, AttentionMixin, ConfigMixin):
    """STDiT3: pairs of a spatial and a temporal block over the patches of a latent video (Open-Sora 1.2).

    The defaults are those of STDiT3-XL/2, `hpcai-tech/OpenSora-STDiT-v3`.

    Args:
        num_layers: pairs of blocks.
        num_attention_heads, attention_head_dim: their product is the width.
        in_channels: of the latents.
        out_channels: velocity and an unused "sigma", `in_channels` each.
        patch_size: side of a patch in latent cells; a patch spans one frame.
        mlp_ratio: width of the MLP over the model's.
        caption_channels, caption_max_length: of the text encoder's states, and of the learned null caption.
        qk_norm: `"rms_norm"` or None, in self-attention.
        base_size: pixels of a side at which positions are not scaled (`input_sq_size` of the official configuration).
    """

    _no_split_modules = ["OpenSoraTransformerBlock"]  # noqa: RUF012 (diffusers' own form, here and below)
    _repeated_blocks = ["OpenSoraTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["patch_embed", "norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_layers: int = 28,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int = 8,
        patch_size: int = 2,
        mlp_ratio: float = 4.0,
        caption_channels: int = 4096,
        caption_max_length: int = 300,
        qk_norm: str | None = "rms_norm",
        base_size: int = 512,
    ) -> None:
        super().__init__()
        if qk_norm not in ("rms_norm", None):
            raise ValueError(f"qk_norm must be 'rms_norm' or None, got {qk_norm!r}")
        dim = num_attention_heads * attention_head_dim
        if dim % 4 or attention_head_dim % 2:
            raise ValueError(
                "attention_head_dim must be even, and num_attention_heads * attention_head_dim a multiple of 4 (two "
                f"axes of sines and cosines), got {attention_head_dim} and {num_attention_heads}"
            )
        patch = (1, patch_size, patch_size)
        self.patch_embed = nn.Conv3d(in_channels, dim, kernel_size=patch, stride=patch)
        self.time_embed = TimestepEmbedding(SINUSOID, dim)
        self.fps_embed = TimestepEmbedding(SINUSOID, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, dim, act_fn="gelu_tanh")
        self.register_buffer("null_caption", torch.randn(caption_max_length, caption_channels) / caption_channels**0.5)

        def blocks(temporal: bool) -> nn.ModuleList:
            sizes = (dim, num_attention_heads, attention_head_dim, mlp_ratio, qk_norm)
            return nn.ModuleList(OpenSoraTransformerBlock(*sizes, temporal=temporal) for _ in range(num_layers))

        self.spatial_blocks = blocks(temporal=False)
        self.temporal_blocks = blocks(temporal=True)
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, patch_size**2 * out_channels)

    @apply_forward_hook
    def null_caption_states(self, length: int) -> torch.Tensor:
        """The first `length` states of the learned null caption, `(length, caption_channels)`: the empty prompt."""
        return self.null_caption[:length]

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        fps: torch.Tensor | float = 24.0,
        height: float | None = None,
        width: float | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Velocity (data - noise) and unused "sigma" channels: `(B, out_channels, T, H, W)` in float32.

        Args:
            hidden_states: latents `(B, in_channels, T, H, W)`; H and W are padded to whole patches inside.
            timestep: `(B,)`, 1000 for noise to 0 for data; rounded to the model's dtype, as in training.
            encoder_hidden_states: `(B, L, caption_channels)`.
            encoder_attention_mask: `(B, L)` or, repeated, fewer rows; nonzero for text, zero for padding.
            frame_mask: bool `(B, T)`; False for clean frames, which get timestep 0. None: all frames are noisy, which
                is bit-equal to a mask of True and takes one modulation, not two.
            fps: frames a second, one number or `(B,)`; 120 for a single image.
            height, width: nominal pixels, which scale the positions; by default 8 pixels a latent cell.
        """
        dtype = self.scale_shift_table.dtype
        device = hidden_states.device
        batch, _, frames, latent_height, latent_width = hidden_states.shape
        patch = self.config.patch_size

        x = F.pad(hidden_states.to(dtype), (0, -latent_width % patch, 0, -latent_height % patch))
        x = self.patch_embed(x)  # (B, C, T, rows, columns)
        grid = (x.shape[-2], x.shape[-1])
        positions = patch_positions(
            grid,
            8 * latent_height if height is None else height,
            8 * latent_width if width is None else width,
            x.shape[1],
            base_size=self.config.base_size,
            dtype=dtype,
            device=device,
        )
        x = x.flatten(-2).permute(0, 2, 3, 1) + positions  # (B, T, S, C)
        x = x.flatten(1, 2).contiguous()  # channels of a token side by side: the convolution had them apart

        rate = self.fps_embed(self._sinusoid(_rows(torch.as_tensor(fps, device=device).reshape(-1), batch)))
        time = self.time_embed(self._sinusoid(_rows(timestep.reshape(-1), batch))) + rate  # (B, C)
        modulation = self._modulation(time)[:, None]  # (B, 1, 6, C)
        clean_time = None
        if frame_mask is not None:
            frame_mask = _rows(frame_mask, batch).bool()
            clean_time = self.time_embed(self._sinusoid(torch.zeros(batch, device=device))) + rate
            modulation = torch.where(
                frame_mask[..., None, None], modulation, self._modulation(clean_time)[:, None]
            )  # (B, T, 6, C)

        text = self.caption_projection(encoder_hidden_states.to(dtype))
        text_mask = None if encoder_attention_mask is None else _rows(encoder_attention_mask, batch).bool()
        rotary = frame_rotary(frames, self.config.attention_head_dim, dtype=dtype, device=device)
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x = spatial(x, text, modulation, frames, text_mask)
            x = temporal(x, text, modulation, frames, text_mask, rotary)

        x = self._final_norm(x.unflatten(1, (frames, -1)), time, frame_mask, clean_time)
        x = self.proj_out(x)  # (B, T, S, patch * patch * out_channels), channels last
        x = x.unflatten(-1, (patch, patch, -1)).unflatten(2, grid)  # (B, T, rows, columns, p, q, out)
        x = x.permute(0, 6, 1, 2, 4, 3, 5).flatten(-2).flatten(-3, -2)  # (B, out, T, rows * p, columns * q)
        x = x[..., :latent_height, :latent_width]
        x = x.to(torch.promote_types(dtype, torch.float32))
        return Transformer2DModelOutput(sample=x) if return_dict else (x,)

    def _sinusoid(self, values: torch.Tensor) -> torch.Tensor:
        """`(B, 256)`; `values` are rounded to the model's dtype before, as the official inference rounds them."""
        dtype = self.scale_shift_table.dtype
        return get_timestep_embedding(values.to(dtype), SINUSOID, flip_sin_to_cos=True, downscale_freq_shift=0).to(
            dtype
        )

    def _modulation(self, time: torch.Tensor) -> torch.Tensor:
        return self.time_proj(F.silu(time)).unflatten(-1, (6, -1))

    def _final_norm(
        self, x: torch.Tensor, time: torch.Tensor, frame_mask: torch.Tensor | None, clean_time: torch.Tensor | None
    ) -> torch.Tensor:
        """LayerNorm and modulation of `(B, T, S, C)`.

        Clean frames are normalised and modulated a second time, on top of the noisy frames' modulation: so does the
        official model, and its weights were trained that way (spec 0.1, 1.8).
        """

        def modulated(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            shift, scale = (self.scale_shift_table + time[:, None])[:, :, None, None].unbind(1)
            return modulate(self.norm_out(x), shift, scale)

        x = modulated(x, time)
        if frame_mask is None or clean_time is None:
            return x
        return torch.where(frame_mask[..., None, None], x, modulated(x, clean_time))


def _rows(values: torch.Tensor, batch: int) -> torch.Tensor:
    """`values` repeated to `batch` rows, as for the two halves of classifier-free guidance."""
    if values.shape[0] == batch:
        return values
    if batch % values.shape[0]:
        raise ValueError(f"{values.shape[0]} rows of conditions do not divide a batch of {batch}")
    return values.repeat(batch // values.shape[0], *(1,) * (values.ndim - 1))
