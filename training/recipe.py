"""What the miniature FLUX is: the sizes of its parts and how each of them is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VAE: dict[str, Any] = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    block_out_channels=[16, 32],
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=4,
    sample_size=64,
    mid_block_add_attention=False,
    use_quant_conv=False,
    use_post_quant_conv=False,
)

TRANSFORMER: dict[str, Any] = dict(
    patch_size=1,
    in_channels=16,
    num_layers=2,
    num_single_layers=6,
    attention_head_dim=32,
    num_attention_heads=4,
    joint_attention_dim=128,
    pooled_projection_dim=64,
    guidance_embeds=False,
    axes_dims_rope=[4, 14, 14],
)

T5: dict[str, Any] = dict(
    d_model=128,
    d_kv=32,
    d_ff=256,
    num_heads=4,
    num_layers=2,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
    is_encoder_decoder=False,
    use_cache=False,
    tie_word_embeddings=False,
)

CLIP: dict[str, Any] = dict(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    projection_dim=64,
)

SCHEDULER: dict[str, Any] = dict(
    num_train_timesteps=1000,
    shift=3.0,
    use_dynamic_shifting=True,
    base_shift=0.5,
    max_shift=1.15,
    base_image_seq_len=256,
    max_image_seq_len=4096,
)
"""As FLUX.1-dev has it."""

NOISE_SCHEDULE: dict[str, Any] = dict(
    num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", prediction_type="epsilon"
)
"""As PixArt-alpha and DiT have it."""

PIXART: dict[str, Any] = dict(
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=4,
    out_channels=8,
    num_layers=8,
    cross_attention_dim=128,
    caption_channels=128,
    sample_size=32,
    patch_size=2,
    use_additional_conditions=False,
)

DIT: dict[str, Any] = dict(
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=4,
    out_channels=8,
    num_layers=8,
    sample_size=32,
    patch_size=2,
    num_embeds_ada_norm=1000,
)

OPENSORA: dict[str, Any] = dict(
    num_layers=4,
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=4,
    out_channels=8,
    patch_size=4,
    caption_channels=128,
    caption_max_length=32,
    base_size=64,
)

VIDEO_VAE: dict[str, Any] = dict(
    spatial_block_out_channels=(16, 32),
    spatial_layers_per_block=1,
    norm_num_groups=8,
    temporal_block_out_channels=(16, 32, 32),
    temporal_layers_per_block=1,
    temporal_norm_num_groups=8,
    temporal_downsample=(False, True),
)

FRAMES = 16
"""Frames of a clip, which are 8 latent frames."""

PICTURE = 64
"""Native side of a picture in pixels: 32x32 latents, 16x16 = 256 image tokens."""

TEXT_TOKENS = 32
"""Native length of a caption for T5, padding included."""


MUON_SCALE = 3.0
"""Muon's learning rate over AdamW's."""

TEXT_SCALE = 0.3
"""Learning rate of the text encoders in the flow training, over that of the transformer."""


@dataclass(frozen=True)
class Phase:
    """A part of the flow training: until the share `until` of it is done, `batch` pictures of `side` pixels a step."""

    until: float
    side: int
    batch: int


@dataclass(frozen=True)
class LatentRecipe:
    """How a transformer learns on stored latents.

    phases: small pictures first, on a grid of positions that is stretched to the native one: the layout and the words
        cost a quarter there.
    noise_mean, noise_std: the noise level is s = sigmoid(n), n normal; in a share `noise_uniform` of cases, uniform.
    drop_caption: share of captions replaced by the empty one, for classifier-free guidance.
    layout_weight: weight of what the layout's head misses (`layout.Reader`), read in the middle of the transformer.
    """

    phases: tuple[Phase, ...] = (Phase(0.3, PICTURE // 2, 32), Phase(1.0, PICTURE, 16))
    pool: int = 32768
    noise_mean: float = 0.8
    noise_std: float = 1.2
    noise_uniform: float = 0.1
    drop_caption: float = 0.1
    layout_weight: float = 0.1

    def phase(self, progress: float) -> Phase:
        """The phase at `progress` (0 to 1)."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])


@dataclass(frozen=True)
class FlowRecipe(LatentRecipe):
    """How FLUX's transformer and the text encoders learn.

    long_text: in the last phase, the share of steps at each longer padding of the captions.
    """

    long_text: tuple[tuple[int, float], ...] = ((64, 0.04), (128, 0.02), (256, 0.01), (512, 0.01))


@dataclass(frozen=True)
class NoiseRecipe(LatentRecipe):
    """How the transformers learn that predict the noise (PixArt, DiT).

    most_weight: the most that an error counts (`noise.NoiseSchedule.weights`).
    """

    most_weight: float = 25.0


@dataclass(frozen=True)
class VaeRecipe:
    """How the autoencoder learns: L1 + L2 of the picture and a faint pull of the latents to a unit Gaussian."""

    batch: int = 48
    kl: float = 1e-5


@dataclass(frozen=True)
class VideoVaeRecipe:
    """How the temporal autoencoder learns: on windows of `window` x `window` latent cells of whole clips.

    clips: whose 2D latents are encoded once.
    """

    batch: int = 8
    window: int = 16
    clips: int = 1024
    kl: float = 1e-5


@dataclass(frozen=True)
class TextRecipe:
    """How the text encoders learn the language of the captions before the flow training."""

    steps: int = 1000
    batch: int = 64
