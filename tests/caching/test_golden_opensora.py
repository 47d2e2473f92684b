"""Parity of Open-Sora with the ToCa repository's port: schedule, token sets and latents (golden/opensora/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dita
from dita.caching.adapters.opensora import _bias
from dita.caching.scores import attention_entropy, entropy_score
from dita.pipelines.opensora.convert import load_transformer
from dita.pipelines.opensora.scheduler import flow_scheduler, set_timesteps, time_shift
from dita.shapes import Kind, Site
from tests.pipelines.opensora.conftest import distance

STEPS = 14
MODULES = {"attn": "attn", "cross-attn": "cross_attn", "mlp": "mlp"}


@pytest.fixture(scope="module")
def reference_model(golden: Path):
    return load_transformer(golden / "opensora" / "stdit3_tiny_weights.safetensors").requires_grad_(False)


@pytest.fixture(scope="module")
def data(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "opensora" / "toca_opensora_tiny.safetensors")


@pytest.fixture(scope="module")
def facts(golden: Path) -> dict:
    return json.loads((golden / "opensora" / "toca_opensora_tiny.json").read_text())


def sample(model, data: dict[str, torch.Tensor], teacher: bool) -> torch.Tensor:
    """Latents before each step and after the last, from the recorded latents or from this run's own."""
    height, width, frames = (int(data[f"in.{name}"][0]) for name in ("height", "width", "num_frames"))
    scheduler = flow_scheduler()
    times = set_timesteps(scheduler, STEPS, time_shift(height, width, frames))
    null = model.null_caption_states(12).expand(2, -1, -1)
    latents = [data["in.z"]]
    for step, t in enumerate(times):
        x = data["f32.step_z_in"][step] if teacher else latents[-1]
        prompted, free = (
            model(
                torch.cat([x, x]),
                t.expand(4),
                torch.cat([data["in.y"][:, 0], null]),
                encoder_attention_mask=data["in.text_mask"],
                fps=data["in.fps"],
                height=height,
                width=width,
            )
            .sample[:, :4]
            .chunk(2)
        )
        velocity = free + 7.0 * (prompted - free)
        latents.append(scheduler.step(-velocity, t, x, return_dict=False)[0])
    return torch.stack(latents)


@pytest.mark.parametrize("strict", [True, False])
def test_follows_the_reference(reference_model, data, facts, strict: bool) -> None:
    settings = facts["settings"]
    method = dita.ToCa(
        settings["fresh_threshold"],
        1 - settings["fresh_ratio"],
        score=settings["cache_type"],
        age_weight=settings["soft_fresh_weight"],
        strict=strict,
    )
    recorded = torch.cat([data["f32.step_z_in"], data["f32.out"][None]])
    dita.enable(reference_model, method, steps=STEPS, guided_halves=True, record=True)
    try:
        forced = sample(reference_model, data, teacher=True)
        summary = dita.summary(reference_model, show=False)
        free = sample(reference_model, data, teacher=False)
    finally:
        dita.disable(reference_model)
    assert max(distance(ours, theirs) for ours, theirs in zip(forced, recorded, strict=True)) < 1e-5
    assert distance(free[-1], data["f32.out"]) < 1e-5
    assert summary.shape.guided and summary.shape.batch == 2 and summary.shape.image_tokens == facts["tokens"]

    plan = method.plan(summary.shape, STEPS)
    for step, stacks in facts["schedule"].items():
        for stack, modules in stacks.items():
            for module, full in modules.items():
                kind = plan.steps[int(step)][Site(stack, 0, MODULES[module])].kind
                assert (kind is Kind.FULL) == full, (step, stack, module)

    compared = 0
    for name, chosen in data.items():
        if name.startswith("sel."):
            _, module, stack, layer, step = name.split(".")
            ours = summary.selections[int(step.removeprefix("step")), Site(stack, int(layer), module)]
            assert torch.equal(ours, chosen.sort(dim=-1).values), name
            compared += len(chosen)
    assert compared == 112


def test_without_a_method_it_is_the_references_plain_run(reference_model, data) -> None:
    assert distance(sample(reference_model, data, teacher=False)[-1], data["f32.out_without_toca"]) < 1e-5


def test_the_entropy_that_is_scored_is_that_of_the_recorded_maps(reference_model, data) -> None:
    """s2 of a guided pair is the entropy of the mean of its two maps, whose columns differ."""
    found: dict[str, torch.Tensor] = {}

    def note(name: str):
        def hook(attention, inputs, _output) -> None:
            hidden, text, mask = inputs
            query, key, _ = attention.processor.prepare(attention, hidden, text, None)
            found.setdefault(name, attention_entropy(query, key, _bias(mask, query.dtype)))

        return hook

    blocks = {
        f"{stack}.{layer}": block
        for stack in ("spatial", "temporal")
        for layer, block in enumerate(getattr(reference_model, f"{stack}_blocks"))
    }
    hooks = [block.attn2.register_forward_hook(note(name)) for name, block in blocks.items()]
    try:
        sample(reference_model, data, teacher=True)
    finally:
        for hook in hooks:
            hook.remove()
    for name, entropies in found.items():
        prompted, free = data[f"f32.step0_cross_map.{name}"].chunk(2)  # (B, N, all text)
        mean = (prompted + free) / 2
        expected = torch.nn.functional.normalize(1 - (mean * (mean + 1e-7).log()).sum(-1), dim=-1)
        torch.testing.assert_close(entropy_score(entropies, halves=True), expected, atol=1e-5, rtol=0)
    assert len(found) == 4
