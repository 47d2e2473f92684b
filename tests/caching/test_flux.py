"""What only FLUX does: its block forwards, true CFG, callbacks, image-to-image."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxImg2ImgPipeline

import dita
from tests.tiny_flux import call, forward, prompts, tiny_pipeline, tiny_transformer, transformer_inputs


@pytest.fixture
def pipe():
    return tiny_pipeline()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0)


def test_partial_on_all_tokens_equals_the_mlp_recomputed_on_the_cached_attention() -> None:
    """Against a plain-Python rendering of a cached step, block by block."""
    model, inputs = tiny_transformer(), transformer_inputs(batch=2)
    dita.enable(model, dita.ToCa(2, 0.0, schedule="constant", score="random", warmup=1), steps=2)
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    attended: list[torch.Tensor] = []
    hooks = [block.attn.register_forward_hook(lambda *a: attended.append(a[-1])) for block in blocks]
    model(**inputs, timestep=torch.tensor([0.9, 0.9]), return_dict=False)
    for hook in hooks:
        hook.remove()
    attention, inner = attended[: len(model.transformer_blocks)], attended[len(model.transformer_blocks) :]

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
    for block, frozen in zip(model.single_transformer_blocks, inner, strict=True):
        normed, gate = block.norm(joint, emb=temb)
        hidden = torch.cat([frozen, block.act_mlp(block.proj_mlp(normed))], dim=2)
        joint = joint + gate[:, None] * block.proj_out(hidden)
    expected = model.proj_out(model.norm_out(joint[:, text.shape[1] :], temb))
    assert close(got, expected)


def test_an_interrupted_call_ends_early_and_frees_the_store(pipe) -> None:
    dita.enable(pipe, "toca:4:0.9")
    expected = call(pipe)

    def interrupt(pipeline, step, *_):
        pipeline._interrupt = step >= 4
        return {}

    call(pipe, callback_on_step_end=interrupt)
    assert dita.summary(pipe, show=False).steps == 5
    assert torch.equal(call(pipe), expected)


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


@pytest.mark.parametrize("score", ["random", "uniform", "attention", "cluster"])
def test_two_calls_with_texts_of_other_lengths_choose_each_for_itself(score: str) -> None:
    """The second call has fewer text tokens: it chooses among its own, as it would alone."""

    def run(*texts: int) -> torch.Tensor:
        model = dita.enable(tiny_transformer(), dita.ToCa(3, 0.5, score=score), steps=6, calls_per_step=len(texts))
        inputs = transformer_inputs()
        for step in range(6):
            for tokens in texts:
                part = {"encoder_hidden_states": inputs["encoder_hidden_states"][:, :tokens]}
                part["txt_ids"] = inputs["txt_ids"][:tokens]
                out = forward(model, inputs | part, step / 6)
        return out

    assert torch.equal(run(6, 4), run(4))


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


def test_a_prompt_of_another_length_in_mid_run_is_computed_in_full(pipe) -> None:
    longer = prompts(1, text_tokens=9)

    def lengthen(_, step, __, tensors):
        return {"prompt_embeds": longer["prompt_embeds"]} if step == 4 else tensors

    dita.enable(pipe, "fora:8")
    with pytest.raises(Exception):  # noqa: B017  the rotary embedding of the stock pipeline cannot follow
        call(pipe, callback_on_step_end=lengthen, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert torch.isfinite(call(pipe)).all()
