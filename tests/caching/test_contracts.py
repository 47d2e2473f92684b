"""The contracts that every family keeps (design.md), on a tiny random model of each."""

from __future__ import annotations

import copy
import functools
import gc
import io
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PyramidAttentionBroadcastConfig
from diffusers.hooks import HookRegistry, ModelHook

import dita
from dita.caching.adapters import adapter_for
from dita.caching.class_swap import ForeignHookError
from dita.methods import SCORES
from dita.shapes import Kind
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.caching.test_broken import break_from, last_layer
from tests.for_family import method_for
from tests.plans import on_a_cpu
from tests.sampling_loop import sample


@pytest.fixture(
    params=[tiny_flux, tiny_pixart, tiny_dit, tiny_opensora], ids=lambda module: module.FAMILY, scope="module"
)
def family(request):
    """The module that makes tiny pipelines and transformers of one family, and calls them."""
    return request.param


@pytest.fixture
def pipe(family):
    return family.tiny_pipeline()


@pytest.fixture(scope="module")
def plain(family) -> torch.Tensor:
    return family.call(family.tiny_pipeline())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0)


METHODS = (
    "fora:3",
    "toca:4:0.6:random:schedule=constant",
    "toca:3:0.6:schedule=constant:forecast=1",
    "duca:4:0.6:schedule=constant",
    "duca:4:0.6:schedule=constant:aggressive=reuse",
    "taylorseer:3:2",
    "taylorseer:3:1:basis=hermite",
    "taylorseer:3:2:lite=true",
    "taylorseer:3:1:modules=attention",
    "call:3",
    "call:3:2",
    "deltadit:3",
    "toca:4:0.6:schedule=constant:full=0/3/4",
    "duca:4:0.6:schedule=constant:full=0/2/6",
    "toca:score=random:schedule=constant:full=0/3/4:of=8:ratios=1.0/0.5/0.2/0.9/0.6",
    "duca:schedule=constant:full=0/3/4:of=8:ratios=0.4/0.5/0.3/0.3/0.8",
    "taylorseer:3:2:full=0/1/4",
    "deltadit:full=0/3/4",
    "tgate:5",
    "pab:1:low=0:high=1000",
    "pab:2:mlp=true:low=0:high=1000",
)
"""One of each kind of plan: reuse, tokens, tokens on forecasts, skipped blocks, forecasts, spans, gates, broadcasts."""


@pytest.fixture(params=METHODS)
def method(request, family) -> dita.Method:
    """Every method that the family has."""
    return method_for(family.FAMILY, request.param)


def scores_of(family) -> tuple[str, ...]:
    """The scores that the family has: pictures have no frames."""
    return tuple(s for s in SCORES if s != "frame-uniqueness" or family is tiny_opensora)


@pytest.fixture(params=SCORES)
def score(request, family) -> str:
    if request.param not in scores_of(family):
        pytest.skip("for videos only")
    return request.param


# ------------------------------------------------------------------------------------------------ nothing changes


@pytest.mark.parametrize(
    "method", ["plain", "toca:1:0.9", "fora:1", "steps:1.0", "duca:1:0.9", "taylorseer:1", "call:1", "deltadit:1"]
)
def test_a_method_that_skips_nothing_is_bit_equal_to_plain(family, pipe, plain, method: str) -> None:
    dita.enable(pipe, method)
    assert torch.equal(family.call(pipe), plain)


def test_full_steps_that_store_features_are_bit_equal_to_the_stock_forward(family) -> None:
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    expected = family.forward(model, inputs, 0.3)
    for method in ("fora:4", "taylorseer:4:1"):
        dita.enable(model, method, steps=8)
        assert torch.equal(family.forward(model, inputs, 0.3), expected), method
    for score in scores_of(family):
        dita.enable(model, dita.ToCa(4, 0.5, score=score, warmup=1, schedule="constant"), steps=8)
        full = family.forward(model, inputs, 0.3)
        if family is tiny_flux:  # sums attention and MLP of its joint projection in another order, to store one of them
            assert torch.allclose(full, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max())), score
        else:
            assert torch.equal(full, expected), score


@pytest.mark.parametrize("method", ["fora:3", "toca:3:0.5", "taylorseer:3:1"])
def test_channels_of_a_token_lie_side_by_side_between_the_blocks(family, method: str) -> None:
    """A convolution puts out the tokens of the first block with channels apart. Passes over tokens that stay so take
    several times as long."""
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    adapter = adapter_for(model)
    dita.enable(model, method, steps=8)
    strides: list[int] = []
    for _, _, block in adapter.blocks(model):
        block.register_forward_hook(lambda _, __, out: strides.extend(x.stride(-1) for x in tuple_of(out)))
    sample(family, model, inputs, 8)
    assert len(strides) >= 8 * len(adapter.blocks(model)) and set(strides) == {1}


