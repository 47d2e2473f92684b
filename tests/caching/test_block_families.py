"""What PixArt and DiT do beyond the contracts: guidance in one batch, cross-attention, samplers, attention backends."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
)
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.attention_processor import AttnProcessor

import dita
from dita.methods import SCORES
from dita.shapes import Kind, Site
from tests import tiny_dit, tiny_pixart
from tests.tiny_pixart import LENGTHS, prompts

# the Heun scheduler of diffusers hands tensors to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")

CONSTANT = dita.ToCa(3, 0.5, schedule="constant")


@pytest.fixture(params=[tiny_pixart, tiny_dit], ids=lambda module: module.FAMILY)
def family(request):
    return request.param


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0)


def selections(pipe) -> dict[tuple[int, Site], torch.Tensor]:
    return dita.summary(pipe, show=False).selections


# ------------------------------------------------------------------------------------------------ what is computed


def test_partial_on_all_tokens_recomputes_cross_attention_and_mlp_on_the_cached_self_attention(family) -> None:
    """Against a plain-Python rendering of a cached step, block by block."""
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    dita.enable(model, dita.ToCa(6, 0.0, schedule="constant", score="random"), steps=6)
    hidden: list[torch.Tensor] = []
    handle = family.blocks(model)[0].register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    family.forward(model, inputs, 0.0)
    attended = [block._dita.slots["attn"].out for block in family.blocks(model)]
    last = family.blocks(model)[-1]
    outputs: list[torch.Tensor] = []
    last.register_forward_hook(lambda _, __, out: outputs.append(out))
    contexts: list[dict] = []
    last.register_forward_pre_hook(lambda _, __, kwargs: contexts.append(kwargs), with_kwargs=True)
    later = inputs | {"hidden_states": inputs["hidden_states"] * 0.8}
    family.forward(model, later, 0.5)
    dita.disable(model)
    handle.remove()

    x, context = hidden[1], contexts[0]
    for block, stored in zip(family.blocks(model), attended, strict=True):
        if family is tiny_pixart:
            table = block.scale_shift_table[None] + context["timestep"].reshape(2, 6, -1)
            _, _, gate, shift, scale, gate_mlp = table.chunk(6, dim=1)
            norm = block.norm2
        else:
            _, gate, shift, scale, gate_mlp = block.norm1(x, context["timestep"], context["class_labels"], x.dtype)
            gate, shift, scale, gate_mlp = (part[:, None] for part in (gate, shift, scale, gate_mlp))
            norm = block.norm3
        x = x + gate * stored
        if family is tiny_pixart:
            x = x + block.attn2(x, context["encoder_hidden_states"], context["encoder_attention_mask"])
        x = x + gate_mlp * block.ff(norm(x) * (1 + scale) + shift)
    assert close(outputs[0], x)


def test_cross_attention_and_mlp_choose_their_own_tokens_and_numbers() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    dita.enable(pipe, dita.ToCa(3, 0.7), record=True)
    tiny_pixart.call(pipe)
    cross, mlp = (selections(pipe)[1, Site("block", 0, module)] for module in ("cross_attn", "mlp"))
    assert 0 < cross.shape[1] < mlp.shape[1]


@pytest.mark.parametrize(
    "method", [dita.ToCa(3, 0.5, strict=True), dita.ToCa(2, 0.5, cross_cycle=4)], ids=["strict", "apart"]
)
@pytest.mark.parametrize("score", [score for score in SCORES if score != "frame-uniqueness"])
def test_flops_and_bytes_of_strict_runs_and_of_cycles_apart_are_those_of_the_plan(family, method, score: str) -> None:
    method = dataclasses.replace(method, score=score, schedule="constant")
    pipe = dita.enable(family.tiny_pipeline(), method)
    family.call(pipe, count=2, steps=9)
    summary = dita.summary(pipe, show=False)
    plan = method.plan(summary.shape, 9)
    assert summary.kinds == plan.kinds
    assert summary.flops == plan.flops()
    assert summary.score_flops == plan.score_flops
    assert summary.cache_bytes == plan.cache_bytes


def test_a_cycle_of_cross_attention_alone_computes_the_rest_in_full() -> None:
    """cross_cycle 4 and cycle 1: everything but cross-attention is full at every step."""
    pipe = tiny_pixart.tiny_pipeline()
    plain = tiny_pixart.call(pipe)
    dita.enable(pipe, dita.ToCa(1, 0.0, cross_cycle=4, schedule="constant"))
    assert close(tiny_pixart.call(pipe), plain), "all tokens of cross-attention are computed, too"
    dita.enable(pipe, dita.ToCa(1, 1.0, cross_cycle=4))
    reused = tiny_pixart.call(pipe)
    assert torch.isfinite(reused).all() and not close(reused, plain)


def test_prompts_of_every_length_in_one_batch_give_what_each_gives_alone() -> None:
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), dita.ToCa(3, 0.7))
    together = tiny_pixart.call(pipe, count=4)
    assert len(set(LENGTHS[:4])) == 4
    for i in range(4):
        assert close(together[i : i + 1], tiny_pixart.call(pipe, first=i))


def test_padding_does_not_change_the_entropy() -> None:
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), dita.ToCa(3, 0.7), record=True)
    tiny_pixart.call(pipe)
    short = selections(pipe)
    given = prompts()
    pad = {name: torch.nn.functional.pad(value, (0, 0, 0, 5)) for name, value in given.items() if "embeds" in name}
    pad |= {name: torch.nn.functional.pad(value, (0, 5)) for name, value in given.items() if "mask" in name}
    tiny_pixart.call(pipe, **pad)
    assert all(torch.equal(index, short[key]) for key, index in selections(pipe).items())


def test_a_prompt_of_another_length_in_the_next_call() -> None:
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), dita.ToCa(3, 0.7))
    first = tiny_pixart.call(pipe)
    tiny_pixart.call(pipe, **prompts(text_tokens=9))
    assert dita.summary(pipe, show=False).shape.text_tokens == 9
    assert torch.equal(tiny_pixart.call(pipe), first)


def test_pictures_that_the_papers_cells_do_not_divide() -> None:
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), dita.ToCa(3, 0.7))
    assert torch.isfinite(tiny_pixart.call(pipe, height=24, width=40)).all()
    dita.enable(pipe, dita.ToCa(3, 0.7, spatial_grid=4))
    with pytest.raises(ValueError, match="cells of 4x4 image tokens, which do not divide this picture's 6x10 tokens"):
        tiny_pixart.call(pipe, height=24, width=40)


def test_micro_conditions() -> None:
    pipe = tiny_pixart.tiny_pipeline(sample_size=128, interpolation_scale=2, use_additional_conditions=True)
    plain = tiny_pixart.call(pipe)
    dita.enable(pipe, "toca:1:0.7")
    assert torch.equal(tiny_pixart.call(pipe), plain)
    dita.enable(pipe, "toca:3:0.7")
    assert not torch.equal(tiny_pixart.call(pipe), plain)
    assert dita.summary(pipe, show=False).shape.micro_conditions


# ------------------------------------------------------------------------------------------------ guidance


@pytest.mark.parametrize("score", [score for score in SCORES if score != "frame-uniqueness"])
def test_the_halves_of_guidance_compute_the_same_tokens(family, score: str) -> None:
    pipe = dita.enable(family.tiny_pipeline(), dita.ToCa(3, 0.5, score=score, schedule="constant"), record=True)
    family.call(pipe, count=2)
    shape = dita.summary(pipe, show=False).shape
    assert shape.guided and (shape.batch, shape.rows) == (2, 4)
    for index in selections(pipe).values():
        first, second = index.chunk(2)
        assert torch.equal(first, second)


@pytest.mark.parametrize("score", ["kv-norm", "norm", "similarity"])
def test_strict_halves_choose_for_themselves(family, score: str) -> None:
    method = dita.ToCa(3, 0.5, score=score, schedule="constant", strict=True)
    pipe = dita.enable(family.tiny_pipeline(), method, record=True)
    family.call(pipe)
    assert any(not torch.equal(*index.chunk(2)) for index in selections(pipe).values())


@pytest.mark.parametrize("score", [score for score in SCORES if score != "frame-uniqueness"])
def test_guidance_between_equal_conditions_changes_nothing(score: str) -> None:
    method = dita.ToCa(3, 0.5, score=score, schedule="constant")
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), method)
    given = prompts()
    same = {f"negative_{name}": given[name] for name in ("prompt_embeds", "prompt_attention_mask")}
    alone = tiny_pixart.call(pipe, guidance_scale=1.0)
    assert not dita.summary(pipe, show=False).shape.guided
    assert close(tiny_pixart.call(pipe, **same), alone)


def test_two_prompts_on_one_noise_without_guidance_are_no_halves() -> None:
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), dita.ToCa(3, 0.7), record=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    both = tiny_pixart.call(pipe, count=2, guidance_scale=1.0, latents=noise.repeat(2, 1, 1, 1))
    assert not dita.summary(pipe, show=False).shape.guided
    assert close(both[1:], tiny_pixart.call(pipe, first=1, guidance_scale=1.0, latents=noise))


def test_several_pictures_of_a_prompt() -> None:
    pipe = dita.enable(tiny_pixart.tiny_pipeline(), dita.ToCa(3, 0.7))
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    both = tiny_pixart.call(pipe, num_images_per_prompt=2, latents=noise, generator=None)
    assert close(both[1:], tiny_pixart.call(pipe, latents=noise[1:]))


# ------------------------------------------------------------------------------------------------ samplers


@pytest.mark.parametrize(
    ("scheduler", "evaluations"),
    [
        (DPMSolverMultistepScheduler, 8),
        (DPMSolverSinglestepScheduler, 8),
        (HeunDiscreteScheduler, 15),
        (KDPM2DiscreteScheduler, 15),
    ],
)
def test_a_step_of_the_plan_is_one_evaluation_of_the_model(family, scheduler, evaluations: int) -> None:
    pipe = family.tiny_pipeline()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    plain = family.call(pipe)
    dita.enable(pipe, "toca:1:0.7")
    assert torch.equal(family.call(pipe), plain)
    dita.enable(pipe, CONSTANT)
    family.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert [call.branch for call in summary.executed] == [0] * evaluations
    assert summary.kinds == CONSTANT.plan(summary.shape, evaluations).kinds
    assert summary.plain_flops == CONSTANT.plan(summary.shape, evaluations).plain_flops


def test_fewer_steps_of_a_second_order_sampler_stand_for_all_its_evaluations(family) -> None:
    pipe = family.tiny_pipeline()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    dita.enable(pipe, "steps:0.5")
    family.call(pipe, steps=8)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 7  # two for each of 4 steps, but one for the last
    assert summary.plain_flops / summary.flops == pytest.approx(15 / 7)


# ------------------------------------------------------------------------------------------------ attention backends


@pytest.fixture
def active_backend(monkeypatch: pytest.MonkeyPatch):
    """Sets what `set_attention_backend` sets, for one test."""

    def choose(name: str) -> None:
        monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", AttentionBackendName(name))

    return choose


def test_a_chosen_backend_takes_effect_in_full_and_in_cached_steps(family, monkeypatch, active_backend) -> None:
    pipe = family.tiny_pipeline()
    dita.enable(pipe, CONSTANT)
    native = family.call(pipe)
    calls: list[int] = []
    math = _AttentionBackendRegistry._backends[AttentionBackendName._NATIVE_MATH]

    def counting(**kwargs):
        calls.append(kwargs["query"].shape[1])
        return math(**kwargs)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName._NATIVE_MATH, counting)
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", AttentionBackendName.NATIVE)
    pipe.transformer.set_attention_backend("_native_math")
    assert close(family.call(pipe), native)
    full = dita.summary(pipe, show=False).kinds.count(Kind.FULL)
    layers = len(family.blocks(pipe.transformer))
    assert calls.count(64) == full * layers * (2 if family is tiny_pixart else 1)
    if family is tiny_pixart:  # queries of a partial step's cross-attention
        assert calls.count(32) == (8 - full) * layers


def test_a_backend_that_cannot_take_effect_is_an_error(family, active_backend) -> None:
    pipe = family.tiny_pipeline()
    plain = family.call(pipe)
    pipe.transformer.transformer_blocks[1].attn1.set_processor(AttnProcessor())
    dita.enable(pipe, CONSTANT)
    active_backend("_native_math")
    with pytest.raises(ValueError, match=r"'_native_math' has no effect on the AttnProcessor of transformer_blocks.1"):
        family.call(pipe)
    active_backend("native")
    dita.disable(pipe)
    assert close(family.call(pipe), plain)


def test_xformers_where_it_cannot_run_is_a_clear_error(family, active_backend) -> None:
    pipe = dita.enable(family.tiny_pipeline(), CONSTANT)
    active_backend("xformers")
    with pytest.raises(ValueError, match=r"'xformers' needs a CUDA device.*cpu.*set_attention_backend\('native'\)"):
        family.call(pipe)


@pytest.mark.parametrize("score", ["attention", "k-norm", "v-norm", "kv-norm"])
def test_other_processors_score_and_run_as_they_are(family, score: str) -> None:
    method = dita.ToCa(3, 0.5, score=score, schedule="constant")
    expected = family.call(dita.enable(family.tiny_pipeline(), method))
    pipe = family.tiny_pipeline()
    for module in pipe.transformer.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(AttnProcessor())
    assert close(family.call(dita.enable(pipe, method)), expected)


@pytest.mark.parametrize("score", ["attention", "k-norm", "v-norm", "kv-norm"])
def test_fused_projections(score: str) -> None:
    method = dita.ToCa(3, 0.5, score=score, schedule="constant")
    expected = tiny_pixart.call(dita.enable(tiny_pixart.tiny_pipeline(), method))
    pipe = tiny_pixart.tiny_pipeline()
    pipe.transformer.fuse_qkv_projections()
    assert close(tiny_pixart.call(dita.enable(pipe, method)), expected)


# ------------------------------------------------------------------------------------------------ beside others


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
@pytest.mark.parametrize("offload_first", [True, False])
def test_group_offloading_before_and_after_enabling(level: str, offload_first: bool) -> None:
    expected = tiny_pixart.call(dita.enable(tiny_pixart.tiny_pipeline(), CONSTANT))
    pipe, cpu = tiny_pixart.tiny_pipeline(), torch.device("cpu")
    blocks = {"num_blocks_per_group": 1} if level == "block_level" else {}

    def offload() -> None:
        apply_group_offloading(pipe.transformer, onload_device=cpu, offload_device=cpu, offload_type=level, **blocks)

    if offload_first:
        offload()
    dita.enable(pipe, CONSTANT)
    if not offload_first:
        offload()
    assert torch.equal(tiny_pixart.call(pipe), expected)


def test_layerwise_casting(family) -> None:
    pipe = family.tiny_pipeline()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    plain = family.call(pipe)
    dita.enable(pipe, "toca:1:0.9")
    assert torch.equal(family.call(pipe), plain)
    dita.enable(pipe, CONSTANT)
    assert torch.isfinite(family.call(pipe)).all()
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strict", [False, True])
def test_half_precision(family, dtype: torch.dtype, strict: bool) -> None:
    model, inputs = family.tiny_transformer().to(dtype), family.transformer_inputs()
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    dita.enable(model, dita.ToCa(3, 0.5, strict=strict), steps=6)
    for s in range(6):
        out = family.forward(model, inputs, s / 6)
        assert out.dtype == dtype and torch.isfinite(out).all()
    assert dita.summary(model, show=False).shape.element_bytes == 2


def test_compiled_blocks_share_a_few_graphs_whatever_the_depth(family) -> None:
    from torch._dynamo.testing import CompileCounter

    counts = {}
    for depth in (4, 9):
        torch._dynamo.reset()
        eager = sample(family, dita.enable(family.tiny_transformer(1, depth), CONSTANT, steps=8))
        counter = CompileCounter()
        model = dita.enable(family.tiny_transformer(1, depth), CONSTANT, steps=8)
        for block in family.blocks(model):
            block.compile(fullgraph=True, backend=counter)
        assert close(sample(family, model), eager)
        counts[depth] = counter.frame_count
        sample(family, model)
        assert counter.frame_count == counts[depth], "a second run compiles nothing"
    assert counts[4] == counts[9]
    torch._dynamo.reset()


def sample(family, model) -> torch.Tensor:
    inputs = family.transformer_inputs()
    for s in range(8):
        inputs["hidden_states"] = inputs["hidden_states"] - family.forward(model, inputs, s / 8) / 8
    return inputs["hidden_states"]


def test_a_plain_copy_of_the_weights_can_be_taken_while_enabled(family) -> None:
    pipe = dita.enable(family.tiny_pipeline(), CONSTANT)
    weights = copy.deepcopy(pipe.transformer.state_dict())
    family.tiny_transformer(seed=4).load_state_dict(weights, strict=True)
