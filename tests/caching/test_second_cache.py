"""Other caches beside dita: cache-dit and diffusers' own by function; and what cannot be seen, the summary notices."""

from __future__ import annotations

from types import ModuleType

import cache_dit
import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, apply_first_block_cache
from diffusers.hooks import apply_pyramid_attention_broadcast

import dita
from dita.caching.class_swap import ForeignHookError
from dita.caching.departures import DepartureWarning
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.caching.test_contracts import assert_stock, between_steps, sibling_of
from tests.for_family import method_for
from tests.sampling_loop import sample

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]
PAB = PyramidAttentionBroadcastConfig(
    spatial_attention_block_skip_range=2,
    spatial_attention_timestep_skip_range=(-1, 1001),
    current_timestep_callback=lambda: 500,
)


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request) -> ModuleType:
    return request.param


def config() -> cache_dit.DBCacheConfig:
    return cache_dit.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=9.0, max_warmup_steps=1, warmup_interval=1
    )


def adapter(model) -> cache_dit.BlockAdapter:
    return cache_dit.BlockAdapter(
        transformer=model,
        blocks=[model.transformer_blocks],
        blocks_name=["transformer_blocks"],
        forward_pattern=[cache_dit.ForwardPattern.Pattern_1],
        check_forward_pattern=False,
    )


@pytest.fixture(params=["pipeline", "transformer"])
def cached(request):
    """Puts cache-dit on a pipeline, or on its transformer alone, and takes it off."""

    class CacheDit:
        whole = request.param == "pipeline"

        def on(self, pipe) -> None:
            cache_dit.enable_cache(pipe if self.whole else adapter(pipe.transformer), cache_config=config())

        def off(self, pipe) -> None:
            cache_dit.disable_cache(pipe if self.whole else pipe.transformer)

    return CacheDit()


@pytest.mark.parametrize("when", ["before", "after", "between runs"])
@pytest.mark.parametrize("method", ["fora:3", "toca:4:0.5"])
def test_cache_dit_is_refused_and_works_again_without_dita(cached, when: str, method: str) -> None:
    pipe, alone = tiny_flux.tiny_pipeline(), tiny_flux.call(dita.enable(tiny_flux.tiny_pipeline(), method))
    plain = tiny_flux.call(tiny_flux.tiny_pipeline())
    if when != "before":
        dita.enable(pipe, method)
    if when == "between runs":
        tiny_flux.call(pipe)
    cached.on(pipe)
    try:
        with pytest.raises(
            ForeignHookError, match=r"has cache-dit enabled; call cache_dit\.disable_cache\((pipe|trans)"
        ):
            dita.enable(pipe, method) if when == "before" else tiny_flux.call(pipe)
        dita.disable(pipe)
        if cached.whole:
            assert torch.isfinite(tiny_flux.call(pipe)).all(), "the other cache goes on"
    finally:
        cached.off(pipe)
    assert type(pipe).__call__.__qualname__ == "FluxPipeline.__call__"
    pipe.transformer.__dict__.pop("forward", None)  # which cache-dit leaves there, bound
    assert torch.equal(tiny_flux.call(pipe), plain)
    assert torch.equal(tiny_flux.call(dita.enable(pipe, method)), alone)
    dita.disable(pipe)
    assert_stock(pipe.transformer)


def test_taken_off_the_other_cache_leaves_dita_as_it_was(cached) -> None:
    pipe = dita.enable(tiny_flux.tiny_pipeline(), "fora:3")
    alone = tiny_flux.call(pipe)
    cached.on(pipe)
    with pytest.raises(ForeignHookError):
        tiny_flux.call(pipe)
    cached.off(pipe)
    assert torch.equal(tiny_flux.call(pipe), alone)


def test_a_cache_on_another_pipeline_of_the_class_does_not_matter(cached) -> None:
    other, pipe = tiny_flux.tiny_pipeline(), tiny_flux.tiny_pipeline(seed=3)
    alone = tiny_flux.call(dita.enable(pipe, "fora:3"))
    cached.on(other)
    try:
        assert torch.equal(tiny_flux.call(pipe), alone)
        assert torch.equal(tiny_flux.call(dita.enable(tiny_flux.tiny_pipeline(seed=3), "fora:3")), alone)
    finally:
        cached.off(other)


def test_a_cache_that_a_pipeline_over_the_same_transformer_has_is_refused(cached) -> None:
    pipe = dita.enable(tiny_flux.tiny_pipeline(), "fora:3")
    other = sibling_of(tiny_flux, pipe)
    cached.on(other)
    try:
        with pytest.raises(ForeignHookError, match="cache-dit"):
            tiny_flux.call(pipe)
    finally:
        cached.off(other)


@pytest.mark.parametrize("midway", [False, True])
def test_caches_of_diffusers_by_function_are_refused_and_named(midway: bool) -> None:
    for apply, name in (
        (lambda model: apply_pyramid_attention_broadcast(model, PAB), "pyramid_attention_broadcast"),
        (lambda model: apply_first_block_cache(model, FirstBlockCacheConfig(threshold=0.1)), "fbc_"),
    ):
        pipe = dita.enable(tiny_flux.tiny_pipeline(), "fora:3")
        done: list[int] = []

        def put(apply=apply, pipe=pipe, done=done) -> None:
            if not done:
                done.append(1)
                apply(pipe.transformer)

        if midway:
            between_steps(pipe, put)
        else:
            put()
        with pytest.raises(ForeignHookError, match=rf"hook\(s\) {name}.*remove_hook\('{name}"):
            tiny_flux.call(pipe)