def tuple_of(out: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def test_disable_restores_classes_keys_and_output(family, pipe, plain) -> None:
    family.call(pipe)  # diffusers' own cache_context leaves a registry on the model
    model = pipe.transformer
    classes, keys = [type(m) for m in model.modules()], list(model.state_dict())
    attributes = [set(vars(m)) for m in model.modules()]
    pipe_class = type(pipe)
    dita.enable(pipe, "toca:4:0.9")
    assert list(model.state_dict()) == keys
    assert [type(m).__name__ for m in model.modules()] == [c.__name__ for c in classes]
    assert isinstance(pipe, pipe_class) and type(pipe).__name__ == pipe_class.__name__
    family.call(pipe)
    dita.disable(pipe)
    assert all(type(m) is cls for m, cls in zip(model.modules(), classes, strict=True))
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert type(pipe) is pipe_class
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(family.call(pipe), plain)


def test_disabling_twice_or_without_enabling_is_harmless(family, pipe, plain) -> None:
    dita.disable(pipe)
    dita.enable(pipe, "fora:3")
    dita.disable(pipe)
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)


def test_enabling_again_replaces_the_method(family, pipe) -> None:
    dita.enable(pipe, "fora:2")
    family.call(pipe)
    dita.enable(pipe, "fora:4")
    family.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert summary.method == dita.FORA(4)
    assert summary.kinds == dita.FORA(4).plan(summary.shape, 8).kinds
    dita.disable(pipe)
    block = family.blocks(pipe.transformer)[0]
    module = block.attn if family is tiny_flux else block.ff
    assert "_dita_base" not in vars(type(module)), "no class was swapped twice"


# ------------------------------------------------------------------------------------------------ what is computed


def test_a_batch_of_two_prompts_gives_what_each_gives_alone(family, pipe, score: str) -> None:
    dita.enable(pipe, dita.ToCa(4, 0.6, score=score, schedule="constant"))
    both = family.call(pipe, count=2)
    assert close(both[:1], family.call(pipe, count=1))
    assert close(both[1:], family.call(pipe, count=1, first=1))


def test_same_seed_and_method_give_the_same_output(family, pipe, score: str) -> None:
    dita.enable(pipe, dita.ToCa(4, 0.6, score=score, schedule="constant"))
    assert torch.equal(family.call(pipe), family.call(pipe))


def test_every_method_gives_two_prompts_what_each_gets_alone(family, pipe, method) -> None:
    dita.enable(pipe, method)
    both = family.call(pipe, count=2)
    assert close(both[:1], family.call(pipe, count=1))
    assert close(both[1:], family.call(pipe, count=1, first=1))
    assert torch.equal(family.call(pipe), family.call(pipe)), "the same seed gives the same output"


def test_every_method_changes_the_output_and_leaves_no_trace(family, pipe, plain, method) -> None:
    dita.enable(pipe, method)
    assert not torch.equal(family.call(pipe), plain)
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)


def test_every_method_executes_its_plan(family, pipe, method) -> None:
    dita.enable(pipe, method)
    family.call(pipe, count=2, steps=10)
    summary = dita.summary(pipe, show=False)
    times = [float(t) for t in pipe.scheduler.timesteps]
    plan = method.plan(summary.shape, 10, times)
    assert summary.kinds == plan.kinds
    assert summary.flops == plan.flops() < plan.plain_flops == summary.plain_flops
    assert summary.cache_bytes == on_a_cpu(plan).cache_bytes
    assert method.label() in str(summary)


def test_a_forecast_of_order_0_is_reuse(family, pipe) -> None:
    dita.enable(pipe, dita.TaylorSeer(3, 0, warmup=4))
    forecast = family.call(pipe)
    dita.enable(pipe, dita.TaylorSeer(3, 1, warmup=4))
    assert not torch.equal(family.call(pipe), forecast)
    steps = dita.TaylorSeer(3, 0, warmup=4).plan(dita.summary(pipe, show=False).shape, 8).full_steps
    fora = dita.ToCa(3, 1.0, warmup=4, cross_cycle=3)
    dita.enable(pipe, fora)
    reused = family.call(pipe)
    if fora.plan(dita.summary(pipe, show=False).shape, 8).full_steps == steps:  # a counter, and no modulo
        assert torch.equal(reused, forecast)


def test_the_seed_of_random_selection_matters(family, pipe) -> None:
    dita.enable(pipe, dita.ToCa(4, 0.6, "random", schedule="constant", seed=0))
    first = family.call(pipe)
    dita.enable(pipe, dita.ToCa(4, 0.6, "random", schedule="constant", seed=1))
    assert not torch.equal(first, family.call(pipe))


