"""Open-Sora that accelerates itself."""

from __future__ import annotations

from dita.pipelines.accelerated import Accelerated
from dita.pipelines.opensora.pipeline import OpenSoraPipeline


class AcceleratedOpenSoraPipeline(Accelerated, OpenSoraPipeline):
    """`OpenSoraPipeline` with `method=` in `from_pretrained`, `from_pipe`, and in the call."""
