"""The flow: official times, noise and masks."""

from __future__ import annotations

import json
import math

import pytest
import torch

from dita.pipelines.opensora import pipeline as pipeline_module
from dita.pipelines.opensora.scheduler import active_frames, add_noise, flow_scheduler, set_timesteps, time_shift
from dita.pipelines.opensora.sizes import VideoFormat
from tests.pipelines.opensora.conftest import distance


def test_times_are_the_official_ones_in_every_precision(golden) -> None:
    table = json.loads((golden / "opensora" / "rflow_timesteps_30.json").read_text())["table"]
    compared = 0
    for name, official in table.items():
        size, dtype = name.split(":")
        height, width, frames = map(int, size.split("x"))
        times = set_timesteps(flow_scheduler(), 30, time_shift(height, width, frames, getattr(torch, dtype)))
        if frames == 16:  # the official code divides zero by zero
            assert any(math.isnan(t) for t in official) and times.isfinite().all()
        else:
            torch.testing.assert_close(times.double(), torch.tensor(official).double(), rtol=1e-6, atol=2e-4)
            compared += 1
    assert compared == 18


def test_short_clips_are_shifted_by_their_latent_frames() -> None:
    assert time_shift(512, 512, 1) == 1
    assert time_shift(512, 512, 16) == 2
    assert time_shift(512, 512, 51) == pytest.approx(15**0.5)


def test_noise_is_added_as_officially(reference) -> None:
    data = reference("rflow_add_noise")
    assert torch.equal(add_noise(data["x0"], data["noise"], data["t"]), data["out"])


def test_frames_to_generate_are_active_even_at_a_time_above_1000() -> None:
    mask = torch.tensor([[1.0, 0.5, 0.0]])
    assert active_frames(mask, 1000.0001).tolist() == [[True, False, False]]
    assert active_frames(mask, 500.0).tolist() == [[True, True, False]]


def sample(pipe, data: dict[str, torch.Tensor], monkeypatch, masked: bool = True, shifted: bool = True):
    """The official run again: (final latents, what the transformer was given and gave at each step)."""
    height, width, frames = (int(data[f"in.{name}"][0]) for name in ("height", "width", "num_frames"))
    video = VideoFormat(height, width, frames, float(data["in.fps"][0]))
    shift = pipe._time_shift(video) if shifted else 1.0
    times = set_timesteps(pipe.scheduler, int(data["in.steps"]), shift)
    noises = iter(data.get("in.noise", ()))
    monkeypatch.setattr(pipeline_module, "randn_tensor", lambda *_, **__: next(noises))
    pipe._guidance_scale, pipe._interrupt = data["in.cfg_scale"].item(), False
    embeds, mask = pipe._embeds(None, data["in.y"][:, 0], data["in.text_mask"], 1, torch.device("cpu"))
    seen = []
    hook = pipe.transformer.register_forward_hook(
        lambda _m, _a, kwargs, output: seen.append((kwargs, output[0])), with_kwargs=True
    )
    try:
        final = pipe.denoise(
            data["in.z"], times, embeds, mask, video, frame_mask=data.get("in.mask") if masked else None
        )
    finally:
        hook.remove()
    return final, seen


@pytest.mark.parametrize("case", ["nomask", "mask_ones", "notransform_image", "cond"])
def test_sampling_is_the_official_one(case, reference, reference_pipeline, monkeypatch) -> None:
    data = reference(f"rflow_{case}")
    final, seen = sample(reference_pipeline, data, monkeypatch, shifted=case != "notransform_image")
    assert distance(final, data["f32.out"]) < 1e-5
    assert distance(final.double(), data["f64.out"]) < 1e-5
    assert len(seen) == int(data["in.steps"])
    for step, (given, output) in enumerate(seen):
        first, second = given["hidden_states"].chunk(2)
        assert torch.equal(first, second)
        assert distance(first, data["f32.step_z_in"][step]) < 1e-5
        assert distance(output, data["f32.step_pred"][step]) < 1e-5
        torch.testing.assert_close(given["timestep"], data["f32.step_t"][step], rtol=1e-6, atol=2e-4)
        if case == "cond":
            assert torch.equal(given["frame_mask"], data["f32.step_x_mask"][step])
        else:
            assert given["frame_mask"] is None, "frames without a mask skip the double modulation"


def test_a_mask_of_ones_is_bit_equal_to_no_mask(reference, reference_pipeline, monkeypatch) -> None:
    data = reference("rflow_mask_ones")
    masked, _ = sample(reference_pipeline, data, monkeypatch)
    plain, _ = sample(reference_pipeline, data, monkeypatch, masked=False)
    assert torch.equal(masked, plain)


def test_kept_frames_keep_their_value(reference, reference_pipeline, monkeypatch) -> None:
    data = reference("rflow_cond")
    final, _ = sample(reference_pipeline, data, monkeypatch)
    kept = data["in.mask"] == 0
    assert kept.any()
    assert torch.equal(final.transpose(1, 2)[kept], data["in.z"].transpose(1, 2)[kept])


def test_the_plain_run_of_the_toca_reference(reference, reference_pipeline, monkeypatch) -> None:
    data = reference("toca_opensora_tiny")
    data |= {"in.steps": torch.tensor(14), "in.cfg_scale": torch.tensor(7.0)}
    final, _ = sample(reference_pipeline, data, monkeypatch)
    assert distance(final, data["f32.out_without_toca"]) < 1e-5