def test_fora_is_toca_without_tokens(family, pipe) -> None:
    dita.enable(pipe, "fora:3")
    expected = family.call(pipe)
    dita.enable(pipe, dita.ToCa(3, 1.0, cross_cycle=3))
    assert torch.equal(family.call(pipe), expected)


def test_executed_actions_flops_and_bytes_are_those_of_the_plan(family, pipe) -> None:
    for score in scores_of(family):
        method = dita.ToCa(4, 0.6, score=score, schedule="constant")
        dita.enable(pipe, method, record=True)
        family.call(pipe, count=2)
        summary = dita.summary(pipe, show=False)
        plan = method.plan(summary.shape, 8)
        assert summary.kinds == plan.kinds
        assert summary.flops == plan.flops() and summary.plain_flops == plan.plain_flops
        assert summary.score_flops == plan.score_flops
        assert summary.token_share == plan.token_share()
        assert summary.cache_bytes == on_a_cpu(plan).cache_bytes
        for (step, site), index in summary.selections.items():
            assert index.shape == (summary.shape.rows, plan.steps[step][site].tokens)


def test_a_cycle_computes_every_token_before_any_twice(family) -> None:
    """With a heavy age term, selection is a round-robin (spec/methods.md 1.5)."""
    pipe = family.tiny_pipeline()
    dita.enable(pipe, dita.ToCa(5, 0.75, schedule="constant", age_weight=100.0, spatial_bonus=0.0), record=True)
    family.call(pipe, steps=10)
    summary = dita.summary(pipe, show=False)
    selections = summary.selections
    site = next(site for _, site in selections if site.module == "mlp")
    steps = {step for step, selected in selections if selected == site}
    first = next(step for step in sorted(steps) if steps.issuperset(range(step, step + 4)))
    chosen = torch.cat([selections[step, site][0] for step in range(first, first + 4)])
    assert sorted(chosen.tolist()) == list(range(summary.shape.tokens("mlp")))


# ------------------------------------------------------------------------------------------------ one instance only


def test_two_pipelines_with_different_methods_do_not_touch_each_other(family, plain) -> None:
    one, two, untouched = family.tiny_pipeline(), family.tiny_pipeline(), family.tiny_pipeline()
    dita.enable(one, "toca:4:0.9")
    dita.enable(two, "fora:2")
    alone = family.call(one)
    family.call(two)
    assert torch.equal(family.call(one), alone)
    assert dita.summary(one, show=False).method == dita.ToCa(4, 0.9)
    assert dita.summary(two, show=False).method == dita.FORA(2)
    assert torch.equal(family.call(untouched), plain)
    dita.disable(one)
    assert torch.equal(family.call(one), plain)
    assert dita.summary(two, show=False).method == dita.FORA(2)


def test_pipelines_that_share_a_transformer_keep_their_own_method(family, pipe, plain) -> None:
    twin = type(pipe)(**pipe.components, **getattr(family, "SETTINGS", {}))
    twin.set_progress_bar_config(disable=True)
    dita.enable(twin, "toca:4:0.9")
    accelerated = family.call(twin)
    assert torch.equal(family.call(pipe), plain)
    assert not torch.equal(accelerated, plain)
    dita.enable(pipe, "fora:2")
    family.call(pipe)
    assert torch.equal(family.call(twin), accelerated)
    dita.disable(twin)
    assert torch.equal(family.call(twin), plain)
    assert not torch.equal(family.call(pipe), plain)
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)


def test_a_transformer_put_in_later_is_accelerated_and_the_old_one_restored(family, pipe) -> None:
    old = pipe.transformer
    dita.enable(pipe, "fora:2")
    pipe.transformer = family.tiny_transformer(seed=5)
    family.call(pipe)
    kinds = dita.summary(pipe, show=False).kinds
    assert (
        kinds.count(Kind.REUSE)
        == dita.FORA(2).plan(dita.summary(pipe, show=False).shape, 8).kinds.count(Kind.REUSE)
        > 0
    )
    assert not any("_dita" in vars(m) for m in old.modules())


# ------------------------------------------------------------------------------------------------ calls of all kinds


class Boom(Exception):
    pass


def test_an_exception_in_a_call_leaves_the_pipeline_usable_and_the_next_call_right(family, pipe) -> None:
    dita.enable(pipe, "toca:4:0.9")
    expected = family.call(pipe)
    last, calls = family.blocks(pipe.transformer)[-1], []

    def explode(*_):
        calls.append(1)
        if len(calls) == 6:
            raise Boom

    handle = last.register_forward_hook(explode)
    with pytest.raises(Boom):
        family.call(pipe)
    handle.remove()
    assert dita.summary(pipe, show=False).steps == 5
    assert all(
        not list(slot.tensors()) for block in family.blocks(pipe.transformer) for slot in block._dita.slots.values()
    )
    assert "step" not in vars(pipe.scheduler)
    assert torch.equal(family.call(pipe), expected)


