"""FLUX pipelines that accelerate themselves."""

from __future__ import annotations

from diffusers import FluxPipeline

from dita.pipelines.accelerated import Accelerated


class AcceleratedFluxPipeline(Accelerated, FluxPipeline):
    """`FluxPipeline` with `method=` in `from_pretrained`, `from_pipe` and in the call."""
