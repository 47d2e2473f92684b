"""The contracts that every family keeps (design.md), on a tiny random FLUX."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxImg2ImgPipeline

import dita
from dita.caching.state import BlockState
from dita.methods import SCORES
from dita.shapes import Kind, Site
from tests.tiny_flux import call, prompts, tiny_pipeline, tiny_transformer, transformer_inputs


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return call(tiny_pipeline())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0)


# ------------------------------------------------------------------------------------------------ nothing changes


@pytest.mark.parametrize("method", ["plain", "toca:1:0.9", "fora:1", "steps:1.0"])
def test_a_method_that_skips_nothing_is_bit_equal_to_plain(pipe, plain, method: str) -> None:
    dita.enable(pipe, method)
    assert torch.equal(call(pipe), plain)


def test_full_steps_that_store_features_are_bit_equal_to_the_stock_forward() -> None:
    model, inputs = tiny_transformer(), transformer_inputs(batch=2)
    timestep = torch.tensor([0.7, 0.7])
    expected = model(**inputs, timestep=timestep, return_dict=False)[0]
    for score in SCORES:
        dita.enable(model, dita.ToCa(4, 0.5, score=score, warmup=1), steps=8)
        assert torch.equal(model(**inputs, timestep=timestep, return_dict=False)[0], expected), score


def test_disable_restores_classes_keys_and_output(pipe, plain) -> None:
    call(pipe)  # diffusers' own cache_context leaves a registry on the model
    model = pipe.transformer
    classes, keys = [type(m) for m in model.modules()], list(model.state_dict())
    attributes = [set(vars(m)) for m in model.modules()]
    pipe_class = type(pipe)
    dita.enable(pipe, "toca:4:0.9")
    assert list(model.state_dict()) == keys
    assert [type(m).__name__ for m in model.modules()] == [c.__name__ for c in classes]
    assert isinstance(pipe, pipe_class) and type(pipe).__name__ == pipe_class.__name__
    call(pipe)
    dita.disable(pipe)
    assert [type(m) for m in model.modules()] == classes
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert type(pipe) is pipe_class
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(call(pipe), plain)


def test_disabling_twice_or_without_enabling_is_harmless(pipe, plain) -> None:
    dita.disable(pipe)
    dita.enable(pipe, "fora:3")
    dita.disable(pipe)
    dita.disable(pipe)
    assert torch.equal(call(pipe), plain)


def test_enabling_again_replaces_the_method(pipe) -> None:
    dita.enable(pipe, "fora:2")
    call(pipe)
    dita.enable(pipe, "fora:4")
    call(pipe)
    summary = dita.summary(pipe, show=False)
    assert summary.method == dita.FORA(4)
    assert [s for s, kind in enumerate(summary.kinds) if kind is Kind.FULL] == [0, 4]
    dita.disable(pipe)
    assert type(pipe.transformer.transformer_blocks[0].attn).__mro__[1] is not type(
        pipe.transformer.transformer_blocks[0].attn
    )


# ------------------------------------------------------------------------------------------------ what is computed


def test_partial_on_all_tokens_equals_the_mlp_recomputed_on_the_cached_attention() -> None:
    """Against a plain-Python rendering of a cached step, block by block."""
    model, inputs = tiny_transformer(), transformer_inputs(batch=2)
    dita.enable(model, dita.ToCa(2, 0.0, schedule="constant", score="random", warmup=1), steps=2)
    model(**inputs, timestep=torch.tensor([0.9, 0.9]), return_dict=False)
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    stored: list[BlockState] = [block._dita for block in blocks]
    attention = [s.slots["attn"].out for s in stored[:2]]
    inner = [s.slots["single"].inner.clone() for s in stored[2:]]

    later = dict(inputs, hidden_states=inputs["hidden_states"] * 0.8)
    got = model(**later, timestep=torch.tensor([0.5, 0.5]), return_dict=False)[0]
    dita.disable(model)

    image = model.x_embedder(later["hidden_states"])
    text = model.context_embedder(inputs["encoder_hidden_states"])
    temb = model.time_text_embed(torch.tensor([500.0, 500.0]), inputs["pooled_projections"])
    for block, (image_attention, text_attention) in zip(model.transformer_blocks, attention, strict=True):
        _, gate, shift, scale, gate_mlp = block.norm1(image, emb=temb)
        image = image + gate[:, None] * image_attention
        image = image + gate_mlp[:, None] * block.ff(block.norm2(image) * (1 + scale[:, None]) + shift[:, None])
        _, gate, shift, scale, gate_mlp = block.norm1_context(text, emb=temb)
        text = text + gate[:, None] * text_attention
        normed = block.norm2_context(text) * (1 + scale[:, None]) + shift[:, None]
        text = text + gate_mlp[:, None] * block.ff_context(normed)
    joint = torch.cat([text, image], dim=1)
    for block, attended in zip(model.single_transformer_blocks, inner, strict=True):
        normed, gate = block.norm(joint, emb=temb)
        hidden = torch.cat([attended, block.act_mlp(block.proj_mlp(normed))], dim=2)
        joint = joint + gate[:, None] * block.proj_out(hidden)
    expected = model.proj_out(model.norm_out(joint[:, text.shape[1] :], temb))
    assert close(got, expected)


@pytest.mark.parametrize("score", SCORES)
def test_a_batch_of_two_prompts_gives_what_each_gives_alone(pipe, score: str) -> None:
    dita.enable(pipe, dita.ToCa(4, 0.6, score=score))
    both = call(pipe, count=2)
    assert close(both[:1], call(pipe, count=1))
    assert close(both[1:], call(pipe, count=1, first=1))


@pytest.mark.parametrize("score", SCORES)
def test_same_seed_and_method_give_the_same_output(pipe, score: str) -> None:
    dita.enable(pipe, dita.ToCa(4, 0.6, score=score))
    assert torch.equal(call(pipe), call(pipe))


def test_the_seed_of_random_selection_matters(pipe) -> None:
    dita.enable(pipe, dita.ToCa(4, 0.6, score="random", seed=0))
    first = call(pipe)
    dita.enable(pipe, dita.ToCa(4, 0.6, score="random", seed=1))
    assert not torch.equal(first, call(pipe))


def test_fora_is_toca_without_tokens(pipe) -> None:
    dita.enable(pipe, "fora:3")
    expected = call(pipe)
    dita.enable(pipe, dita.ToCa(3, 1.0))
    assert torch.equal(call(pipe), expected)


def test_executed_actions_flops_and_bytes_are_those_of_the_plan(pipe) -> None:
    for score in SCORES:
        method = dita.ToCa(4, 0.6, score=score)
        dita.enable(pipe, method, record=True)
        call(pipe, count=2)
        summary = dita.summary(pipe, show=False)
        plan = method.plan(summary.shape, 8)
        assert summary.kinds == plan.kinds
        assert summary.flops == plan.flops() and summary.plain_flops == plan.plain_flops
        assert summary.score_flops == plan.score_flops
        assert summary.token_share == plan.token_share()
        assert summary.cache_bytes == plan.cache_bytes
        for (step, site), index in summary.selections.items():
            assert index.shape == (2, plan.steps[step][site].tokens)


def test_a_cycle_computes_every_token_before_any_twice() -> None:
    """With a heavy age term, selection is a round-robin (spec/methods.md 1.5)."""
    pipe = tiny_pipeline()
    dita.enable(pipe, dita.ToCa(5, 0.75, schedule="constant", age_weight=100.0), record=True)
    call(pipe, steps=7)
    selections = dita.summary(pipe, show=False).selections
    chosen = torch.cat([selections[s, Site("double", 0, "mlp")][0] for s in (3, 4, 5, 6)])
    assert sorted(chosen.tolist()) == list(range(256 // 4))


# ------------------------------------------------------------------------------------------------ one instance only


def test_two_pipelines_with_different_methods_do_not_touch_each_other(plain) -> None:
    one, two, untouched = tiny_pipeline(), tiny_pipeline(), tiny_pipeline()
    dita.enable(one, "toca:4:0.9")
    dita.enable(two, "fora:2")
    alone = call(one)
    call(two)
    assert torch.equal(call(one), alone)
    assert dita.summary(one, show=False).method == dita.ToCa(4, 0.9)
    assert dita.summary(two, show=False).method == dita.FORA(2)
    assert torch.equal(call(untouched), plain)
    dita.disable(one)
    assert torch.equal(call(one), plain)
    assert dita.summary(two, show=False).method == dita.FORA(2)


def test_pipelines_that_share_a_transformer_keep_their_own_method(pipe, plain) -> None:
    twin = type(pipe)(**pipe.components)
    twin.set_progress_bar_config(disable=True)
    dita.enable(twin, "toca:4:0.9")
    accelerated = call(twin)
    assert torch.equal(call(pipe), plain)
    assert not torch.equal(accelerated, plain)
    dita.enable(pipe, "fora:2")
    call(pipe)
    assert torch.equal(call(twin), accelerated)
    dita.disable(twin)
    assert torch.equal(call(twin), plain)
    assert not torch.equal(call(pipe), plain)
    dita.disable(pipe)
    assert torch.equal(call(pipe), plain)


def test_a_transformer_put_in_later_is_accelerated_and_the_old_one_restored(pipe) -> None:
    old = pipe.transformer
    dita.enable(pipe, "fora:2")
    pipe.transformer = tiny_transformer(seed=5)
    call(pipe)
    assert dita.summary(pipe, show=False).kinds.count(Kind.REUSE) == 4
    assert not any("_dita" in vars(m) for m in old.modules())


# ------------------------------------------------------------------------------------------------ calls of all kinds


class Boom(Exception):
    pass


def test_an_exception_in_a_call_leaves_the_pipeline_usable_and_the_next_call_right(pipe) -> None:
    dita.enable(pipe, "toca:4:0.9")
    expected = call(pipe)

    def explode(_, step, *__):
        if step == 4:
            raise Boom
        return {}

    with pytest.raises(Boom):
        call(pipe, callback_on_step_end=explode)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 5
    assert all(not list(slot.tensors()) for b in pipe.transformer.transformer_blocks for slot in b._dita.slots.values())
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(call(pipe), expected)


def test_an_interrupted_call_ends_early_and_frees_the_store(pipe) -> None:
    dita.enable(pipe, "toca:4:0.9")
    expected = call(pipe)

    def interrupt(pipeline, step, *_):
        pipeline._interrupt = step >= 4
        return {}

    call(pipe, callback_on_step_end=interrupt)
    assert dita.summary(pipe, show=False).steps == 5
    assert torch.equal(call(pipe), expected)


def test_another_resolution_and_step_count_in_the_next_call(pipe) -> None:
    dita.enable(pipe, "toca:4:0.9")
    first = call(pipe)
    call(pipe, height=16, width=48, steps=5)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 5 and summary.shape.image_tokens == 4 * 12
    assert torch.equal(call(pipe), first)


def test_passing_latents_and_several_images_per_prompt(pipe) -> None:
    noise = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    dita.enable(pipe, "toca:4:0.9")
    both = call(pipe, num_images_per_prompt=2, latents=noise)
    assert close(both[1:], call(pipe, latents=noise[1:]))


def test_true_cfg_keeps_features_apart_and_shares_selections(pipe) -> None:
    negative = prompts(1, first=3)
    cfg = {
        "true_cfg_scale": 2.0,
        "negative_prompt_embeds": negative["prompt_embeds"],
        "negative_pooled_prompt_embeds": negative["pooled_prompt_embeds"],
    }
    dita.enable(pipe, "plain")
    plain = call(pipe, **cfg)
    dita.enable(pipe, "toca:1:0.9")
    assert torch.equal(call(pipe, **cfg), plain)
    dita.enable(pipe, "toca:4:0.5")
    fast = call(pipe, **cfg)
    summary = dita.summary(pipe, show=False)
    assert [c.branch for c in summary.executed] == [0, 1] * 8
    assert summary.steps == 8
    assert not torch.equal(fast, plain)
    # the same prompt on both sides: both calls must do the same, so guidance changes nothing
    same = {**cfg, **{f"negative_{k}": v for k, v in prompts(1).items()}}
    assert close(call(pipe, **same), call(pipe))


@pytest.mark.parametrize("score", ["norm", "similarity"])
def test_true_cfg_with_scores_that_are_known_in_the_cached_step_only(pipe, score: str) -> None:
    same = {"true_cfg_scale": 2.0, **{f"negative_{k}": v for k, v in prompts(1).items()}}
    dita.enable(pipe, dita.ToCa(4, 0.5, score=score))
    assert close(call(pipe, **same), call(pipe))


def test_image_to_image_starts_mid_way(pipe) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    img2img = FluxImg2ImgPipeline(**pipe.components)
    img2img.set_progress_bar_config(disable=True)
    dita.enable(img2img, "toca:3:0.9")
    call(img2img, image=image, strength=0.6, steps=10)
    summary = dita.summary(img2img, show=False)
    assert summary.kinds == dita.ToCa(3, 0.9).plan(summary.shape, 6).kinds
    dita.enable(img2img, "toca:1:0.9")
    fast = call(img2img, image=image, strength=0.6, steps=10)
    dita.disable(img2img)
    assert torch.equal(fast, call(img2img, image=image, strength=0.6, steps=10))


def test_fewer_steps_equals_the_plain_pipeline_called_with_fewer(pipe) -> None:
    expected = call(pipe, steps=4)
    dita.enable(pipe, "steps:0.5")
    assert torch.equal(call(pipe, steps=8), expected)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 4 and summary.plain_flops == 2 * summary.flops


def test_a_prompt_of_another_length_in_mid_run_is_computed_in_full(pipe) -> None:
    longer = prompts(1, text_tokens=9)

    def lengthen(_, step, __, tensors):
        return {"prompt_embeds": longer["prompt_embeds"]} if step == 4 else tensors

    dita.enable(pipe, "fora:8")
    with pytest.raises(Exception):  # noqa: B017  the rotary embedding of the stock pipeline cannot follow
        call(pipe, callback_on_step_end=lengthen, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert torch.isfinite(call(pipe)).all()


# ------------------------------------------------------------------------------------------------ bare transformers


def sample_bare(model, steps: int, batch: int = 1, calls: int = 1, grid=(8, 8)) -> torch.Tensor:
    inputs = transformer_inputs(batch, grid)
    for s in range(steps):
        for _ in range(calls):
            out = model(**inputs, timestep=torch.full((batch,), 1 - s / steps), return_dict=False)[0]
        inputs["hidden_states"] = inputs["hidden_states"] - out / steps
    return inputs["hidden_states"]


def test_a_bare_transformer_counts_its_own_steps() -> None:
    model = tiny_transformer()
    plain = sample_bare(model, 9)
    dita.enable(model, "toca:4:0.9", steps=9)
    first = sample_bare(model, 9)
    assert dita.summary(model, show=False).steps == 9
    assert not torch.equal(first, plain)
    assert torch.equal(sample_bare(model, 9), first), "the second run starts over"
    dita.disable(model)
    assert torch.equal(sample_bare(model, 9), plain)


def test_a_bare_transformer_starts_over_after_an_exception_and_with_another_size() -> None:
    model = tiny_transformer()
    dita.enable(model, "toca:4:0.9", steps=9)
    expected = sample_bare(model, 9)
    sample_bare(model, 4)
    with pytest.raises((RuntimeError, TypeError)):
        model(**transformer_inputs() | {"pooled_projections": torch.zeros(1, 5)}, timestep=torch.ones(1))
    assert torch.equal(sample_bare(model, 9), expected)
    sample_bare(model, 2, grid=(4, 8))
    assert torch.equal(sample_bare(model, 9), expected)


def test_a_bare_transformer_with_two_calls_a_step() -> None:
    model = tiny_transformer()
    dita.enable(model, "fora:3", steps=6, calls_per_step=2)
    sample_bare(model, 6, calls=2)
    summary = dita.summary(model, show=False)
    assert [c.kind is Kind.FULL for c in summary.executed] == [True, True, *[False] * 4] * 2


def test_the_store_is_freed_at_the_end_of_the_run() -> None:
    model = tiny_transformer()
    dita.enable(model, "toca:4:0.9", steps=4)
    sample_bare(model, 4)
    for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
        assert all(not list(slot.tensors()) and slot.rows is None for slot in block._dita.slots.values())
    assert dita.summary(model, show=False).cache_bytes > 0


def test_recording_keeps_the_selected_tokens(capsys) -> None:
    model = tiny_transformer()
    dita.enable(model, "toca:4:0.5:random", steps=8, record=True)
    sample_bare(model, 8)
    summary = dita.summary(model)
    assert {step for step, _ in summary.selections} == {3, 4, 5, 7}
    index = summary.selections[3, Site("single", 0, "single")]
    assert (index.diff() > 0).all() and index.max() < 70
    assert "4 full, 4 partial" in capsys.readouterr().out
