"""Open-Sora 1.2 in diffusers' conventions: transformer, autoencoder, pipeline, and conversion of the official files."""

from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

from dita.pipelines.opensora.accelerated import AcceleratedOpenSoraPipeline
from dita.pipelines.opensora.autoencoder import AutoencoderKLOpenSora
from dita.pipelines.opensora.pipeline import OpenSoraPipeline, OpenSoraPipelineOutput, PromptTruncatedWarning
from dita.pipelines.opensora.scheduler import flow_scheduler
from dita.pipelines.opensora.transformer import OpenSoraTransformer3DModel

__all__ = [
    "AcceleratedOpenSoraPipeline",
    "AutoencoderKLOpenSora",
    "OpenSoraPipeline",
    "OpenSoraPipelineOutput",
    "OpenSoraTransformer3DModel",
    "PromptTruncatedWarning",
    "flow_scheduler",
]

# A saved pipeline names these two modules as the homes of its transformer and its autoencoder. diffusers imports, and
# accepts in a download, only modules of this table; what can be loaded from them is found by their base class.
for _class in (AutoencoderKLOpenSora, OpenSoraTransformer3DModel):
    LOADABLE_CLASSES.setdefault(_class.__module__, {})
