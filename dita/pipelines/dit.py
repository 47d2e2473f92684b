"""A DiT pipeline that accelerates itself."""

from __future__ import annotations

from typing import Any

from diffusers import DiTPipeline

from dita.methods import MethodLike
from dita.pipelines.accelerated import Accelerated


class AcceleratedDiTPipeline(Accelerated, DiTPipeline):
    """`DiTPipeline` with `method=` in `from_pretrained`, `from_pipe` and in the call."""

    @classmethod
    def from_pipe(cls, pipeline: Any, method: MethodLike | None = None, **kwargs: Any) -> Any:
        """As all accelerated pipelines; the class names of `pipeline` are no component of it, and come along."""
        pipe = super().from_pipe(pipeline, method=method, **kwargs)
        pipe.labels = dict(pipeline.labels)
        return pipe
