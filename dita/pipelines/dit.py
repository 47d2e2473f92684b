"""A DiT pipeline that accelerates itself."""

from __future__ import annotations

from diffusers import DiTPipeline

from dita.pipelines.accelerated import Accelerated


class AcceleratedDiTPipeline(Accelerated, DiTPipeline):
    """`DiTPipeline` with `method=` in `from_pretrained`, `from_pipe` and in the call."""
