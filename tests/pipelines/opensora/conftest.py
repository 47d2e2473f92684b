from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dita.pipelines.opensora import AutoencoderKLOpenSora, OpenSoraPipeline, OpenSoraTransformer3DModel, flow_scheduler
from dita.pipelines.opensora.convert import convert_autoencoder, load_transformer

Vectors = Callable[[str], dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def reference(golden: Path) -> Vectors:
    """The recorded tensors of a case by its name."""
    return lambda name: load_file(golden / "opensora" / f"{name}.safetensors")


@pytest.fixture(scope="session")
def reference_transformer(golden: Path) -> Callable[[torch.dtype], OpenSoraTransformer3DModel]:
    path = golden / "opensora" / "stdit3_tiny_weights.safetensors"
    return lambda dtype: load_transformer(path, dtype=dtype).requires_grad_(False)


@pytest.fixture(scope="session")
def reference_autoencoder(reference: Vectors) -> Callable[[torch.dtype], AutoencoderKLOpenSora]:
    weights = reference("vae_tiny_weights")
    return lambda dtype: convert_autoencoder(weights, norm_num_groups=4, dtype=dtype).requires_grad_(False)


@pytest.fixture(scope="session")
def reference_pipeline(reference_transformer, reference_autoencoder) -> OpenSoraPipeline:
    pipe = OpenSoraPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=reference_autoencoder(torch.float32),
        transformer=reference_transformer(torch.float32),
        scheduler=flow_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |a - b| / max |b|, the measure of the golden README's tolerances."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
