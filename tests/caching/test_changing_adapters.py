"""Adapters whose scale or choice changes in mid-run, without a weight being written: cached steps follow at once."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

import dita
from dita.caching.modulations import Modulations
from dita.caching.steady import SteadyMemo
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.for_family import method_for
from tests.nearness import distance
from tests.sampling_loop import sample

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]
STEPS = 8
TIMES = [1000 * (1 - step / STEPS) for step in range(STEPS)]
METHODS = ("fora:4", "toca:4:0.5", "taylorseer:4:1", "deltadit:3", "duca:4:0.5", "tgate:4", "pab:2:low=0:high=1000")


def layers(model: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def adapt(model: Any, *names: str) -> None:
    """LoRAs on every linear layer: those of modulations, of text projections and of FLUX's joint projection too."""
    torch.manual_seed(5)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in names:
        config = peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=linear)
        peft.inject_adapter_in_model(config, model, adapter_name=name)
    for layer in layers(model):
        layer.set_adapter(names[0])
    model.requires_grad_(False)


def scaled(model: Any, step: int) -> None:
    for layer in layers(model):
        layer.set_scale("a", 1.0 - 0.12 * step)


def switched_off_and_on(model: Any, step: int) -> None:
    for layer in layers(model):
        layer.enable_adapters(not 3 <= step < 6)


def exchanged(model: Any, step: int) -> None:
    for layer in layers(model):
        layer.set_adapter("a" if step < 5 else "b")
        layer.requires_grad_(False)


def fused(model: Any, step: int) -> None:
    for layer in layers(model):
        if step == 3:
            layer.set_scale("a", 2.0)
            layer.merge()
        elif step == 6:
            layer.unmerge()
            layer.set_scale("a", 0.5)


CHANGES = [scaled, switched_off_and_on, exchanged, fused]


@torch.no_grad()
def run(family: ModuleType, method: Any, change: Any) -> torch.Tensor:
    model = family.tiny_transformer()
    adapt(model, "a", "b")
    if method is not None:
        dita.enable(model, method, steps=STEPS, timesteps=TIMES)
    inputs = family.transformer_inputs(batch=2)
    return sample(family, model, inputs, STEPS, lambda step, _: change(model, step))


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", METHODS)
def test_cached_steps_have_the_adapters_of_their_own_step(
    family: ModuleType, method: str, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where nothing is foreseen and no projection is kept."""
    chosen = method_for(family.FAMILY, method)
    found = run(family, chosen, change)
    still = run(family, chosen, lambda model, step: None)
    monkeypatch.setattr(Modulations, "_is_foreseen", lambda self, temb: False)
    monkeypatch.setattr(SteadyMemo, "made_by", lambda self, module, compute: compute())
    assert distance(found, run(family, chosen, change)) < 1e-6
    assert distance(found, still) > 1e-3, "the change makes a difference"


@pytest.mark.parametrize("change", CHANGES)
def test_with_nothing_skipped_they_are_plain(family: ModuleType, change: Any) -> None:
    assert torch.equal(run(family, "toca:1:0.5", change), run(family, None, change))


@pytest.mark.parametrize("family", [tiny_flux])
@pytest.mark.parametrize("method", ["fora:4", "toca:4:0.5", "taylorseer:4:1"])
def test_the_scale_of_a_call(family: ModuleType, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`joint_attention_kwargs={"scale": ...}` holds inside the transformer's forward alone."""

    @torch.no_grad()
    def once(method: Any, scales: Any) -> torch.Tensor:
        model = family.tiny_transformer()
        adapt(model, "a")
        dita.enable(model, method, steps=STEPS, timesteps=TIMES)

        def change(step: int, inputs: dict[str, Any]) -> None:
            inputs["joint_attention_kwargs"] = {"scale": scales(step)}

        return sample(family, model, family.transformer_inputs(), STEPS, change)

    falling = once(method, lambda step: 1 - step / 10)
    assert distance(falling, once(method, lambda step: 1.0)) > 1e-3
    monkeypatch.setattr(Modulations, "_is_foreseen", lambda self, temb: False)
    assert distance(falling, once(method, lambda step: 1 - step / 10)) < 1e-6


@pytest.mark.parametrize("method", ["fora:4", "toca:4:0.5", "taylorseer:4:1:modules=attention"])
def test_an_adapter_that_is_loaded_in_mid_run(family: ModuleType, method: str) -> None:
    chosen = method_for(family.FAMILY, method)

    @torch.no_grad()
    def once(at: int) -> list[torch.Tensor]:
        model = family.tiny_transformer()
        dita.enable(model, chosen, steps=STEPS, timesteps=TIMES)
        outputs = []
        for step in range(STEPS):
            if step == at:
                adapt(model, "a")
            outputs.append(family.forward(model, family.transformer_inputs(batch=2), step / STEPS))
        return outputs

    never = once(STEPS)
    for at in range(1, STEPS):
        found = once(at)
        assert torch.equal(found[at - 1], never[at - 1]) and torch.isfinite(torch.stack(found)).all()
        assert distance(found[at], never[at]) > 1e-3, f"step {at} has it"


def test_weights_that_are_written_without_a_version_are_seen() -> None:
    """As adapters are fused: through `.data`."""

    @torch.no_grad()
    def once(timesteps: Any) -> torch.Tensor:
        model = tiny_flux.tiny_transformer()
        dita.enable(model, "fora:4", steps=STEPS, timesteps=timesteps)

        def change(step: int, _: Any) -> None:
            if step == 5:
                for block in model.single_transformer_blocks:
                    block.norm.linear.weight.data.mul_(2)

        return sample(tiny_flux, model, tiny_flux.transformer_inputs(), STEPS, change)

    torch.testing.assert_close(once(TIMES), once(None), rtol=1e-4, atol=1e-5)
