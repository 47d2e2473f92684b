"""dita beside what else people do to a FLUX pipeline: LoRA, offloading, casting, compiling, other caches, backends."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import FirstBlockCacheConfig, apply_first_block_cache
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig

import dita
from dita.caching.attachment import attachment_of
from dita.caching.class_swap import ForeignHookError
from tests.nearness import distance
from tests.tiny_flux import call, tiny_pipeline, tiny_transformer, transformer_inputs

METHOD = "toca:4:0.5"


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def accelerated() -> torch.Tensor:
    return call(dita.enable(tiny_pipeline(), METHOD))


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return call(tiny_pipeline())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0)


def add_lora(pipe) -> None:
    torch.manual_seed(9)
    targets = ["to_q", "to_v", "proj_mlp", "proj_out", "ff.net.2", "norm.linear"]
    pipe.transformer.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=targets))


@pytest.mark.parametrize("lora_first", [True, False])
def test_lora_before_and_after_enabling(pipe, accelerated, lora_first: bool) -> None:
    if lora_first:
        add_lora(pipe)
    dita.enable(pipe, METHOD)
    if not lora_first:
        add_lora(pipe)
    with_lora = call(pipe)
    assert not close(with_lora, accelerated)
    reference = tiny_pipeline()
    add_lora(reference)
    reference.transformer.fuse_lora()
    assert close(with_lora, call(dita.enable(reference, METHOD)))
    dita.disable(pipe)
    plain_reference = tiny_pipeline()
    add_lora(plain_reference)
    assert torch.equal(call(pipe), call(plain_reference))


def group_offload(pipe, level: str) -> None:
    cpu = torch.device("cpu")
    blocks = {"num_blocks_per_group": 1} if level == "block_level" else {}
    apply_group_offloading(pipe.transformer, onload_device=cpu, offload_device=cpu, offload_type=level, **blocks)


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
@pytest.mark.parametrize("offload_first", [True, False])
def test_group_offloading_before_and_after_enabling(pipe, accelerated, plain, level: str, offload_first: bool) -> None:
    if offload_first:
        group_offload(pipe, level)
    dita.enable(pipe, METHOD)
    if not offload_first:
        group_offload(pipe, level)
    if level == "leaf_level":  # a joint projection whose weights are elsewhere is not computed by halves
        assert close(call(pipe), accelerated)
    else:
        assert torch.equal(call(pipe), accelerated)
    dita.disable(pipe)
    assert torch.equal(call(pipe), plain)


def fused_lora(pipe) -> None:
    add_lora(pipe)
    pipe.transformer.fuse_lora()


def cast(pipe) -> None:
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


COMPANIONS = {
    "lora": add_lora,
    "fused-lora": fused_lora,
    "leaf-offloading": lambda pipe: group_offload(pipe, "leaf_level"),
    "block-offloading": lambda pipe: group_offload(pipe, "block_level"),
    "layerwise-casting": cast,
}


@pytest.mark.parametrize("companion", COMPANIONS)
@pytest.mark.parametrize("method", ["toca:1:0.9", "fora:1"])
def test_where_nothing_is_skipped_the_output_is_that_of_the_companion_alone(companion: str, method: str) -> None:
    alone, together = tiny_pipeline(), tiny_pipeline()
    for pipe in (alone, together):
        COMPANIONS[companion](pipe)
    dita.enable(together, method)
    assert torch.equal(call(together), call(alone))


@pytest.mark.parametrize("companion", COMPANIONS)
def test_a_cached_run_is_as_near_to_its_plain_one_as_without_the_companion(companion: str, plain, accelerated) -> None:
    pipe = tiny_pipeline()
    COMPANIONS[companion](pipe)
    own = call(pipe)
    assert distance(call(dita.enable(pipe, METHOD)), own) <= 2 * distance(accelerated, plain)


@pytest.mark.parametrize("offload_first", [True, False])
def test_accelerate_hooks_of_model_and_sequential_offloading(pipe, accelerated, plain, offload_first: bool) -> None:
    """On a machine without GPU the hooks are placed by accelerate itself, as the pipeline methods do."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    def offload() -> None:
        add_hook_to_module(pipe.transformer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
        for block in [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]:
            add_hook_to_module(block, AlignDevicesHook(execution_device="cpu"))
            add_hook_to_module(block.attn, AlignDevicesHook(execution_device="cpu"))

    if offload_first:
        offload()
    dita.enable(pipe, METHOD)
    if not offload_first:
        offload()
    assert torch.equal(call(pipe), accelerated)
    dita.disable(pipe)
    assert torch.equal(call(pipe), plain)
    dita.enable(pipe, METHOD)
    remove_hook_from_module(pipe.transformer, recurse=True)
    assert torch.equal(call(pipe), accelerated)
    dita.disable(pipe)
    assert torch.equal(call(pipe), plain)


def test_layerwise_casting(plain) -> None:
    pipe = tiny_pipeline()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    cast_plain = call(pipe)
    dita.enable(pipe, "toca:1:0.9")
    assert torch.equal(call(pipe), cast_plain)
    dita.enable(pipe, METHOD)
    assert torch.isfinite(call(pipe)).all()
    dita.disable(pipe)
    assert torch.equal(call(pipe), cast_plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = tiny_transformer().to(dtype)
    inputs = {
        k: v.to(dtype) if v.ndim != 2 or k == "pooled_projections" else v for k, v in transformer_inputs().items()
    }
    dita.enable(model, METHOD, steps=5)
    for s in range(5):
        out = model(**inputs, timestep=torch.tensor([1 - s / 5], dtype=dtype), return_dict=False)[0]
        assert out.dtype == dtype and torch.isfinite(out).all()
    assert dita.summary(model, show=False).shape.element_bytes == 2


@pytest.mark.parametrize("compile_first", [True, False])
def test_compiled_blocks_share_a_few_graphs_whatever_the_depth(compile_first: bool) -> None:
    from torch._dynamo.testing import CompileCounter

    counts = {}
    for depth in (4, 10):
        torch._dynamo.reset()
        eager = sample_model(dita.enable(tiny_transformer(1, depth, depth), METHOD, steps=8))
        counter = CompileCounter()
        model = tiny_transformer(1, depth, depth)
        if compile_first:
            model.compile_repeated_blocks(fullgraph=True, backend=counter)
        dita.enable(model, METHOD, steps=8)
        if not compile_first:
            model.compile_repeated_blocks(fullgraph=True, backend=counter)
        assert close(sample_model(model), eager)
        counts[depth] = counter.frame_count
        before = counter.frame_count
        sample_model(model)
        assert counter.frame_count == before, "a second run compiles nothing"
    assert counts[4] == counts[10]
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "limit"), [("taylorseer:3:2", 8), ("duca:4:0.6", 16), ("deltadit:3", 16)])
def test_compiled_blocks_follow_every_kind_of_plan(method: str, limit: int) -> None:
    """A few graphs for what a block may do, none for a step. Skipped spans have more than dynamo's limit of 8."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    eager = sample_model(dita.enable(tiny_transformer(), method, steps=8))
    counter = CompileCounter()
    model = tiny_transformer()
    model.compile_repeated_blocks(fullgraph=True, backend=counter)
    dita.enable(model, method, steps=8)
    with torch._dynamo.config.patch(recompile_limit=limit):
        assert close(sample_model(model), eager)
        before = counter.frame_count
        sample_model(model)
    assert counter.frame_count == before
    torch._dynamo.reset()


def sample_model(model) -> torch.Tensor:
    inputs = transformer_inputs()
    for s in range(8):
        out = model(**inputs, timestep=torch.tensor([1 - s / 8]), return_dict=False)[0]
        inputs["hidden_states"] = inputs["hidden_states"] - out / 8
    return inputs["hidden_states"]


def test_a_whole_compiled_transformer_in_the_pipeline(pipe, accelerated) -> None:
    torch._dynamo.reset()
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    dita.enable(pipe, METHOD)
    assert close(call(pipe), accelerated)
    dita.disable(pipe)
    torch._dynamo.reset()


def test_fused_projections(pipe, accelerated) -> None:
    pipe.transformer.fuse_qkv_projections()
    for score in ("attention", "k-norm", "v-norm"):
        dita.enable(pipe, f"toca:4:0.5:{score}")
        fused = call(pipe)
        unfused = call(dita.enable(tiny_pipeline(), f"toca:4:0.5:{score}"))
        assert close(fused, unfused)


def test_the_native_attention_backend(pipe, accelerated) -> None:
    dita.enable(pipe, METHOD)
    pipe.transformer.set_attention_backend("native")
    assert close(call(pipe), accelerated)


def test_xformers_where_it_cannot_run_is_a_clear_error(pipe, plain) -> None:
    dita.enable(pipe, METHOD)
    for block in pipe.transformer.transformer_blocks:
        block.attn.processor._attention_backend = "xformers"
    with pytest.raises(ValueError, match=r"'xformers' needs a CUDA device.*cpu.*set_attention_backend\('native'\)"):
        call(pipe)
    for block in pipe.transformer.transformer_blocks:
        block.attn.processor._attention_backend = None
    dita.disable(pipe)
    assert torch.equal(call(pipe), plain)


def test_diffusers_own_cache_is_refused_and_left_alone(pipe) -> None:
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ForeignHookError, match=r"FirstBlockCacheConfig.*disable_cache"):
        dita.enable(pipe, METHOD)
    assert pipe.transformer.is_cache_enabled
    pipe.transformer.disable_cache()
    dita.enable(pipe, METHOD)
    call(pipe)


def test_cache_hooks_that_were_applied_by_function_are_refused(pipe) -> None:
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ForeignHookError, match=r"carries the hook\(s\) fbc_.*remove the hook first"):
        dita.enable(pipe, METHOD)
    assert not any("_dita" in vars(m) for m in pipe.transformer.modules())


def test_a_replaced_forward_is_refused_and_nothing_stays_attached(pipe) -> None:
    block = pipe.transformer.single_transformer_blocks[-1]
    block.forward = lambda *args, **kwargs: None
    with pytest.raises(ForeignHookError, match="forward of a FluxSingleTransformerBlock was replaced"):
        dita.enable(pipe, METHOD)
    assert not any("_dita" in vars(m) for m in pipe.transformer.modules())
    assert type(pipe).__call__.__qualname__ == "FluxPipeline.__call__" and attachment_of(pipe) is None


def test_a_plain_copy_of_the_weights_can_be_taken_while_enabled(pipe) -> None:
    dita.enable(pipe, METHOD)
    weights = copy.deepcopy(pipe.transformer.state_dict())
    fresh = tiny_transformer(seed=4)
    fresh.load_state_dict(weights, strict=True)
