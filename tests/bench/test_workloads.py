"""Models of random weights: their sizes are those of the shape, and a scale shrinks them as documented."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dita.bench.workloads import SHAPES, SMALL_SHAPES, of_shape, scaled, workload
from dita.caching.adapters import adapter_for
from dita.caching.guidance import Parts
from dita.shapes import NAMED_SHAPES, FluxShape

TINY = {"cpu-flux": 0.05, "cpu-pixart": 0.19, "cpu-opensora": 0.12, "dit-xl-2-256": 0.07, "pixart-alpha-1024": 0.02}
"""Scales at which a family has a few heads, and two blocks at least where a rival needs a first and a last one."""


@pytest.mark.parametrize("name", TINY)
def test_the_model_has_the_sizes_of_the_shape_and_predicts_what_the_latents_are(name: str) -> None:
    work = workload(name, scale=TINY[name])
    model, inputs = work.build(torch.float32, "cpu"), work.inputs(torch.float32, "cpu")
    adapter = adapter_for(model)
    seen = adapter.parted(adapter.shape(model, inputs), Parts(guided=getattr(work.shape, "guided", False)))
    unsaid = {"name": work.shape.name, "grid": work.shape.grid}
    assert dataclasses.replace(seen, **unsaid) == work.shape
    with torch.no_grad():
        first, later = (work.predict(model, inputs, progress) for progress in (0.0, 0.5))
    assert first.shape == inputs["hidden_states"].shape
    assert torch.isfinite(first).all() and not torch.equal(first, later), "the step makes a difference"


def test_the_same_weights_and_input_each_time_and_the_generator_of_the_user_untouched() -> None:
    work = workload("cpu-flux", scale=0.05)
    state = torch.random.get_rng_state()
    one, other = (work.build(torch.float32, "cpu").state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*(work.inputs(torch.float32, "cpu")["hidden_states"] for _ in range(2)))


def test_bfloat16_all_through() -> None:
    work = workload("cpu-pixart", scale=0.07, dtype=torch.bfloat16)
    model, inputs = work.build(torch.bfloat16, "cpu"), work.inputs(torch.bfloat16, "cpu")
    assert work.shape.element_bytes == 2
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.bfloat16}
    with torch.no_grad():
        assert work.predict(model, inputs, 0.5).dtype == torch.bfloat16


def test_a_scale_multiplies_layers_heads_and_image_tokens() -> None:
    shape = scaled(NAMED_SHAPES["flux-dev"], 128, 0.25)
    assert isinstance(shape, FluxShape)
    assert (shape.double_layers, shape.single_layers) == (5, 10)  # of 19 and 38: 4.75 and 9.5, rounded to even
    assert shape.width == 6 * 128 and shape.mlp_width == 4 * shape.width
    assert shape.grid == (32, 32) and shape.image_tokens == 1024 and shape.text_tokens == 128
    assert scaled(NAMED_SHAPES["flux-dev"], 128, 1.0) is NAMED_SHAPES["flux-dev"]


def test_a_scaled_video_keeps_its_frames_and_proportions() -> None:
    shape = scaled(NAMED_SHAPES["opensora-1.2-480p-2s"], 72, 0.25)
    assert (shape.frames, shape.grid, shape.layers, shape.width) == (15, (15, 26), 7, 288)


def test_a_few_layers_of_full_width() -> None:
    shape = workload("flux-dev", layers=2).shape
    assert isinstance(shape, FluxShape)
    assert (shape.double_layers, shape.single_layers, shape.width, shape.image_tokens) == (2, 2, 3072, 4096)
    assert shape.name == "flux-dev, 2 layers"
    assert workload("cpu-pixart", layers=99).shape.depth("block") == 8
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        workload("cpu-flux", layers=0)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5])
def test_a_scale_out_of_range(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale must be above 0 and at most 1, got {scale}"):
        workload("cpu-flux", scale=scale)


def test_an_unknown_shape_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown shape 'sdxl'; known: cpu-flux, .*flux-dev"):
        workload("sdxl")


def test_a_batch_and_a_longer_prompt() -> None:
    assert workload("cpu-pixart", batch=3).shape.rows == 6
    assert workload("cpu-opensora", text_tokens=7).shape.text_tokens == 7
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        workload("cpu-flux", batch=0)


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads of 100 channels do not divide the width 3072 of flux-dev"):
        of_shape(NAMED_SHAPES["flux-dev"], 100)


def test_every_shape_can_be_asked_for() -> None:
    assert {workload(name).shape.name for name in SHAPES} == {*SMALL_SHAPES, *NAMED_SHAPES}
