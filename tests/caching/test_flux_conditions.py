"""FLUX with more than a prompt: ControlNet's residuals, IP-Adapter's pictures, inpainting, and pictures in context."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxInpaintPipeline, FluxKontextPipeline
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

import dita
from dita.methods import ToCa
from tests import tiny_flux
from tests.for_family import method_for
from tests.nearness import distance
from tests.sampling_loop import sample

STEPS = 8
GENERATOR = 11
METHODS = (
    "fora:3",
    "toca:3:0.5",
    "toca:3:0.6:random:schedule=constant",
    "toca:3:0.6:schedule=constant:forecast=1",
    "duca:3:0.5",
    "duca:3:0.5:aggressive=reuse",
    "taylorseer:2:1",
    "taylorseer:3:1:basis=hermite",
    "taylorseer:3:2:lite=true",
    "taylorseer:3:1:modules=attention",
    "deltadit:2",
    "deltadit:3",
    "deltadit:2:layers=2",
    "pab:2:low=0:high=1000",
)
"""Each kind of plan that FLUX has; token merging changes its full steps, too."""


def picture(*size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(GENERATOR))


def controlnet(model) -> dict[str, Any]:
    """What a ControlNet adds behind blocks: fewer residuals than blocks, each for a few of them."""
    numbers = 40 * torch.randn(3, 2, 64, 32, generator=torch.Generator().manual_seed(GENERATOR))
    return {"controlnet_block_samples": [numbers[0]], "controlnet_single_block_samples": list(numbers[1:])}


def ip_adapter(model) -> dict[str, Any]:
    """A picture's tokens, to which the double-stream blocks attend beside the text."""
    torch.manual_seed(GENERATOR)
    for block in model.transformer_blocks:
        processor = FluxIPAdapterAttnProcessor(hidden_size=32, cross_attention_dim=24, scale=300.0)
        block.attn.set_processor(processor.requires_grad_(False))
    return {"joint_attention_kwargs": {"ip_hidden_states": [torch.randn(2, 4, 24)]}}


CONDITIONS = {"controlnet": controlnet, "ip-adapter": ip_adapter, "none": lambda model: {}}


@torch.no_grad()
def run(model, condition: dict[str, Any]) -> torch.Tensor:
    return sample(tiny_flux, model, tiny_flux.transformer_inputs(batch=2) | condition, STEPS)


@pytest.mark.parametrize("name", ["controlnet", "ip-adapter"])
def test_a_condition_counts_in_full_and_in_cached_steps(name: str) -> None:
    model = tiny_flux.tiny_transformer()
    condition = CONDITIONS[name](model)
    plain, without = run(model, condition), run(tiny_flux.tiny_transformer(), {})
    assert distance(plain, without) > 0.2
    assert torch.equal(run(dita.enable(model, "toca:1:0.9", steps=STEPS), condition), plain)
    for method in ("toca:3:0.5", "fora:3", "taylorseer:2:1", "duca:3:0.5", "deltadit:2"):
        fast = run(dita.enable(model, method, steps=STEPS), condition)
        fast_without = run(dita.enable(tiny_flux.tiny_transformer(), method, steps=STEPS), {})
        assert distance(fast, plain) <= 2 * distance(fast_without, without), method
        assert distance(fast, plain) < 0.95 * distance(fast_without, plain), method
    dita.disable(model)
    assert torch.equal(run(model, condition), plain)


def several_controlnets(model) -> dict[str, Any]:
    """Residuals behind every block, large ones."""
    numbers = 40 * torch.randn(5, 2, 64, 32, generator=torch.Generator().manual_seed(GENERATOR))
    return {"controlnet_block_samples": list(numbers[:2]), "controlnet_single_block_samples": list(numbers[2:])}