def test_a_second_cache_on_a_bare_transformer_is_refused_in_the_middle_of_a_run() -> None:
    model = dita.enable(tiny_flux.tiny_transformer(), "fora:3", steps=8)

    def put(step: int, _) -> None:
        if step == 4:
            model.enable_cache(PAB)

    with pytest.raises(ForeignHookError, match=r"PyramidAttentionBroadcastConfig.*disable_cache\(\)"):
        sample(tiny_flux, model, tiny_flux.transformer_inputs(), 8, put)
    model.disable_cache()
    dita.disable(model)
    assert_stock(model)


def test_disabled_beneath_a_forward_of_unknown_make_it_runs_plain(family) -> None:
    pipe = family.tiny_pipeline()
    plain = family.call(pipe)
    dita.enable(pipe, "fora:3")
    block = family.blocks(pipe.transformer)[0]
    inner = block.forward
    block.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)
    del block.forward
    assert torch.equal(family.call(pipe), plain)


@pytest.mark.parametrize("place", ["stack", "list"])
def test_a_block_of_unknown_make_is_refused(family, place: str) -> None:
    pipe = dita.enable(family.tiny_pipeline(), "fora:3")
    model = pipe.transformer
    blocks = model.spatial_blocks if family is tiny_opensora else model.transformer_blocks
    stock = list(blocks)
    if place == "stack":
        blocks[0] = torch.nn.Identity()
    else:
        name = "spatial_blocks" if family is tiny_opensora else "transformer_blocks"
        setattr(model, name, torch.nn.ModuleList([torch.nn.Identity(), *stock[1:]]))
    with pytest.raises(ForeignHookError, match=r"in the place of .* block 0 of the .* stands a Identity"):
        family.call(pipe)


# ------------------------------------------------------------------------------------------------ what cannot be seen


def skipping(block, calls: int) -> None:
    """A cache by a class of its own: after `calls` calls, the last output stands for the later ones."""
    stock = type(block)
    seen: list = []

    def call(self, *args, **kwargs):
        if len(seen) < calls:
            seen.append(stock.__call__(self, *args, **kwargs))
        else:
            seen.append(seen[-1])
        return seen[-1]

    block.__class__ = type(stock.__name__, (stock,), {"__call__": call})


@pytest.mark.parametrize("module", ["block", "ff"])
def test_what_runs_otherwise_than_planned_is_noticed(family, module: str) -> None:
    pipe = dita.enable(family.tiny_pipeline(), "fora:3")
    block = family.blocks(pipe.transformer)[0]
    skipping(block if module == "block" else block.ff, 4 if family is tiny_opensora else 2)
    with pytest.warns(DepartureWarning, match=r"^fora did not run as planned \(step \d"):
        family.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert not summary.ran_as_planned and "NOT AS PLANNED" in str(summary)
    said = "calls of blocks, where" if module == "block" else "did not compute what was to be stored"
    assert said in summary.departures[0]


def test_what_was_never_computed_is_refused(family) -> None:
    pipe = family.tiny_pipeline()
    plain = family.call(pipe)
    ff = family.blocks(pipe.transformer)[0].ff
    out = []
    handle = ff.register_forward_hook(lambda _, __, made: out.append(made))
    family.call(pipe)
    handle.remove()
    dita.enable(pipe, "fora:3")
    swapped = type(ff)
    ff.__class__ = type("Elsewhere", (swapped,), {"__call__": lambda self, *args, **kwargs: out[0]})
    with pytest.raises(ForeignHookError, match=r"^step \d: modules that were to be computed and stored were passed by"):
        family.call(pipe)
    ff.__class__ = swapped
    dita.disable(pipe)
    assert_stock(pipe.transformer)
    assert torch.equal(family.call(pipe), plain)


def test_every_method_runs_as_planned(family) -> None:
    for text in (
        "fora:3",
        "toca:4:0.6:random",
        "duca:4:0.6",
        "taylorseer:3:2",
        "deltadit:3",
        "tome:0.5:force=true+fora:3",
    ):
        model = family.tiny_transformer()
        method = method_for(family.FAMILY, text)
        dita.enable(model, method, steps=9)
        sample(family, model, family.transformer_inputs(), 9)
        assert dita.summary(model, show=False).ran_as_planned, text


@pytest.mark.parametrize("text", ["tgate:5", "pab:2:low=0:high=1000", "taylorseer:3:1:modules=attention"])
def test_further_methods_run_as_planned(family, text: str) -> None:
    model = dita.enable(family.tiny_transformer(), method_for(family.FAMILY, text), steps=9)
    sample(family, model, family.transformer_inputs(), 9)
    assert dita.summary(model, show=False).ran_as_planned


def test_compiled_blocks_run_as_planned() -> None:
    model = tiny_pixart.tiny_transformer()
    for block in model.transformer_blocks:
        block.compile(backend="eager")
    dita.enable(model, "deltadit:3", steps=8)
    sample(tiny_pixart, model, tiny_pixart.transformer_inputs(), 8)
    assert dita.summary(model, show=False).ran_as_planned
    torch._dynamo.reset()


def test_calls_that_the_plan_does_not_know_are_noticed() -> None:
    pipe = dita.enable(tiny_flux.tiny_pipeline(), "fora:3")
    inputs = tiny_flux.transformer_inputs()
    between_steps(pipe, lambda: None)
    step = pipe.scheduler.step

    def twice(*args, **kwargs):  # a sampler of the user's own, which is no callback and no pipeline
        tiny_flux.forward(pipe.transformer, inputs, 0.5)
        return step(*args, **kwargs)

    pipe.scheduler.step = twice
    with pytest.warns(DepartureWarning, match=r"more calls of the transformer than 1"):
        tiny_flux.call(pipe)
