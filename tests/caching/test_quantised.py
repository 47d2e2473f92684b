"""dita on transformers whose weights are quantised: in eight bits by torchao, in eight and four by bitsandbytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import dita
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.nearness import distance
from tests.sampling_loop import sample

STEPS = 8
FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]


def torchao_int8(blocks: nn.Module) -> None:
    """Weights in int8, a scale for each row; the layer stays `nn.Linear`, its weight becomes a tensor subclass."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(blocks, Int8WeightOnlyConfig())


def torchao_int8_dynamic(blocks: nn.Module) -> None:
    """Activations in int8 too, a scale for each token."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(blocks, Int8DynamicActivationInt8WeightConfig())


def bitsandbytes_int8(blocks: nn.Module) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    replace(blocks, lambda one: bnb.nn.Linear8bitLt(*sizes(one), has_fp16_weights=False))


def bitsandbytes_4bit(blocks: nn.Module) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    replace(blocks, lambda one: bnb.nn.Linear4bit(*sizes(one), compute_dtype=torch.float32, quant_type="nf4"))


def sizes(layer: nn.Linear) -> tuple[int, int, bool]:
    return layer.in_features, layer.out_features, layer.bias is not None


def replace(blocks: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Puts the quantised layer in the place of each linear one, as diffusers does when it loads a model."""
    for parent in list(blocks.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                quantised = make(layer)
                quantised.load_state_dict(layer.state_dict())
                setattr(parent, name, quantised.to("cpu").requires_grad_(False))


QUANTISERS = [torchao_int8, torchao_int8_dynamic, bitsandbytes_int8, bitsandbytes_4bit]


def quantised(family, quantise: Callable[[nn.Module], None]) -> nn.Module:
    model = family.tiny_transformer()
    stacks = ["transformer_blocks", "single_transformer_blocks", "spatial_blocks", "temporal_blocks"]
    for stack in stacks:
        if hasattr(model, stack):
            quantise(getattr(model, stack))
    return model


def run(family, model: nn.Module, method: str | None) -> torch.Tensor:
    if method is not None:
        dita.enable(model, method, steps=STEPS)
    try:
        return sample(family, model, family.transformer_inputs(batch=2), STEPS)
    finally:
        dita.disable(model)


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request):
    return request.param


@pytest.fixture(params=QUANTISERS, ids=lambda quantise: quantise.__name__)
def model(request, family) -> nn.Module:
    return quantised(family, request.param)


@torch.no_grad()
def test_where_nothing_is_skipped_the_output_is_that_of_the_quantised_model(family, model) -> None:
    plain = run(family, model, None)
    assert not torch.equal(plain, run(family, family.tiny_transformer(), None)), "it is quantised"
    for method in ("toca:1:0.9", "fora:1"):
        assert torch.equal(run(family, model, method), plain), method
    assert torch.equal(run(family, model, None), plain), "and nothing is left"


@torch.no_grad()
@pytest.mark.parametrize("method", ["fora:3", "toca:3:0.5:random", "taylorseer:3:1"])
def test_a_cached_run_is_as_near_to_its_plain_one_as_without_quantisation(family, model, method: str) -> None:
    """And as near to the cached run of unquantised weights as the plain runs are to each other: within a factor of two,
    for a forecast of order 1 takes 5/3 of one rounded output and 2/3 of another."""
    whole = family.tiny_transformer()
    plain, quantised_plain = run(family, whole, None), run(family, model, None)
    cached, quantised_cached = run(family, whole, method), run(family, model, method)
    assert distance(quantised_cached, quantised_plain) <= 2 * distance(cached, plain) + 1e-3
    assert distance(quantised_cached, cached) <= 2 * distance(quantised_plain, plain) + 1e-3
