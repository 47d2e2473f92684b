"""Drop-in pipeline classes: as diffusers' own, with a `method`."""

from dita.pipelines.dit import AcceleratedDiTPipeline
from dita.pipelines.flux import AcceleratedFluxPipeline
from dita.pipelines.opensora import AcceleratedOpenSoraPipeline, OpenSoraPipeline
from dita.pipelines.pixart import AcceleratedPixArtAlphaPipeline, AcceleratedPixArtSigmaPipeline

__all__ = [
    "AcceleratedDiTPipeline",
    "AcceleratedFluxPipeline",
    "AcceleratedOpenSoraPipeline",
    "AcceleratedPixArtAlphaPipeline",
    "AcceleratedPixArtSigmaPipeline",
    "OpenSoraPipeline",
]
