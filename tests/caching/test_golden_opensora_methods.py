"""Parity of Open-Sora with VideoSys: PAB, T-GATE and Delta-DiT (golden/README.md)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch

import dita
from dita.pipelines.opensora.convert import load_transformer
from dita.pipelines.opensora.scheduler import flow_scheduler, set_timesteps, time_shift
from dita.shapes import Kind, Site
from tests.caching.golden import load_case

STEPS = 30
METHODS = {
    "pab1_246": dita.PAB(1, strict=True),
    "pab2_357": dita.PAB(2, strict=True),
    "pab3_579": dita.PAB(3, strict=True),
    "pab1_246_mlp": dita.PAB(1, mlp=True, strict=True),
    "tgate_m12_k2": dita.TGate(13, strict=True),
    "tgate_m12_k2_gapcode": dita.TGate(13, cross_interval=12, strict=True),
    "deltadit_0-5_b0-5": dita.DeltaDiT(2, layers=6, window=5, strict=True),
    "deltadit_0-10_b0-5": dita.DeltaDiT(2, layers=6, window=10, strict=True),
    "deltadit_0-5_b0-5_signfixed": dita.DeltaDiT(2, layers=6, window=5),
}


WEIGHTS = {"2": "stdit3_tiny_weights.safetensors", "7": "methods/stdit3_depth7_weights.safetensors"}


@lru_cache
def reference_model(golden: Path, depth: str):
    return load_transformer(golden / "opensora" / WEIGHTS[depth], dtype=torch.float32).requires_grad_(False)


def call(model, data: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The velocity of both halves: with the prompt, then without."""
    texts = torch.cat([data["in.y"][:, 0], model.null_caption_states(12).expand(1, -1, -1)])
    return model(
        torch.cat([x, x]),
        t.float().expand(2),
        texts,
        encoder_attention_mask=data["in.text_mask"],
        fps=data["in.fps"],
        height=int(data["in.height"][0]),
        width=int(data["in.width"][0]),
    ).sample[:, :4]


def sample(model, data: dict[str, torch.Tensor], scale: float, teacher: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, velocities) of all steps, each from the recorded latents or from this run's own."""
    height, width, frames = (int(data[f"in.{name}"][0]) for name in ("height", "width", "num_frames"))
    scheduler = flow_scheduler()
    times = set_timesteps(scheduler, STEPS, time_shift(height, width, frames))
    recorded = data["latents"][:, None]
    latents, velocities = [recorded[0]], []
    for s, t in enumerate(times):
        x = recorded[s] if teacher else latents[-1]
        velocities.append(call(model, data, x, data["timesteps"][s]))
        prompted, free = velocities[-1].chunk(2)
        latents.append(scheduler.step(-(free + scale * (prompted - free)), t, x, return_dict=False)[0])
    return torch.stack(latents), torch.stack(velocities)


@pytest.mark.parametrize("case", METHODS)
def test_follows_the_reference(case: str, golden: Path) -> None:
    facts, data = load_case(golden / "opensora" / "methods" / case)
    model = reference_model(golden, facts["model"].split()[-1])
    scale = data["latents"].abs().max()
    times = [float(t) for t in data["timesteps"]]
    dita.enable(model, METHODS[case], steps=STEPS, guided_halves=True, timesteps=times)
    try:
        latents, velocities = sample(model, data, facts["cfg_scale"], teacher=True)
        summary = dita.summary(model, show=False)
        free, _ = sample(model, data, facts["cfg_scale"], teacher=False)
    finally:
        dita.disable(model)
    torch.testing.assert_close(velocities[data["pred_steps"].long()], data["preds"], atol=2e-5, rtol=0)
    recorded = data["latents"][:, None]
    assert (latents - recorded).abs().max() <= 1e-5 * scale
    assert (free - recorded).abs().max() <= 1e-5 * scale

    plan = METHODS[case].plan(summary.shape, STEPS, times)
    assert summary.kinds == plan.kinds and summary.flops == plan.flops() and summary.cache_bytes == plan.cache_bytes
    sites = {
        "spatial": Site("spatial", 0, "attn"),
        "temporal": Site("temporal", 0, "attn"),
        "cross": Site("spatial", 1, "cross_attn"),
        "delta_skip": Site("temporal", 1, "mlp"),
        "mlp_spatial": Site("spatial", 1, "mlp"),
        "mlp_temporal": Site("temporal", 1, "mlp"),
    }
    for name, steps in facts["reuse_steps"].items():
        cached = [s for s, step in enumerate(plan.steps) if step[sites[name]].kind is not Kind.FULL]
        assert cached == [int(s) for s in steps], name
