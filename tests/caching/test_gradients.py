"""Gradients through an accelerated transformer, as guidance by a reward or a classifier takes them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

import dita
from dita.caching.keeping import Keeper, rows_of, tensor_of
from dita.methods import SCORES
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.for_family import method_for
from tests.nearness import distance

STEPS = 6
METHODS = (
    "fora:3",
    "toca:3:0.6:schedule=constant:forecast=1",
    "duca:3:0.6:schedule=constant",
    "duca:3:0.6:schedule=constant:aggressive=reuse",
    "taylorseer:2:2",
    "taylorseer:3:1:basis=hermite",
    "taylorseer:2:2:lite=true",
    "taylorseer:3:1:modules=attention",
    "deltadit:3",
    "tgate:3",
    "pab:1:low=0:high=1000",
    "pab:2:mlp=true:low=0:high=1000",
    "tome:0.5:force=true",
    *(f"toca:3:0.6:{score}:schedule=constant" for score in SCORES),
)
FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def chosen(family: ModuleType, method: str) -> dita.Method:
    if "frame-uniqueness" in method and family is not tiny_opensora:
        pytest.skip("for videos only")
    return method_for(family.FAMILY, method)


def inputs_of(family: ModuleType) -> dict[str, torch.Tensor]:
    inputs = family.transformer_inputs(batch=2)
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def end(family: ModuleType, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """A number made of the latents at the end of a run."""
    latents = inputs["hidden_states"]
    for step in range(STEPS):
        out = family.forward(model, inputs | {"hidden_states": latents}, step / STEPS)
        latents = latents - out / STEPS
    weights = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1), dtype=latents.dtype)
    return (weights * latents.tanh()).mean()


def direction(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(2), dtype=like.dtype)


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two runs computed the same tokens."""
    return all(torch.equal(index, other.selections[key]) for key, index in one.selections.items())


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_finite_differences(family: ModuleType, method: str) -> None:
    """Of latents and text, through all steps: selections stay, what is computed and stored moves. In train mode, with
    weights that want gradients, so that everything is saved that can be."""
    model, inputs = family.tiny_transformer().double(), inputs_of(family)
    names = ["hidden_states"] + (["encoder_hidden_states"] if family is not tiny_dit else [])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if family is not tiny_dit:  # there, labels are dropped by chance in train mode
        model.train()
    dita.enable(model, chosen(family, method), steps=STEPS, record=True)
    leaves = {name: inputs[name].clone().requires_grad_() for name in names}
    result = end(family, model, inputs | leaves)
    result.backward()
    value, summary = float(result.detach()), dita.summary(model, show=False)
    assert any(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        for name, leaf in leaves.items():
            assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
            along, found = direction(leaf), float((leaf.grad * direction(leaf)).sum())
            misses = []
            for h in (1e-4, 3e-5, 1e-5, 3e-6):  # nearer, what is float32 inside rounds
                ends = []
                for sign in (1, -1):
                    ends.append(float(end(family, model, inputs | {name: inputs[name] + sign * h * along})))
                    if not same_tokens(dita.summary(model, show=False), summary):
                        ends[-1] = value  # across a choice of tokens there is no derivative: that side is left out
                sides = sum(one != value for one in ends)
                if sides:
                    misses.append(abs(found - (ends[0] - ends[1]) / (sides * h)))
            assert min(misses) <= 0.01 * float(leaf.grad.norm())
    assert method.startswith("tome") or len(set(summary.kinds)) > 1


@pytest.mark.parametrize("method", ["toca:1:0.6", "fora:1", "taylorseer:1", "deltadit:1"])
def test_where_nothing_is_skipped_gradients_are_plain(family: ModuleType, method: str) -> None:
    model, inputs = family.tiny_transformer().double(), inputs_of(family)
    plain, fast = (inputs["hidden_states"].clone().requires_grad_() for _ in range(2))
    end(family, model, inputs | {"hidden_states": plain}).backward()
    dita.enable(model, method, steps=STEPS)
    end(family, model, inputs | {"hidden_states": fast}).backward()
    assert torch.equal(fast.grad, plain.grad)


STORES = {
    "fp8": dita.Store(dtype="fp8"),
    "bf16": dita.Store(dtype="bf16"),
    "host": dita.Store(device="cpu"),
    "fp8 on the host": dita.Store(dtype="fp8", device="cpu"),
}


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("method", ["fora:3", "toca:3:0.6:schedule=constant", "taylorseer:3:1", "deltadit:2"])
def test_gradients_pass_a_store_as_if_nothing_were_rounded(family: ModuleType, method: str, store: Any) -> None:
    grads = []
    for kept in (store, None):
        model, inputs = family.tiny_transformer().double(), inputs_of(family)
        dita.enable(model, method, steps=STEPS, store=kept)
        leaf = inputs["hidden_states"].clone().requires_grad_()
        end(family, model, inputs | {"hidden_states": leaf}).backward()
        grads.append(leaf.grad)
    assert torch.isfinite(grads[0]).all() and float(grads[0].norm()) > 0
    if "8" not in str(store.dtype):  # so few bits make other features of it
        assert distance(*grads) < (1e-9 if store.dtype is None else 0.5)
    if store.dtype is not None:
        assert not torch.equal(*grads), "the numbers are those that the store leaves"


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_kept_tensor_has_the_stores_numbers_and_its_own_gradient(store: Any) -> None:
    keeper, x = Keeper(store), torch.randn(2, 5, 8)
    leaf = x.clone().requires_grad_()
    kept = keeper.keep(leaf * 3)
    assert isinstance(kept, torch.Tensor) and torch.equal(kept.detach(), tensor_of(keeper.keep(x * 3)))
    (kept * kept.detach()).sum().backward()
    torch.testing.assert_close(leaf.grad, 3 * kept.detach())
    rows = rows_of(kept, torch.tensor([0, 3, 5, 8]))
    assert isinstance(rows, torch.Tensor) and rows.requires_grad and rows.shape == (2, 2, 8)


@pytest.mark.parametrize("by", ["backward", "grad"])
@pytest.mark.parametrize(
    "method", ["fora:3", "toca:3:0.6:schedule=constant", "taylorseer:2:1", "duca:3:0.6", "deltadit:2"]
)
def test_a_gradient_of_each_step(family: ModuleType, method: str, by: str) -> None:
    """Latents that begin a graph of their own in each step: what is stored of the steps before is a constant."""
    model, inputs = family.tiny_transformer().double(), inputs_of(family)
    dita.enable(model, chosen(family, method), steps=STEPS)
    latents = inputs["hidden_states"]
    for step in range(STEPS):
        leaf = latents.detach().requires_grad_()
        out = family.forward(model, inputs | {"hidden_states": leaf}, step / STEPS)
        loss = (leaf - out).tanh().mean()
        if by == "backward":
            loss.backward()
            grad = leaf.grad
        else:
            (grad,) = torch.autograd.grad(loss, leaf)
        assert torch.isfinite(grad).all() and float(grad.norm()) > 0
        latents = (leaf - out / STEPS + grad).detach()


@pytest.mark.parametrize("method", ["fora:3", "toca:3:0.6:schedule=constant", "taylorseer:2:1", "deltadit:2"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_gradients_of_the_last_steps_alone(family: ModuleType, method: str, mode: Any) -> None:
    """And of the first ones alone: what is stored then is not written into, though nothing is recorded any more."""
    model, inputs = family.tiny_transformer().double(), inputs_of(family)
    for recorded in (range(2), range(4, STEPS)):
        dita.enable(model, chosen(family, method), steps=STEPS)
        latents = inputs["hidden_states"].clone()
        for step in range(STEPS):
            if step in recorded:
                if step == recorded[0]:
                    latents = start = latents.clone().requires_grad_()
                last = latents = (
                    latents - family.forward(model, inputs | {"hidden_states": latents}, step / STEPS) / STEPS
                )
            else:
                with mode():
                    out = family.forward(model, inputs | {"hidden_states": latents.detach()}, step / STEPS)
                latents = latents.detach() - out.clone() / STEPS
        last.tanh().sum().backward()
        assert torch.isfinite(start.grad).all() and float(start.grad.norm()) > 0


def test_gradient_checkpointing_is_refused() -> None:
    for family in (tiny_flux, tiny_pixart, tiny_dit):
        model = family.tiny_transformer()
        model.enable_gradient_checkpointing()
        dita.enable(model, "fora:3", steps=STEPS)
        inputs = family.transformer_inputs()
        with pytest.raises(ValueError, match="gradient checkpointing runs blocks again"):
            family.forward(model, inputs, 0.5)
        with torch.no_grad():
            assert torch.isfinite(family.forward(model, inputs, 0.5)).all()