def test_another_step_count_in_the_next_call(family, pipe) -> None:
    dita.enable(pipe, "toca:4:0.9")
    first = family.call(pipe)
    family.call(pipe, steps=5)
    assert dita.summary(pipe, show=False).steps == 5
    assert torch.equal(family.call(pipe), first)


def test_another_resolution_in_the_next_call(family, pipe) -> None:
    if family is tiny_dit:
        pytest.skip("DiT makes pictures of one size")
    dita.enable(pipe, "toca:4:0.9")
    first = family.call(pipe)
    family.call(pipe, height=16, width=48)
    tokens = {tiny_opensora: tiny_opensora.FRAMES * 1 * 3}.get(family, 4 * 12)
    assert dita.summary(pipe, show=False).shape.image_tokens == tokens
    assert torch.equal(family.call(pipe), first)


def test_fewer_steps_equals_the_plain_pipeline_called_with_fewer(family, pipe) -> None:
    expected = family.call(pipe, steps=4)
    dita.enable(pipe, "steps:0.5")
    assert torch.equal(family.call(pipe, steps=8), expected)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 4 and summary.plain_flops == 2 * summary.flops


# ------------------------------------------------------------------------------------------------ bare transformers


def sample_bare(family, model, steps: int, calls: int = 1, **inputs) -> torch.Tensor:
    arguments = family.transformer_inputs(**inputs)
    for s in range(steps):
        for _ in range(calls):
            out = family.forward(model, arguments, s / steps)
        arguments["hidden_states"] = arguments["hidden_states"] - out / steps
    return arguments["hidden_states"]


def test_a_bare_transformer_counts_its_own_steps(family) -> None:
    model = family.tiny_transformer()
    plain = sample_bare(family, model, 9)
    dita.enable(model, "toca:4:0.9", steps=9)
    first = sample_bare(family, model, 9)
    assert dita.summary(model, show=False).steps == 9
    assert not torch.equal(first, plain)
    assert torch.equal(sample_bare(family, model, 9), first), "the second run starts over"
    dita.disable(model)
    assert torch.equal(sample_bare(family, model, 9), plain)


def test_a_bare_transformer_starts_over_after_an_exception_and_with_another_size(family) -> None:
    model = family.tiny_transformer()
    dita.enable(model, "toca:4:0.9", steps=9)
    expected = sample_bare(family, model, 9)
    sample_bare(family, model, 4)
    with pytest.raises((RuntimeError, TypeError)):
        inputs = family.transformer_inputs()
        family.forward(model, inputs | {"hidden_states": inputs["hidden_states"][:, :3]}, 0.5)
    assert torch.equal(sample_bare(family, model, 9), expected)
    sample_bare(family, model, 2, batch=2)
    assert torch.equal(sample_bare(family, model, 9), expected)


def test_a_bare_transformer_with_two_calls_a_step(family) -> None:
    model = family.tiny_transformer()
    dita.enable(model, "fora:3", steps=7, calls_per_step=2)
    sample_bare(family, model, 7, calls=2)
    summary = dita.summary(model, show=False)
    kinds = dita.FORA(3).plan(summary.shape, 7).kinds
    assert [call.kind for call in summary.executed] == [kind for kind in kinds for _ in range(2)]
    assert kinds.count(Kind.REUSE) >= 2


def test_the_store_is_freed_at_the_end_of_the_run(family) -> None:
    model = family.tiny_transformer()
    dita.enable(model, "toca:4:0.9", steps=4)
    sample_bare(family, model, 4)
    for block in family.blocks(model):
        assert all(not list(slot.tensors()) and slot.rows is None for slot in block._dita.slots.values())
    assert dita.summary(model, show=False).cache_bytes > 0


def test_recording_keeps_the_selected_tokens(family, capsys) -> None:
    model = family.tiny_transformer()
    dita.enable(model, "toca:4:0.5:random:schedule=constant", steps=8, record=True)
    sample_bare(family, model, 8)
    summary = dita.summary(model)
    cached = {step for step, kind in enumerate(summary.kinds) if kind is not Kind.FULL}
    assert {step for step, _ in summary.selections} == cached
    for index in summary.selections.values():
        assert (index.diff() > 0).all() and index.max() < 70
    assert f"{8 - len(cached)} full, {len(cached)} partial" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ numbers of steps


