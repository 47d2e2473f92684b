"""Drop-in pipeline classes: as diffusers' own, with a `method`."""

from dita.pipelines.flux import AcceleratedFluxPipeline

__all__ = ["AcceleratedFluxPipeline"]
