"""Open-Sora 1.2 in diffusers' conventions: transformer, autoencoder, pipeline, and conversion of the official files."""

from dita.pipelines.opensora.autoencoder import AutoencoderKLOpenSora
from dita.pipelines.opensora.transformer import OpenSoraTransformer3DModel

__all__ = ["AutoencoderKLOpenSora", "OpenSoraTransformer3DModel"]
