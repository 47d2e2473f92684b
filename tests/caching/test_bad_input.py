"""Bad input: a clear error that names the value and what is allowed, and a pipeline left as it was."""

from __future__ import annotations

import pytest
import torch
from diffusers import LatteTransformer3DModel

import dita
from dita.caching.adapters import UnsupportedModelError
from dita.caching.attachment import attachment_of
from dita.caching.room import CacheMemoryError
from tests import tiny_pixart
from tests.tiny_flux import call, prompts, tiny_pipeline, tiny_transformer


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return call(tiny_pipeline())


def assert_untouched(pipe, plain: torch.Tensor) -> None:
    assert not any("_dita" in vars(module) for module in pipe.transformer.modules())
    assert attachment_of(pipe) is None
    assert torch.equal(call(pipe), plain)


def test_an_unknown_family_lists_the_supported_ones() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="does not support Linear; supported families: flux"):
        dita.enable(model, "toca", steps=4)


def test_a_transformer_of_another_family_is_refused() -> None:
    sizes = {"num_attention_heads": 1, "attention_head_dim": 8, "num_layers": 1, "sample_size": 4}
    model = LatteTransformer3DModel(**sizes, patch_size=2, in_channels=4, caption_channels=8)
    with pytest.raises(UnsupportedModelError, match="LatteTransformer3DModel; supported families: flux, pixart, dit"):
        dita.enable(model, "toca", steps=4)


