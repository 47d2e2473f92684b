"""What only Open-Sora asks of the engine: cycles of their own, tokens in space and time, reference frames, loops."""

from __future__ import annotations

import pytest
import torch

import dita
from dita.caching.adapters import adapter_for
from dita.caching.scores import spread
from dita.caching.selection import SpatialBonus
from dita.pipelines import AcceleratedOpenSoraPipeline, OpenSoraPipeline
from dita.shapes import Kind, Site
from tests.tiny_opensora import FRAMES, call, clip, forward, tiny_pipeline, tiny_transformer, transformer_inputs


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("score", ["attention", "k-norm", "norm", "uniform"])
def test_a_cached_step_of_the_same_input_gives_the_same_output(score: str, masked: bool) -> None:
    """Rows that are computed again, with the modulation of their frame, come out as they were."""
    model, inputs = tiny_transformer(), transformer_inputs(batch=2)
    if masked:
        inputs["frame_mask"] = torch.tensor([[True, False], [False, True]])
    expected = forward(model, inputs, 0.4)
    dita.enable(model, dita.ToCa(3, 0.5, score=score, schedule="constant"), steps=6, record=True)
    for _ in range(6):
        torch.testing.assert_close(forward(model, inputs, 0.4), expected, rtol=1e-4, atol=1e-4)
    summary = dita.summary(model, show=False)
    assert summary.kinds.count(Kind.PARTIAL) >= 2 and summary.selections


def test_temporal_and_spatial_blocks_measure_the_same_tokens() -> None:
    """Lengths of keys come frame by frame, or place by place: either way token t * S + s is place s of frame t."""
    model, inputs = tiny_transformer(), transformer_inputs(batch=2)
    adapter = adapter_for(model)
    shape = adapter.shape(model, inputs)
    by_token = torch.rand(1, 2, shape.image_tokens)
    grid = by_token.view(1, 2, shape.frames, shape.frame_tokens)
    assert torch.equal(adapter.module_scores("spatial", "mlp", shape, grid.flatten(1, 2)), by_token)
    assert torch.equal(adapter.module_scores("temporal", "mlp", shape, grid.transpose(2, 3).flatten(1, 2)), by_token)
    assert torch.equal(adapter.module_scores("temporal", "mlp", shape, by_token), by_token)


def test_modules_keep_their_own_cycles() -> None:
    plan = dita.ToCa(3, 0.9).plan(adapter_for(model := tiny_transformer()).shape(model, transformer_inputs()), 14)
    full = {
        module: [s for s, step in enumerate(plan.steps) if step[Site("temporal", 1, module)].kind is Kind.FULL]
        for module in ("attn", "cross_attn", "mlp")
    }
    assert full == {"attn": [0, 1, 2, 3, 6, 9, 12], "cross_attn": [0, 1, 2, 6, 12], "mlp": [0, 1, 2, 3, 6, 9, 12]}


def test_a_uniform_selection_is_uniform_in_space_and_in_time() -> None:
    grid = (6, 8, 10)
    chosen = (spread(480, grid, torch.device("cpu")) < 0.25).view(grid)
    per_frame = chosen.sum(dim=(1, 2))
    per_place = chosen.sum(dim=0)
    assert chosen.sum() == pytest.approx(120, abs=6)
    assert per_frame.min() >= 16 and per_frame.max() <= 24  # of 80, 20 on average
    assert per_place.max() <= 3  # of 6 frames, 1.5 on average


def test_the_spatial_bonus_goes_to_the_best_of_each_cell_of_each_frame() -> None:
    scores = torch.rand(3, 2 * 4 * 6, generator=torch.Generator().manual_seed(0))
    together = SpatialBonus(0.5, 2, (2, 4, 6)).apply(scores)
    apart = [SpatialBonus(0.5, 2, (4, 6)).apply(frame) for frame in scores.chunk(2, dim=-1)]
    assert torch.equal(together, torch.cat(apart, dim=-1))


def test_the_bonus_and_uniform_scores_know_the_frames() -> None:
    pipe = tiny_pipeline()
    dita.enable(pipe, dita.ToCa(3, 0.5, "uniform", schedule="constant", spatial_bonus=0.3, spatial_grid=2), record=True)
    call(pipe)
    summary = dita.summary(pipe, show=False)
    assert summary.shape.frames == FRAMES and summary.shape.grid == (2, 2)
    for index in summary.selections.values():
        assert (index // 4).float().mean() == pytest.approx(0.5, abs=0.3), "tokens of both frames"


def test_latents_change_their_precision_but_the_features_do_not() -> None:
    pipe = tiny_pipeline().to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    dita.enable(pipe, "fora:2")
    call(pipe)
    summary = dita.summary(pipe, show=False)
    assert summary.kinds == dita.FORA(2).plan(summary.shape, 8).kinds and summary.shape.element_bytes == 2


def test_every_loop_is_accelerated_and_summed_up() -> None:
    pipe = tiny_pipeline()
    arguments = dict(loop=2, num_frames=34, num_inference_steps=6, output_type="pt")
    plain = clip(pipe, **arguments)
    dita.enable(pipe, "fora:2")
    fast = clip(pipe, **arguments)
    assert fast.shape == plain.shape and not torch.equal(fast, plain)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 12
    assert summary.kinds == dita.FORA(2).plan(summary.shape, 6).kinds * 2
    dita.disable(pipe)
    assert torch.equal(clip(pipe, **arguments), plain)


def test_reference_frames_are_kept_in_cached_steps() -> None:
    pipe = tiny_pipeline()
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3))
    arguments = dict(image=picture, num_frames=17, num_inference_steps=6)
    plain = clip(pipe, **arguments)
    dita.enable(pipe, dita.ToCa(3, 0.5, schedule="constant"))
    fast = clip(pipe, **arguments)
    assert torch.equal(fast[:, :, 0], plain[:, :, 0]) and not torch.equal(fast[:, :, 1:], plain[:, :, 1:])


def test_the_accelerated_pipeline_shares_settings_and_saves_as_the_stock_one(tmp_path) -> None:
    pipe = tiny_pipeline()
    fast = AcceleratedOpenSoraPipeline.from_pipe(pipe, method="toca:3:0.9")
    assert fast.transformer is pipe.transformer and fast.sizes == pipe.sizes
    plain = call(pipe)
    assert not torch.equal(call(fast), plain)
    assert torch.equal(call(fast, method=None), plain)
    assert torch.equal(call(pipe), plain)
    fast.save_pretrained(tmp_path)
    loaded = OpenSoraPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(call(loaded), plain)
    again = AcceleratedOpenSoraPipeline.from_pretrained(tmp_path, method="fora:2")
    again.set_progress_bar_config(disable=True)
    assert not torch.equal(call(again), plain)


@pytest.mark.slow
def test_cached_blocks_compile_as_full_graphs() -> None:
    model, inputs = tiny_transformer(), transformer_inputs()
    dita.enable(model, dita.ToCa(3, 0.5, schedule="constant"), steps=6)
    expected = [forward(model, inputs, s / 6) for s in range(6)]
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    for s in range(6):
        torch.testing.assert_close(forward(model, inputs, s / 6), expected[s], rtol=1e-4, atol=1e-4)