@pytest.mark.parametrize("steps", [np.int64(8), np.uint8(8), torch.tensor(8)], ids=["int64", "uint8", "tensor"])
def test_a_number_of_steps_of_any_integer_type(family, pipe, steps) -> None:
    for method in ("steps:0.5", "toca:4:0.9"):
        dita.enable(pipe, method)
        expected = family.call(pipe, steps=8)
        executed = dita.summary(pipe, show=False).kinds
        assert torch.equal(family.call(pipe, steps=steps), expected)
        assert dita.summary(pipe, show=False).kinds == executed
    model = family.tiny_transformer()
    dita.enable(model, "fora:3", steps=steps, calls_per_step=type(steps)(1) if isinstance(steps, np.integer) else 1)
    sample_bare(family, model, 8)
    assert dita.summary(model, show=False).steps == 8


@pytest.mark.parametrize("steps", [True, 8.0, torch.tensor(8.0), "8", 0, -1], ids=repr)
def test_a_number_of_steps_that_is_none_is_refused(family, pipe, plain, steps) -> None:
    for method in ("steps:0.5", "toca:4:0.9"):
        dita.enable(pipe, method)
        with pytest.raises(ValueError, match=r"^num_inference_steps must be a whole number, at least 1, got "):
            family.call(pipe, steps=steps)
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)
    model = family.tiny_transformer()
    with pytest.raises(ValueError, match=r"steps.*at least 1.*got "):
        dita.enable(model, "fora:3", steps=steps)
    with pytest.raises(ValueError, match=r"^calls_per_step must be a whole number, at least 1, got "):
        dita.enable(model, "fora:3", steps=8, calls_per_step=steps)
    assert "_dita_attachment" not in vars(model)


def test_a_run_of_one_step_is_plain_with_every_method(family, pipe, method) -> None:
    if family is tiny_pixart:
        pipe.scheduler = DDIMScheduler()  # the pipeline asks for clean latents then
    if method.name == "tgate":
        method = dita.TGate()
    expected = family.call(pipe, steps=1)
    dita.enable(pipe, method)
    if getattr(method, "full_steps", None) and method.full_of is None:
        with pytest.raises(ValueError, match="full_steps must be below 1, the steps of this run"):
            family.call(pipe, steps=1)
        return
    assert torch.equal(family.call(pipe, steps=1), expected)
    assert dita.summary(pipe, show=False).kinds == (Kind.FULL,)


def test_fewer_steps_may_leave_one(family, pipe) -> None:
    if family is tiny_pixart:
        pipe.scheduler = DDIMScheduler()
    expected = family.call(pipe, steps=1)
    dita.enable(pipe, "steps:0.1")
    assert torch.equal(family.call(pipe, steps=8), expected)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 1 and summary.plain_flops == 8 * summary.flops


# ------------------------------------------------------------------------------------------------ one owner, one run


def sibling_of(family, pipe):
    """Another pipeline over the same components, with a scheduler of its own, as a server makes it."""
    other = type(pipe)(**pipe.components, **getattr(family, "SETTINGS", {}))
    other.scheduler = copy.deepcopy(pipe.scheduler)
    other.set_progress_bar_config(disable=True)
    return other


def between_steps(pipe, do) -> None:
    """Has `do` called behind every step of the scheduler: not every pipeline has callbacks."""
    step = pipe.scheduler.step

    def watched(*args, **kwargs):
        out = step(*args, **kwargs)
        do()
        return out

    pipe.scheduler.step = functools.wraps(step)(watched)


@pytest.mark.parametrize("inner", [None, "fora:2"], ids=["plain", "accelerated"])
def test_another_pipeline_on_the_same_transformer_may_sample_between_two_steps(family, pipe, inner, method) -> None:
    alone = family.call(dita.enable(family.tiny_pipeline(), method))
    want = family.tiny_pipeline()
    want = family.call(want if inner is None else dita.enable(want, inner), first=1, steps=5)
    other = sibling_of(family, pipe)
    if inner is not None:
        dita.enable(other, inner)
    previews: list[torch.Tensor] = []
    dita.enable(pipe, method)
    between_steps(pipe, lambda: previews.append(family.call(other, first=1, steps=5)))
    assert torch.equal(family.call(pipe), alone)
    assert len(previews) == 8 and all(torch.equal(preview, want) for preview in previews)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 8 and len(summary.executed) == 8


