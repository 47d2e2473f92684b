"""Parity with the reference implementation: its latents, predictions, scores and selections (golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file

import dita
import dita.caching.adapters.flux
from dita.caching import selection
from dita.caching.run import Run
from dita.shapes import Kind, Site

CASES = (
    "plain",
    "fora_n3",
    "toca_attn_n4_r10",
    "toca_attn_n4_r25",
    "toca_attn_n3_r40_linlayer",
    "toca_knorm_n4_r25",
    "toca_vnorm_n4_r25",
    "toca_norm_n4_r25",
    "toca_random_n4_r25",
    "toca_taylorrepo_n5_r25",
)
SITES = {
    "double.img_mlp": ("double", "mlp"),
    "double.txt_mlp": ("double", "text_mlp"),
    "single.mlp": ("single", "single"),
}


@pytest.fixture(scope="module")
def reference_model(golden: Path) -> FluxTransformer2DModel:
    model = FluxTransformer2DModel.from_pretrained(golden / "flux" / "model", torch_dtype=torch.float32)
    return model.requires_grad_(False)


def method_of(facts: dict) -> dita.Method:
    config, cycle = facts["method_config"], facts["N"]
    if cycle == 1:
        return dita.Plain()
    if config["fresh_ratio"] == 0:
        return dita.FORA(cycle)
    return dita.ToCa(
        cycle,
        1 - config["fresh_ratio"],
        score=config["cache_type"],
        schedule=config["fresh_ratio_schedule"].replace("ToCa", "toca"),
        age_weight=config["soft_fresh_weight"],
        strict=True,
    )


def sample(model, facts: dict, data: dict, free_running: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, predictions) of all steps, each from the recorded latents or from this run's own."""
    sigmas, latents, predictions = data["sigmas"], [data["latents"][0]], []
    for s in range(facts["steps"]):
        x = latents[-1] if free_running else data["latents"][s]
        prediction = model(
            hidden_states=x,
            encoder_hidden_states=data["in.txt"],
            pooled_projections=data["in.pooled"],
            timestep=sigmas[s].float().expand(facts["batch"]),
            guidance=torch.full((facts["batch"],), facts["guidance"]),
            img_ids=data["in.img_ids"],
            txt_ids=data["in.txt_ids"],
            return_dict=False,
        )[0]
        predictions.append(prediction)
        latents.append(x + (sigmas[s + 1] - sigmas[s]).float() * prediction)
    return torch.stack(latents), torch.stack(predictions)


def inject_draws(monkeypatch: pytest.MonkeyPatch, data: dict) -> None:
    """Random scores of the reference instead of dita's."""
    names = {site: name for name, site in SITES.items()}

    def draw(self: Run, site: Site, step: int, seed: tuple[int, ...], device: torch.device) -> torch.Tensor:
        return data[f"draw.s{step:02d}.l{site.layer:02d}.{names[site.stack, site.module]}"]

    monkeypatch.setattr(Run, "_draw", draw)


def capture_scores(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, str, str], torch.Tensor]:
    """Fills with the scores that were sorted, (L, B, N), by (step, stack, module)."""
    captured: dict[tuple[int, str, str], torch.Tensor] = {}
    current: list[tuple[int, str, str]] = []
    base_scores, best_first = Run._base_scores, selection.best_first

    def watched_base(self: Run, branch, stack: str, module: str, counts):
        current[:] = [(self.step, stack, module)]
        return base_scores(self, branch, stack, module, counts)

    def watched_sort(scores: torch.Tensor) -> torch.Tensor:
        step, stack, module = current[0]
        current[0] = (step + 1, stack, module)
        captured[current[0]] = scores
        return best_first(scores)

    monkeypatch.setattr(Run, "_base_scores", watched_base)
    monkeypatch.setattr(selection, "best_first", watched_sort)
    return captured


@pytest.mark.parametrize("case", CASES)
def test_follows_the_reference(case: str, golden: Path, reference_model, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.loads((golden / "flux" / case / "data.json").read_text())
    data = load_file(golden / "flux" / case / "data.safetensors")
    if any(name.startswith("draw.") for name in data):
        inject_draws(monkeypatch, data)
    scores = capture_scores(monkeypatch)
    scale = data["latents"].abs().max()
    dita.enable(reference_model, method_of(facts), steps=facts["steps"], record=True)
    try:
        latents, predictions = sample(reference_model, facts, data, free_running=False)
        summary = dita.summary(reference_model, show=False)
        scores = dict(scores)
        free_latents, _ = sample(reference_model, facts, data, free_running=True)
    finally:
        dita.disable(reference_model)

    recorded = predictions[data["pred_steps"].long()]
    torch.testing.assert_close(recorded, data["pred"], atol=2e-5, rtol=0)
    assert (latents - data["latents"]).abs().max() <= 1e-5 * scale
    assert (free_latents - data["latents"]).abs().max() <= 1e-5 * scale
    assert tuple(s for s, kind in enumerate(summary.kinds) if kind is Kind.FULL) == tuple(facts["full_steps"])
    for name, expected in data.items():
        if name.startswith("idx."):
            _, step, layer, stack, module = name.split(".")
            site = Site(SITES[f"{stack}.{module}"][0], int(layer[1:]), SITES[f"{stack}.{module}"][1])
            chosen = summary.selections[int(step[1:]), site]
            assert torch.equal(chosen.long(), expected.sort(dim=-1).values), name
        if name.startswith("score.") and facts["cache_type"] != "norm":  # that one is never known outside its block
            _, step, layer, stack, module = name.split(".")
            sorted_scores = scores[(int(step[1:]), *SITES[f"{stack}.{module}"])][int(layer[1:])]
            torch.testing.assert_close(sorted_scores.expand_as(expected), expected, atol=1e-5, rtol=0)
