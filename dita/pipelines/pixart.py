"""PixArt pipelines that accelerate themselves."""

from __future__ import annotations

from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline

from dita.pipelines.accelerated import Accelerated


class AcceleratedPixArtAlphaPipeline(Accelerated, PixArtAlphaPipeline):
    """`PixArtAlphaPipeline` with `method=` in `from_pretrained`, `from_pipe` and in the call."""


class AcceleratedPixArtSigmaPipeline(Accelerated, PixArtSigmaPipeline):
    """`PixArtSigmaPipeline` with `method=` in `from_pretrained`, `from_pipe` and in the call."""
