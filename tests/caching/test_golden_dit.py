"""Parity of DiT with the ToCa repository's port: latents, outputs, scores and selections (golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel

import dita
from dita.shapes import Kind, Site
from tests.caching.golden import assert_scores, assert_selections, capture_scores, load_case, method_of

CASES = (
    "plain",
    "fora_n3",
    "toca_attn_n3_r07_ddim50",
    "toca_attn_n3_r20_ddim50",
    "toca_kvnorm_n3_r20",
    "toca_similarity_n3_r20",
    "taylorseer_n3_o1",
    "taylorseer_n4_o4",
    "duca_attn_n3_r20",
    "duca_attn_n4_r05",
)


@pytest.fixture(scope="module")
def reference_model(golden: Path) -> DiTTransformer2DModel:
    model = DiTTransformer2DModel.from_pretrained(golden / "dit" / "model", torch_dtype=torch.float32)
    return model.requires_grad_(False)


def call(model, facts: dict, data: dict, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The raw noise prediction (2n, 4, H, W) of both halves: with the class, then without."""
    labels = data["labels"]
    return model(
        torch.cat([latents, latents]),
        timestep=timestep.expand(2 * len(latents)),
        class_labels=torch.cat([labels, torch.full_like(labels, facts["null_label"])]),
        return_dict=False,
    )[0][:, :4]


def ddim(x: torch.Tensor, raw: torch.Tensor, alphas: torch.Tensor, s: int, scale: float) -> torch.Tensor:
    """The next latents; `s` counts down. As the original, guidance is on the first three channels only."""
    conditional, null = raw.chunk(2)
    noise = conditional.clone()
    noise[:, :3] = null[:, :3] + scale * (conditional[:, :3] - null[:, :3])
    alpha, previous = alphas[s], alphas[s - 1] if s else torch.ones(())
    clean = (1 / alpha).sqrt() * x - (1 / alpha - 1).sqrt() * noise
    noise = ((1 / alpha).sqrt() * x - clean) / (1 / alpha - 1).sqrt()
    return (previous.sqrt() * clean + (1 - previous).sqrt() * noise).float()


def sample(model, facts: dict, data: dict, free_running: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, raw outputs) of all steps, each from the recorded latents or from this run's own."""
    latents, raws = [data["latents"][0]], []
    steps = facts["steps"]
    for i in range(steps):
        x = latents[-1] if free_running else data["latents"][i]
        raws.append(call(model, facts, data, x, data["timesteps"][i]))
        latents.append(ddim(x, raws[-1], data["alphas_cumprod"].float(), steps - 1 - i, facts["cfg_scale"]))
    return torch.stack(latents), torch.stack(raws)


@pytest.mark.parametrize("case", CASES)
def test_follows_the_reference(case: str, golden: Path, reference_model, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, data = load_case(golden / "dit" / case)
    steps = facts["steps"]

    def site_of(name: str) -> tuple[int, Site]:
        _, step, layer, module = name.split(".")
        return steps - 1 - int(step[1:]), Site("block", int(layer[1:]), module)

    scores = capture_scores(monkeypatch)
    scale = data["latents"].abs().max()
    dita.enable(reference_model, method_of(facts), steps=steps, guided_halves=True, record=True)
    try:
        latents, raws = sample(reference_model, facts, data, free_running=False)
        summary = dita.summary(reference_model, show=False)
        scores = dict(scores)
        free_latents, _ = sample(reference_model, facts, data, free_running=True)
    finally:
        dita.disable(reference_model)

    torch.testing.assert_close(raws[data["eps_steps"]], data["eps_raw"], atol=2e-5, rtol=0)
    assert (latents - data["latents"]).abs().max() <= 1e-5 * scale
    assert (free_latents - data["latents"]).abs().max() <= 5e-5 * scale
    full = [steps - 1 - i for i, kind in enumerate(summary.kinds) if kind is Kind.FULL]
    assert full == facts["full_steps_all_layers"]
    assert_selections(summary, data, site_of)
    assert_scores(scores, data, site_of)