def test_what_is_no_model_at_all() -> None:
    with pytest.raises(UnsupportedModelError, match="str has no transformer"):
        dita.enable("black-forest-labs/FLUX.1-dev", "toca")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("tocca:4", r"unknown method 'tocca'; known: plain, steps, fora, toca"),
        ("toca:0:0.9", "cycle must be a whole number, at least 1.*got 0"),
        ("toca:4:1.5", r"ratio must be in \[0, 1\].*got 1.5"),
        ("toca:4:0.9:attn", "unknown score 'attn'; known: attention-sampled, attention"),
        ("toca:schedule=cosine", "unknown schedule 'cosine'; known: toca, constant"),
        ("fora:-1", "cycle must be a whole number, at least 1.*got -1"),
        ("steps:0", r"fraction must be in \(0, 1\], got 0"),
        ("tgate", "tgate does not run on flux: it gates cross-attention, and that family has none; families: pixart"),
        ("pab:2:mlp=true", "mlp=True does not run on flux"),
        ("toca:4:0.9:frame-uniqueness", "compares the frames of a video, and flux makes pictures"),
        ("taylorseer:4:-1", "order must be a whole number, at least 0 .*got -1"),
        (3, "method must be a dita method.*got 3"),
    ],
)
def test_a_bad_method(pipe, plain, method, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dita.enable(pipe, method)
    assert_untouched(pipe, plain)


def test_a_bad_method_keeps_the_one_that_is_enabled(pipe) -> None:
    dita.enable(pipe, "fora:3")
    with pytest.raises(ValueError, match="unknown method"):
        dita.enable(pipe, "nothing")
    call(pipe)
    assert dita.summary(pipe, show=False).method == dita.FORA(3)


def test_steps_are_for_bare_transformers_and_required_there(pipe) -> None:
    with pytest.raises(ValueError, match="steps and calls_per_step are for bare transformers"):
        dita.enable(pipe, "toca", steps=8)
    with pytest.raises(ValueError, match=r"pass steps, at least 1.*steps=None"):
        dita.enable(tiny_transformer(), "toca")
    with pytest.raises(ValueError, match="got steps=0"):
        dita.enable(tiny_transformer(), "toca", steps=0)


def test_timesteps_are_one_for_each_step_of_a_bare_transformer(pipe) -> None:
    with pytest.raises(ValueError, match="for bare transformers, and so are timesteps"):
        dita.enable(pipe, "toca", timesteps=[1000.0])
    with pytest.raises(ValueError, match="timesteps must be one for each of the 8 steps, got 3"):
        dita.enable(tiny_transformer(), "toca", steps=8, timesteps=[1000.0, 500.0, 1.0])


def test_a_gate_beyond_the_last_step_leaves_the_pipeline_usable() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    dita.enable(pipe, "tgate:9")
    with pytest.raises(ValueError, match="gate must be at most the number of steps, 8, got 9"):
        tiny_pixart.call(pipe)
    tiny_pixart.call(pipe, steps=9)
    assert dita.summary(pipe, show=False).steps == 9


def test_an_order_above_the_number_of_full_steps_is_lowered_with_a_warning(pipe) -> None:
    dita.enable(pipe, dita.TaylorSeer(4, 4))
    with pytest.warns(dita.LoweredOrderWarning, match="order 4 needs more full steps than the 4 of these 8 steps"):
        assert torch.isfinite(call(pipe, steps=8)).all()


def test_cycles_longer_than_the_run_warn_that_nothing_is_saved(pipe, plain) -> None:
    dita.enable(pipe, "toca:9:0.9")
    with pytest.warns(dita.NothingToSkipWarning, match="saves nothing in 3 steps"):
        fast = call(pipe, steps=3)
    dita.disable(pipe)
    assert torch.equal(fast, call(pipe, steps=3))


@pytest.mark.parametrize(("height", "width"), [(28, 32), (32, 20)])
def test_cells_that_do_not_divide_the_grid(pipe, height: int, width: int) -> None:
    dita.enable(pipe, dita.ToCa(3, 0.5, spatial_bonus=0.4, spatial_grid=4))
    message = rf"cells of 4x4 image tokens, which do not divide this picture's {height // 4}x{width // 4} tokens"
    with pytest.raises(ValueError, match=message):
        call(pipe, height=height, width=width)
    assert torch.isfinite(call(pipe)).all(), "the next call with a good size is right"


def test_a_grid_need_not_be_square_for_the_spatial_bonus(pipe) -> None:
    dita.enable(pipe, dita.ToCa(3, 0.5, spatial_bonus=0.4, spatial_grid=2))
    assert torch.isfinite(call(pipe, height=16, width=48)).all()


def test_image_tokens_without_a_grid_have_no_spatial_bonus() -> None:
    from tests.tiny_flux import transformer_inputs

    model = tiny_transformer()
    dita.enable(model, dita.ToCa(3, 0.5, spatial_bonus=0.4), steps=4)
    inputs = transformer_inputs()
    inputs["img_ids"] = inputs["img_ids"].roll(1, dims=0)
    with pytest.raises(ValueError, match="spatial_bonus needs image tokens that form one grid"):
        model(**inputs, timestep=torch.ones(1))


def test_nan_in_the_latents(pipe, plain) -> None:
    latents = torch.randn(1, 64, 16)
    latents[0, 3, 2] = float("nan")
    dita.enable(pipe, "toca")
    with pytest.raises(ValueError, match="latents at step 0 hold 1 values that are NaN or infinite"):
        call(pipe, latents=latents)
    dita.disable(pipe)
    assert_untouched(pipe, plain)


def test_a_store_that_does_not_fit_is_refused_before_anything_runs(pipe) -> None:
    seen = []
    pipe.transformer.x_embedder.register_forward_hook(lambda *_: seen.append(1))
    dita.enable(pipe, "toca", memory_limit=1000)
    with pytest.raises(CacheMemoryError, match=r"feature store of toca needs 0\.1 MiB and 0\.0 MiB are available"):
        call(pipe)
    assert not seen
    dita.enable(pipe, "toca")
    call(pipe)


def test_a_negative_memory_limit(pipe) -> None:
    with pytest.raises(ValueError, match="memory_limit must be at least 0 bytes, got -1"):
        dita.enable(pipe, "toca", memory_limit=-1)


def test_fewer_steps_cannot_respace_given_sigmas(pipe) -> None:
    dita.enable(pipe, "steps:0.5")
    with pytest.raises(ValueError, match="spaces the steps itself; call the pipeline without sigmas"):
        call(pipe, sigmas=[1.0, 0.5])


def test_a_summary_before_any_run(pipe) -> None:
    with pytest.raises(RuntimeError, match="dita is not enabled on this FluxPipeline"):
        dita.summary(pipe)
    dita.enable(pipe, "toca")
    with pytest.raises(RuntimeError, match="has not run since dita was enabled"):
        dita.summary(pipe)


def test_a_pipeline_that_is_sampling_already(pipe) -> None:
    dita.enable(pipe, "toca")

    def reenter(pipeline, step, *_):
        if step == 0:
            call(pipeline)
        return {}

    with pytest.raises(RuntimeError, match="sampling already"):
        call(pipe, callback_on_step_end=reenter)
    assert torch.isfinite(call(pipe)).all()


def test_true_cfg_with_prompts_of_different_length_is_the_stock_error(pipe) -> None:
    dita.enable(pipe, "toca")
    negative = prompts(1, text_tokens=9)
    with pytest.raises(ValueError, match="must have the same shape"):
        call(pipe, true_cfg_scale=2.0, **{f"negative_{name}": value for name, value in negative.items()})
