"""Parity of PixArt with the ToCa repository's port: latents, outputs, scores and selections (golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

import dita
from dita.shapes import Kind, Site
from tests.caching.golden import assert_scores, assert_selections, capture_scores, load_case, method_of

CASES = (
    "plain",
    "fora_n2",
    "fora_n3",
    "toca_attn_n3_r30",
    "toca_attn_n3_r30_refsampler",
    "toca_attn_n4_r20_linlayer",
    "toca_norm_n3_r30",
    "toca_similarity_n3_r30",
    "duca_attn_n3_r30",
    "duca_kvnorm_n4_r20",
)
MODULES = {"cross-attn": "cross_attn", "mlp": "mlp"}


@pytest.fixture(scope="module")
def reference_model(golden: Path) -> PixArtTransformer2DModel:
    model = PixArtTransformer2DModel.from_pretrained(golden / "pixart" / "model", torch_dtype=torch.float32)
    return model.requires_grad_(False)


def site_of(name: str) -> tuple[int, Site]:
    _, step, layer, module = name.split(".")
    return int(step[1:]), Site("block", int(layer[1:]), MODULES[module])


def call(model, facts: dict, data: dict, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The raw noise prediction (2n, 4, H, W) of both halves."""
    doubled = torch.cat([latents, latents])
    return model(
        doubled,
        encoder_hidden_states=torch.cat([data["in.negative_embeds"], data["in.prompt_embeds"]]),
        encoder_attention_mask=torch.cat([data["in.negative_mask"], data["in.prompt_mask"]]),
        timestep=timestep.expand(len(doubled)).float(),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0][:, :4]


def guided(raw: torch.Tensor, scale: float) -> torch.Tensor:
    negative, positive = raw.chunk(2)
    return negative + scale * (positive - negative)


def sample(model, scheduler, facts: dict, data: dict, free_running: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, raw outputs) of all steps, each from the recorded latents or from this run's own."""
    scheduler.set_timesteps(facts["steps"])
    latents, raws = [data["latents"][0]], []
    for s in range(facts["steps"]):
        x = latents[-1] if free_running else data["latents"][s]
        raws.append(call(model, facts, data, x, data["timesteps"][s]))
        noise = guided(raws[-1], facts["cfg_scale"])
        latents.append(scheduler.step(noise, scheduler.timesteps[s], x, return_dict=False)[0])
    return torch.stack(latents), torch.stack(raws)


@pytest.mark.parametrize("case", CASES)
def test_follows_the_reference(case: str, golden: Path, reference_model, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, data = load_case(golden / "pixart" / case)
    scheduler = DPMSolverMultistepScheduler.from_pretrained(golden / "pixart" / "scheduler")
    own_sampler = not facts["sampler"].startswith("reference")
    scores = capture_scores(monkeypatch)
    scale = data["latents"].abs().max()
    dita.enable(reference_model, method_of(facts), steps=facts["steps"], guided_halves=True, record=True)
    try:
        latents, raws = sample(reference_model, scheduler, facts, data, free_running=False)
        summary = dita.summary(reference_model, show=False)
        scores = dict(scores)
        free_latents, _ = sample(reference_model, scheduler, facts, data, free_running=own_sampler)
    finally:
        dita.disable(reference_model)

    torch.testing.assert_close(raws[data["eps_steps"]], data["eps_raw"], atol=2e-5, rtol=0)
    if own_sampler:
        assert (latents - data["latents"]).abs().max() <= 1e-5 * scale
        assert (free_latents - data["latents"]).abs().max() <= 2e-4 * scale
    full = [s for s, kind in enumerate(summary.kinds) if kind is Kind.FULL]
    assert full == facts["full_steps_all_layers"]
    assert summary.shape.guided and summary.shape.batch == facts["prompts"]
    assert_selections(summary, data, site_of)
    assert_scores(scores, data, site_of)


def test_a_block_of_a_partial_step_is_the_references(golden: Path, reference_model) -> None:
    facts, data = load_case(golden / "pixart" / "toca_attn_n3_r30")
    outputs: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, out: outputs.append(out))
        for block in reference_model.transformer_blocks
    ]
    dita.enable(reference_model, method_of(facts), steps=facts["steps"], guided_halves=True)
    try:
        for s in range(2):
            outputs.clear()
            call(reference_model, facts, data, data["latents"][s], data["timesteps"][s])
    finally:
        dita.disable(reference_model)
        for handle in handles:
            handle.remove()
    for layer, out in enumerate(outputs):
        torch.testing.assert_close(out, data[f"block.s01.l{layer:02d}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", ["tgate_m10_w2_p5_f3", "tgate_m15_w2_p3_f1"])
def test_tgate_follows_the_reference(case: str, golden: Path, reference_model) -> None:
    """From the gate on the reference has one row a prompt; here both halves of the call come back equal."""
    facts, data = load_case(golden / "pixart" / case)
    scheduler = DPMSolverMultistepScheduler.from_pretrained(golden / "pixart" / "scheduler")
    scale, gate = data["latents"].abs().max(), facts["params"]["gate_step"]
    dita.enable(reference_model, method_of(facts), steps=facts["steps"], guided_halves=True)
    try:
        latents, raws = sample(reference_model, scheduler, facts, data, free_running=False)
        summary = dita.summary(reference_model, show=False)
        free_latents, _ = sample(reference_model, scheduler, facts, data, free_running=True)
    finally:
        dita.disable(reference_model)

    for name, expected in data.items():
        if name.startswith("eps_raw.s"):
            got = raws[int(name[-2:])]
            torch.testing.assert_close(got[: len(expected)], expected, atol=2e-5, rtol=0, msg=name)
    assert all(torch.equal(*raw.chunk(2)) for raw in raws[gate:])
    assert (latents - data["latents"]).abs().max() <= 1e-5 * scale
    assert (free_latents - data["latents"]).abs().max() <= 2e-4 * scale
    plan = method_of(facts).plan(summary.shape, facts["steps"])
    for module, recorded in (("attn", "self_attn"), ("cross_attn", "cross_attn")):
        kinds = [step[Site("block", 1, module)].kind for step in plan.steps]
        assert [kind is Kind.REUSE for kind in kinds] == [facts[recorded][str(s)] == "reuse" for s in range(len(kinds))]
    assert summary.kinds == plan.kinds and summary.flops == plan.flops() and summary.cache_bytes == plan.cache_bytes