EVERY = CONDITIONS | {"controlnet behind every block": several_controlnets}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("method", METHODS)
def test_on_the_same_input_every_step_gives_what_the_full_step_gave(method: str, name: str) -> None:
    """What is added behind blocks counts once, in steps that run them, skip them, or forecast what is behind them."""
    model = tiny_flux.tiny_transformer()
    inputs = tiny_flux.transformer_inputs(batch=2) | EVERY[name](model)
    with torch.no_grad():
        expected = tiny_flux.forward(model, inputs, 0.5)
        dita.enable(model, method_for("flux", method), steps=STEPS)
        for step in range(STEPS):
            assert distance(tiny_flux.forward(model, inputs, 0.5), expected) < 1e-5, step
    kinds = {kind.value for kind in dita.summary(model, show=False).kinds}
    assert len(kinds) > 1, kinds


@pytest.mark.parametrize("method", ["deltadit:2", "duca:3:1.0", "taylorseer:3:0:lite=true"])
def test_residuals_that_end_in_a_step_that_skips_end_there(method: str) -> None:
    """As with `control_guidance_end`: what is between skipped blocks is that of the step itself."""
    model = tiny_flux.tiny_transformer()
    residuals = several_controlnets(model)["controlnet_single_block_samples"]
    inputs = tiny_flux.transformer_inputs(batch=2)
    dita.enable(model, method, steps=STEPS)
    run(model, {})
    skipping = min(dita.summary(model, show=False).plan.skips)
    streams: list[torch.Tensor] = []
    model.single_transformer_blocks[-1].register_forward_hook(lambda _, __, out: streams.append(out[1]))
    with torch.no_grad():
        for step in range(STEPS):
            now = {"controlnet_single_block_samples": residuals} if step < skipping else {}
            tiny_flux.forward(model, inputs | now, 0.5)
    between = sum(residuals[:-1])  # the last one is added behind the span
    assert distance(streams[skipping - 1] - streams[skipping], between) < 1e-5


@pytest.mark.parametrize("name", ["controlnet", "ip-adapter", "none"])
def test_all_tokens_chosen_are_the_mlps_recomputed(name: str) -> None:
    """On one input again and again, a step that recomputes every token gives what the full step gave."""
    model = tiny_flux.tiny_transformer()
    condition, inputs = CONDITIONS[name](model), tiny_flux.transformer_inputs(batch=2)
    with torch.no_grad():
        expected = tiny_flux.forward(model, inputs | condition, 0.5)
        dita.enable(model, ToCa(4, 0.0, schedule="constant", warmup=1), steps=4)
        for _ in range(4):
            out = tiny_flux.forward(model, inputs | condition, 0.5)
            assert distance(out, expected) < 1e-5
    assert dita.summary(model, show=False).kinds[1].value == "partial"


def test_inpainting() -> None:
    parts = tiny_flux.tiny_pipeline().components
    pipe = FluxInpaintPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    given = {"image": picture(1, 3, 32, 32), "mask_image": mask, "strength": 0.8, "steps": 10}
    plain = tiny_flux.call(pipe, **given)
    dita.enable(pipe, "toca:1:0.9")
    assert torch.equal(tiny_flux.call(pipe, **given), plain)
    dita.enable(pipe, "toca:3:0.5")
    assert 0 < distance(tiny_flux.call(pipe, **given), plain) < 0.5
    assert dita.summary(pipe, show=False).steps == 8


def test_a_picture_in_context() -> None:
    """Its tokens stand behind those of the picture that is made: they form no one grid."""
    parts = tiny_flux.tiny_pipeline().components
    pipe = FluxKontextPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    given = {"image": picture(1, 3, 32, 32), "max_area": 32 * 32, "_auto_resize": False}
    plain = tiny_flux.call(pipe, **given)
    dita.enable(pipe, "toca:1:0.9")
    assert torch.equal(tiny_flux.call(pipe, **given), plain)
    dita.enable(pipe, "toca:3:0.5", record=True)
    assert 0 < distance(tiny_flux.call(pipe, **given), plain) < 0.5
    assert dita.summary(pipe, show=False).shape.image_tokens > 64
    dita.enable(pipe, ToCa(3, 0.5, spatial_bonus=0.5))
    with pytest.raises(ValueError, match="set spatial_bonus=0"):
        tiny_flux.call(pipe, **given)
    dita.enable(pipe, "tome:0.5:force=true")
    with pytest.raises(ValueError, match="one grid"):
        tiny_flux.call(pipe, **given)
