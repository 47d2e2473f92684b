"""Parity with the reference implementation: its latents, predictions, scores and selections (golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

import dita
from dita.caching.run import Run
from dita.caching.selecting import Selector
from dita.shapes import Kind, Site
from tests.caching.golden import assert_scores, assert_selections, capture_scores, load_case, method_of

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
    "taylorseer_n4_o1",
    "taylorseer_n5_o2",
    "taylorseer_n6_o0",
    "duca_reuse_n5_r25",
    "duca_skip_n5_r25",
    "deltadit_n2",
    "deltadit_n3",
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

    def draw(self: Selector, branch, site: Site, step: int, seed: tuple[int, ...]) -> torch.Tensor:
        return data[f"draw.s{step:02d}.l{site.layer:02d}.{names[site.stack, site.module]}"]

    monkeypatch.setattr(Selector, "_draw", draw)


def site_of(name: str) -> tuple[int, Site]:
    _, step, layer, stack, module = name.split(".")
    stack, module = SITES[f"{stack}.{module}"]
    return int(step[1:]), Site(stack, int(layer[1:]), module)


@pytest.mark.parametrize("case", CASES)
def test_follows_the_reference(case: str, golden: Path, reference_model, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, data = load_case(golden / "flux" / case)
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
    assert_selections(summary, data, site_of)
    assert_scores(scores, data, site_of)


def test_the_factors_of_a_forecast_are_the_references(golden: Path, reference_model, monkeypatch) -> None:
    facts, data = load_case(golden / "flux" / "taylorseer_n5_o2")
    sites = {"double0.img_attn": ("double", 0, "attn"), "single3.total": ("single", 3, "single")}
    found: dict[str, torch.Tensor] = {}
    form = Run._form_factors

    def watched(self: Run, branch) -> None:
        form(self, branch)
        for name, (stack, layer, module) in sites.items():
            slot = branch.slot(Site(stack, layer, module))
            for order, factor in enumerate([slot.out, *slot.factors]):
                tensor = factor[0] if isinstance(factor, tuple) else factor
                if tensor is not None:
                    found[f"taylor.s{self.step:02d}.{name}.order{order}"] = tensor.clone()

    monkeypatch.setattr(Run, "_form_factors", watched)
    dita.enable(reference_model, method_of(facts), steps=facts["steps"])
    try:
        sample(reference_model, facts, data, free_running=False)
    finally:
        dita.disable(reference_model)
    recorded = [name for name in data if name.startswith("taylor.")]
    assert len(recorded) == 12
    for name in recorded:
        torch.testing.assert_close(found[name], data[name], atol=1e-5, rtol=0, msg=name)