def test_two_threads_share_a_transformer(family, pipe) -> None:
    plain, alone = (
        family.call(family.tiny_pipeline(), first=1),
        family.call(dita.enable(family.tiny_pipeline(), "fora:3")),
    )
    other, found = sibling_of(family, pipe), {}
    dita.enable(pipe, "fora:3")
    barrier = threading.Barrier(2)
    for one in (pipe, other):
        between_steps(one, lambda: time.sleep(0.001))

    def draw(one, first: int) -> None:
        barrier.wait()
        found[first] = family.call(one, first=first)

    threads = [threading.Thread(target=draw, args=(one, first)) for one, first in ((pipe, 0), (other, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0], alone) and torch.equal(found[1], plain)


COPIES = {
    "copy": lambda family, pipe: copy.copy(pipe),
    "deepcopy": lambda family, pipe: copy.deepcopy(pipe),
    "class": lambda family, pipe: type(pipe)(**pipe.components, **getattr(family, "SETTINGS", {})),
    "from_pipe": lambda family, pipe: type(pipe).from_pipe(pipe),
    "stock from_pipe": lambda family, pipe: type(pipe).__mro__[1].from_pipe(pipe),
    "pickle": lambda family, pipe: pickle.loads(pickle.dumps(pipe)),
    "torch.save": lambda family, pipe: saved(pipe),
}


def saved(what):
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("midway", [False, True])
def test_a_copy_of_an_enabled_pipeline_is_plain_and_may_be_enabled(
    family, pipe, plain, kind: str, midway: bool
) -> None:
    if midway and kind in ("pickle", "torch.save"):
        pytest.skip("the hook that makes the copy cannot be pickled")
    stock, alone = type(pipe), family.call(dita.enable(family.tiny_pipeline(), "fora:2"))
    dita.enable(pipe, "fora:3")
    accelerated, copies = family.call(pipe), []
    if midway:
        handle = family.blocks(pipe.transformer)[-1].register_forward_hook(
            lambda *_: None if copies else copies.append(COPIES[kind](family, pipe))
        )
        assert torch.equal(family.call(pipe), accelerated)
        handle.remove()
    else:
        copies.append(COPIES[kind](family, pipe))
    (other,) = copies
    other.set_progress_bar_config(disable=True)
    if other.transformer is pipe.transformer:
        other.scheduler = copy.deepcopy(pipe.scheduler)
    assert type(other) is stock and type(other.scheduler) is type(pipe.scheduler)
    assert torch.equal(family.call(other), plain)
    dita.disable(other)
    assert torch.equal(family.call(pipe), accelerated), "disabling a copy leaves the original alone"
    assert torch.equal(family.call(dita.enable(other, "fora:2")), alone)
    dita.disable(other)
    dita.disable(pipe)
    assert_stock(other.transformer)
    assert_stock(pipe.transformer)
    assert torch.equal(family.call(other), plain)


def assert_stock(model: torch.nn.Module) -> None:
    """Nothing of dita is left on a transformer."""
    for name, module in model.named_modules():
        assert not hasattr(type(module), "_dita_base"), name
        assert not any(key.startswith("_dita") for key in vars(module)), name


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, saved, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_an_enabled_transformer_is_stock_and_brings_nothing_along(family, pipe, bare: bool, copied) -> None:
    model, inputs = pipe.transformer, family.transformer_inputs()
    expected = family.forward(model, inputs, 0.5)
    if bare:
        dita.enable(model, "fora:3", steps=6)
        family.forward(model, inputs, 0.0)  # in the middle of a run
    else:
        dita.enable(pipe, "fora:3")
    gc.collect()  # what earlier tests have left
    before = sum(isinstance(one, type(pipe.vae)) for one in gc.get_objects())
    other = copied(model)
    assert sum(isinstance(one, type(pipe.vae)) for one in gc.get_objects()) == before
    assert_stock(other)
    assert list(other.state_dict()) == list(model.state_dict())
    assert torch.equal(family.forward(other, inputs, 0.5), expected)


def test_a_hundred_dropped_pipelines_leave_a_stock_transformer_and_nothing_else(family, pipe, plain) -> None:
    def request(number: int) -> None:
        one = sibling_of(family, pipe)
        dita.enable(one, "fora:3")
        if number % 25 == 0:
            family.call(one, steps=4)

    request(0)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(100):
        request(number)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert_stock(pipe.transformer)
    assert torch.equal(family.call(pipe), plain)


def test_the_transformer_is_stock_as_soon_as_the_pipeline_is_dropped(family, pipe) -> None:
    one = dita.enable(sibling_of(family, pipe), "fora:3")
    two = dita.enable(sibling_of(family, pipe), "fora:2")
    gc.disable()
    try:
        del one
        assert dita.caching.ownership.known(pipe.transformer).users == 1
        del two
        assert_stock(pipe.transformer)
    finally:
        gc.enable()


def test_a_pipeline_and_its_transformer_are_not_both_enabled(family, pipe, plain) -> None:
    dita.enable(pipe, "fora:3")
    with pytest.raises(ValueError, match=r"dita\.disable\(pipe\) first"):
        dita.enable(pipe.transformer, "fora:3", steps=8)
    dita.disable(pipe)
    dita.enable(pipe.transformer, "fora:3", steps=8)
    with pytest.raises(ValueError, match=r"dita\.disable\(pipe\.transformer\) first"):
        dita.enable(pipe, "fora:3")
    assert not torch.equal(family.call(pipe), plain)
    dita.disable(pipe.transformer)
    assert_stock(pipe.transformer)
    assert torch.equal(family.call(pipe), plain)


# ------------------------------------------------------------------------------------------------ a second cache


def diffusers_cache(pipe):
    pipe.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500)
    )
    return pipe.transformer.disable_cache


