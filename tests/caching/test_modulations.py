"""Modulations of cached steps: one product for all of them where the timesteps are known, and the same result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import dita
from dita.caching import modulations
from dita.caching.modulations import Modulations
from dita.methods import parse
from dita.shapes import NAMED_SHAPES
from tests import tiny_flux
from tests.sampling_loop import Change, sample

STEPS = 8
METHOD = "toca:3:0.5:schedule=constant"
TIMES = [1000 * (1 - step / STEPS) for step in range(STEPS)]


def run(model, change: Change | None = None, *, batch: int = 1, method: str = METHOD, **settings) -> torch.Tensor:
    dita.enable(model, method, steps=STEPS, **settings)
    with torch.no_grad():
        return sample(tiny_flux, model, tiny_flux.transformer_inputs(batch), STEPS, change)


def products(monkeypatch) -> list[tuple[nn.Module, int]]:
    """The modulations that are computed from now on, and of how many rows."""
    seen: list[tuple[nn.Module, int]] = []
    stock = modulations.chunks

    def chunks(linear, x, wanted, of):
        seen.append((linear, len(x)))
        return stock(linear, x, wanted, of)

    monkeypatch.setattr(modulations, "chunks", chunks)
    return seen


@pytest.mark.parametrize("method", [METHOD, "fora:3", "taylorseer:3:1"])
@pytest.mark.parametrize("batch", [1, 2])
def test_each_modulation_is_one_product_a_run(method: str, batch: int, monkeypatch) -> None:
    model = tiny_flux.tiny_transformer(guidance_embeds=False)
    seen = products(monkeypatch)
    ahead = run(model, batch=batch, method=method, timesteps=TIMES)
    plan = dita.summary(model, show=False).plan
    cached = len(plan.cached_steps)
    assert plan.foresees and cached > 2
    blocks = 2 * len(model.transformer_blocks) + len(model.single_transformer_blocks)
    assert len(seen) == len({linear for linear, _ in seen}) == blocks
    assert {rows for _, rows in seen} == {cached * batch}
    seen.clear()
    torch.testing.assert_close(run(model, batch=batch, method=method), ahead, rtol=1e-4, atol=1e-5)
    assert not dita.summary(model, show=False).plan.foresees
    assert len(seen) == cached * blocks and {rows for _, rows in seen} == {batch}


@pytest.mark.parametrize("batch", [1, 2])
def test_distilled_guidance_is_part_of_what_is_foreseen(batch: int, monkeypatch) -> None:
    """One number for all samples, or one for each."""
    model = tiny_flux.tiny_transformer(guidance_embeds=True)
    seen = products(monkeypatch)

    def guide(step: int, inputs: dict[str, torch.Tensor]) -> None:
        inputs["guidance"] = torch.tensor([3.5])

    ahead = run(model, guide, batch=batch, timesteps=TIMES)
    assert len(seen) == len({linear for linear, _ in seen})
    torch.testing.assert_close(run(model, guide, batch=batch), ahead, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [[900.0, *TIMES[:-1]], [t / 1000 for t in TIMES]], ids=["others", "other units"])
def test_wrong_timesteps_change_nothing(wrong: list[float]) -> None:
    model = tiny_flux.tiny_transformer()
    found = run(model, timesteps=wrong)
    assert torch.equal(found, run(model))


def test_a_prompt_that_changes_in_a_cached_step_takes_effect_there(monkeypatch) -> None:
    model = tiny_flux.tiny_transformer()
    run(model, timesteps=TIMES)
    cached = dita.summary(model, show=False).plan.cached_steps[2]

    def change(step: int, inputs: dict[str, torch.Tensor]) -> None:
        if step == cached:
            inputs["pooled_projections"] = -3 * inputs["pooled_projections"]

    found = run(model, change, timesteps=TIMES)
    assert not torch.allclose(found, run(model, timesteps=TIMES), rtol=1e-2)
    torch.testing.assert_close(found, run(model, change), rtol=1e-4, atol=1e-5)


def test_weights_that_change_take_effect_at_once() -> None:
    def runs(**settings) -> torch.Tensor:
        model = tiny_flux.tiny_transformer()

        def change(step: int, inputs: dict[str, torch.Tensor]) -> None:
            if step == 5:
                for block in model.single_transformer_blocks:
                    block.norm.linear.weight.mul_(2)

        return run(model, change, **settings)

    found = runs(timesteps=TIMES)
    torch.testing.assert_close(found, runs(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, run(tiny_flux.tiny_transformer()), rtol=1e-2)


def test_what_is_held_is_forecast_and_freed(monkeypatch) -> None:
    model = tiny_flux.tiny_transformer()
    run(model, timesteps=TIMES)
    summary = dita.summary(model, show=False)
    assert summary.plan.foresees and summary.plan.cache_bytes == summary.cache_bytes
    alone = replace(summary.plan, foresees=False).cache_bytes
    cached, width = len(summary.plan.cached_steps), model.inner_dim
    chunks = 2 * 4 * len(model.transformer_blocks) + 3 * len(model.single_transformer_blocks)
    assert summary.cache_bytes - alone == 4 * width * cached * (1 + chunks)
    held = [block._dita.modulations for block in tiny_flux.blocks(model)]
    assert not any(list(one.tensors()) for one in held)


def test_pipelines_know_their_timesteps(monkeypatch) -> None:
    pipe = tiny_flux.tiny_pipeline()
    seen = products(monkeypatch)
    dita.enable(pipe, METHOD)
    ahead = tiny_flux.call(pipe)
    assert dita.summary(pipe, show=False).plan.foresees
    assert len(seen) == len({linear for linear, _ in seen})
    monkeypatch.setattr("dita.caching.run.Run._foresees", lambda self, plan, latents: False)
    torch.testing.assert_close(tiny_flux.call(pipe), ahead, rtol=1e-3, atol=1e-4)


def test_timesteps_in_half_precision_are_rounded_as_the_pipeline_rounds_them(monkeypatch) -> None:
    pipe = tiny_flux.tiny_pipeline().to(torch.bfloat16)
    seen = products(monkeypatch)
    dita.enable(pipe, METHOD)
    embeddings = {name: value.to(torch.bfloat16) for name, value in tiny_flux.prompts().items()}
    tiny_flux.call(pipe, **embeddings)
    assert len(seen) == len({linear for linear, _ in seen}), "none is computed again in a cached step"


@pytest.mark.parametrize("settings", [{"store": dita.Store(device="cpu")}, {"calls_per_step": 1}], ids=["store", "one"])
def test_gradients_keep_their_path(settings) -> None:
    model = tiny_flux.tiny_transformer()
    dita.enable(model, METHOD, steps=STEPS, timesteps=TIMES, **settings)
    for step in range(STEPS):
        tiny_flux.forward(model, tiny_flux.transformer_inputs(), step / STEPS)
    assert not dita.summary(model, show=False).plan.foresees


def test_two_calls_a_step_have_modulations_of_their_own() -> None:
    """True guidance: another pooled prompt in each call."""
    model = tiny_flux.tiny_transformer()

    def both(**settings) -> torch.Tensor:
        dita.enable(model, METHOD, steps=STEPS, calls_per_step=2, **settings)
        inputs = tiny_flux.transformer_inputs()
        with torch.no_grad():
            for step in range(STEPS):
                first = tiny_flux.forward(model, inputs, step / STEPS)
                second = tiny_flux.forward(
                    model, inputs | {"pooled_projections": -inputs["pooled_projections"]}, step / STEPS
                )
                inputs["hidden_states"] = inputs["hidden_states"] - (2 * first - second) / STEPS
        return inputs["hidden_states"]

    ahead = both(timesteps=TIMES)
    assert dita.summary(model, show=False).plan.foresees
    torch.testing.assert_close(both(), ahead, rtol=1e-3, atol=1e-4)


def test_a_step_that_was_not_announced_computes_its_own() -> None:
    linear, activation = nn.Linear(4, 12), nn.SiLU()
    ahead = Modulations([3, 5])
    temb = torch.randn(2, 4)
    ahead.begin(4, lambda: pytest.fail("nothing is foreseen for it"))
    with torch.no_grad():
        found = torch.cat(ahead.of(linear, activation, temb, ((0, 3),), of=3), dim=-1)
        torch.testing.assert_close(found, linear(activation(temb))[:, None])
        ahead.begin(5, lambda: torch.stack([torch.randn(2, 4), temb]))
        found = torch.cat(ahead.of(linear, activation, temb, ((0, 3),), of=3), dim=-1)
    torch.testing.assert_close(found, linear(activation(temb))[:, None])
    assert list(ahead.tensors())


@pytest.mark.parametrize("method", ["toca:4:0.9", "fora:4", "taylorseer:4:1"])
def test_they_are_little_beside_the_features_of_flux_dev(method: str) -> None:
    plan = parse(method).plan(NAMED_SHAPES["flux-dev"], 50)
    assert 0 < replace(plan, foresees=True).cache_bytes / plan.cache_bytes - 1 < 0.03
