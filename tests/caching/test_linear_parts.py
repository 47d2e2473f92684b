"""Linear layers by parts of their weights, and FLUX's projection of attention and MLP by the halves of its own."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

import dita
from dita.caching.linear_parts import is_stock, projected, share_of_attention
from tests.tiny_flux import tiny_transformer, transformer_inputs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_the_halves_make_the_projection(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    projection = nn.Linear(24, 8, bias=bias, dtype=dtype)
    attended, mlp = torch.randn(2, 5, 8, dtype=dtype), torch.randn(2, 5, 16, dtype=dtype)
    share = share_of_attention(projection, attended)
    expected = projection(torch.cat([attended, mlp], dim=-1))
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(projected(projection, share, mlp), expected, rtol=tolerance, atol=tolerance)


def test_gradients_flow() -> None:
    projection = nn.Linear(6, 2)
    attended, mlp = torch.randn(1, 3, 2, requires_grad=True), torch.randn(1, 3, 4, requires_grad=True)
    both = (attended, mlp, projection.weight, projection.bias)
    halves = projected(projection, share_of_attention(projection, attended), mlp).square().sum()
    whole = projection(torch.cat([attended, mlp], dim=-1)).square().sum()
    for got, expected in zip(torch.autograd.grad(halves, both), torch.autograd.grad(whole, both), strict=True):
        torch.testing.assert_close(got, expected)


def test_only_a_stock_layer_is_cut() -> None:
    assert is_stock(nn.Linear(4, 2))
    replaced, hooked = nn.Linear(4, 2), nn.Linear(4, 2)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    hooked.register_forward_hook(lambda *_: None)
    block = nn.Sequential(nn.Linear(4, 2))
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["0"]), block)
    for projection in (replaced, hooked, block[0], nn.Conv1d(4, 2, 1), nn.Bilinear(4, 4, 2)):
        assert not is_stock(projection)


def run(model: nn.Module) -> tuple[list[torch.Tensor], int]:
    """What a full and two partial steps make, and how many of their projections are made by halves."""
    inputs = transformer_inputs(batch=2)
    dita.enable(model, dita.ToCa(3, 0.5, schedule="constant", score="random", warmup=1), steps=4)
    halves = 0
    outputs = []
    for t in (0.9, 0.6, 0.3):
        outputs.append(model(**inputs, timestep=torch.tensor([t, t]), return_dict=False)[0])
        halves += sum(block._dita.slots["single"].folded for block in model.single_transformer_blocks)
    dita.disable(model)
    return outputs, halves


@torch.no_grad()
def test_steps_are_the_same_with_a_projection_that_cannot_be_cut() -> None:
    model = tiny_transformer()
    by_halves, halves = run(model)
    assert halves == 3 * len(model.single_transformer_blocks)
    for block in model.single_transformer_blocks:
        block.proj_out.register_forward_hook(lambda *_: None)
    whole, halves = run(model)
    assert halves == 0
    for one, other in zip(by_halves, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not torch.equal(whole[1], whole[0])


@torch.no_grad()
def test_a_projection_that_changes_behind_the_full_step_is_still_cut_as_it_was_stored() -> None:
    """The share is of the full step's weights, and so is the sum until the next one."""
    model, inputs = tiny_transformer(), transformer_inputs(batch=1)
    dita.enable(model, dita.ToCa(3, 0.5, schedule="constant", score="random", warmup=1), steps=3)
    model(**inputs, timestep=torch.tensor([0.9]), return_dict=False)
    block = model.single_transformer_blocks[0]
    before = block._dita.slots["single"].folded
    block.proj_out.register_forward_hook(lambda *_: None)
    out = model(**inputs, timestep=torch.tensor([0.6]), return_dict=False)[0]
    assert before and block._dita.slots["single"].folded and bool(torch.isfinite(out).all())