def hooked(pipe):
    first = pipe.transformer
    HookRegistry.check_if_exists_or_initialize(first).register_hook(ModelHook(), "somebodys_cache")
    return lambda: first._diffusers_hook.remove_hook("somebodys_cache")


def replaced_forward(pipe):
    block = adapter_for(pipe.transformer).blocks(pipe.transformer)[0][2]
    stock = block.forward
    block.forward = lambda *args, **kwargs: stock(*args, **kwargs)
    return lambda: delattr(block, "forward")


def replaced_class_forward(pipe):
    cls = type(pipe.transformer)
    stock = cls.forward
    cls.forward = functools.wraps(stock)(lambda self, *args, **kwargs: stock(self, *args, **kwargs))
    return lambda: setattr(cls, "forward", stock)


def cache_dit_like(pipe):
    pipe.transformer._is_cached = True
    return lambda: delattr(pipe.transformer, "_is_cached")


SECOND = {
    "diffusers": (diffusers_cache, r"PyramidAttentionBroadcastConfig.*transformer\.disable_cache\(\) first"),
    "hook": (hooked, r"hook\(s\) somebodys_cache.*remove_hook\('somebodys_cache'\)"),
    "forward": (replaced_forward, r"forward of a .* was replaced by"),
    "class": (replaced_class_forward, r"forward of the class .* was replaced by one of .*test_contracts\.py, line"),
    "marked": (cache_dit_like, r"another cache \(`_is_cached`\)"),
}


@pytest.mark.parametrize("kind", SECOND)
@pytest.mark.parametrize("when", ["before", "after", "between runs", "in mid-run"])
def test_a_second_cache_is_refused_whichever_comes_first(family, pipe, plain, kind: str, when: str) -> None:
    if kind == "diffusers" and not hasattr(pipe.transformer, "enable_cache"):
        pytest.skip("this model has no diffusers caches")
    put, message = SECOND[kind]
    undo: list = []
    alone = family.call(dita.enable(family.tiny_pipeline(), "fora:3"))
    if when != "before":
        dita.enable(pipe, "fora:3")
    if when == "between runs":
        family.call(pipe)
    if when == "in mid-run":
        between_steps(pipe, lambda: undo or undo.append(put(pipe)))
    else:
        undo.append(put(pipe))
    try:
        with pytest.raises(ForeignHookError, match=message):
            dita.enable(pipe, "fora:3") if when == "before" else family.call(pipe)
    finally:
        undo[0]()
        pipe.scheduler.__dict__.pop("step", None)
    if when == "before":
        assert_stock(pipe.transformer)
        assert torch.equal(family.call(pipe), plain)
        dita.enable(pipe, "fora:3")
    assert torch.equal(family.call(pipe), alone)
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)


# ------------------------------------------------------------------------------------------------ broken numbers


@pytest.mark.parametrize("step", [1, 7])
def test_nan_from_a_step_on_is_said_of_that_step(family, pipe, method, step: int) -> None:
    """The transformer's last layer puts it out: every step that calls the transformer computes that."""
    dita.enable(pipe, method)
    expected = family.call(pipe)
    calling = [s for s, kind in enumerate(dita.summary(pipe, show=False).kinds) if kind is not Kind.CALL]
    number = min(step, len(calling) - 1)
    step = calling[number]
    handle = break_from(last_layer(pipe.transformer), number)
    with pytest.raises(dita.BrokenNumbersError, match=rf"\(.*\) put out NaN or infinity at step {step} of 8, counted"):
        family.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert summary.broken == (step,) and summary.steps == step + 1
    handle.remove()
    assert torch.equal(family.call(pipe), expected)
    assert dita.summary(pipe, show=False).broken == ()


@pytest.mark.filterwarnings("ignore::dita.BrokenNumbersWarning")
def test_nan_from_a_step_on_is_in_the_summary_where_the_run_goes_on(family, pipe, method) -> None:
    dita.enable(pipe, method, on_nan="warn")
    family.call(pipe)
    calling = [s for s, kind in enumerate(dita.summary(pipe, show=False).kinds) if kind is not Kind.CALL]
    number = 5 if len(calling) == 8 else 2
    handle = break_from(last_layer(pipe.transformer), number)
    family.call(pipe)
    broken = dita.summary(pipe, show=False).broken
    if len(calling) == 8:
        assert broken == (5, 6, 7)
    else:  # steps without a call go on with broken numbers where those reach the sampler
        assert set(calling[number:]) <= set(broken) <= set(range(calling[number], 8))
    handle.remove()


def test_a_guard_of_0_computes_every_step_in_full(family, pipe, plain, method) -> None:
    dita.enable(pipe, method)
    unguarded = family.call(pipe)
    cached = [s for s, kind in enumerate(dita.summary(pipe, show=False).kinds) if kind is not Kind.FULL]
    for bound in (0, 1e-12):
        dita.enable(pipe, method, guard=bound)
        found = family.call(pipe)
        summary = dita.summary(pipe, show=False)
        assert summary.guarded == tuple(cached) and set(summary.kinds) == {Kind.FULL}
        # FLUX sums attention and MLP of a joint projection in another order where it stores one of them
        assert torch.allclose(found, plain, rtol=0, atol=1e-6 * float(plain.abs().max()))
        assert torch.equal(found, plain) or family is tiny_flux
    dita.enable(pipe, method, guard=1e9)
    assert torch.equal(family.call(pipe), unguarded)
    assert dita.summary(pipe, show=False).guarded == ()


# ------------------------------------------------------------------------------------------------ changed conditions


@torch.no_grad()
def test_what_is_added_between_blocks_counts_once(family, method) -> None:
    """A ControlNet on FLUX, hooks on the others: on the same input every step gives what the full step gave."""
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    generator = torch.Generator().manual_seed(0)
    if family is tiny_flux:
        residuals = list(40 * torch.randn(5, 2, 64, 32, generator=generator))
        double = len(model.transformer_blocks)
        inputs |= {
            "controlnet_block_samples": residuals[:double],
            "controlnet_single_block_samples": residuals[double : double + len(model.single_transformer_blocks)],
        }
    else:
        for block in family.blocks(model):
            amount = 3 * torch.randn(1, 1, block.ff.net[-1].out_features, generator=generator)
            block.register_forward_hook(lambda _, __, out, amount=amount: out + amount)
    expected = family.forward(model, inputs, 0.5)
    dita.enable(model, method, steps=10)
    for _ in range(10):
        assert close(family.forward(model, inputs, 0.5), expected)
    assert len(set(dita.summary(model, show=False).kinds)) > 1


@torch.no_grad()
@pytest.mark.parametrize("until", [3, 5])
def test_guidance_that_ends_in_mid_run(family, method, until: int) -> None:
    """By a second call on FLUX, by half of the rows on the others: one run, and each sample as it is alone."""
    steps, conditions = 8, family.transformer_inputs(batch=4)
    fixed = {name: value for name, value in conditions.items() if len(value) != 4}

    def sampled(model, samples: list[int]) -> torch.Tensor:
        rows = [*samples, *(2 + i for i in samples)]
        both = {name: value[rows] for name, value in conditions.items() if name not in fixed}
        latents, count = both.pop("hidden_states")[: len(samples)], len(samples)
        halves = [{name: value[half] for name, value in both.items()} for half in (slice(count), slice(count, None))]
        for step in range(steps):
            progress, guided = step / steps, step < until
            if guided and family is not tiny_flux:
                inputs = both | {"hidden_states": torch.cat([latents, latents])}
                out, free = family.forward(model, inputs, progress).chunk(2)
            else:
                out = family.forward(model, halves[0] | fixed | {"hidden_states": latents}, progress)
                if guided:
                    free = family.forward(model, halves[1] | fixed | {"hidden_states": latents}, progress)
            latents = latents - (free + 3 * (out - free) if guided else out) / steps
        return latents

    def enabled(chosen):
        told = {"calls_per_step": 2} if family is tiny_flux else {"guided_halves": True}
        return dita.enable(family.tiny_transformer(), chosen, steps=steps, **told)

    assert torch.equal(sampled(enabled("toca:1:0.5"), [0, 1]), sampled(family.tiny_transformer(), [0, 1]))
    model = enabled(method)
    found = sampled(model, [0, 1])
    assert dita.summary(model, show=False).steps == steps
    for i in range(2):
        assert close(found[i : i + 1], sampled(enabled(method), [i]))
    assert torch.equal(sampled(model, [0, 1]), found), "the next run begins with its own first step"
