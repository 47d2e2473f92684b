"""Methods whose cached steps take attention from the store, and compute every MLP: against hooks on attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dita
from dita.caching.adapters import adapter_for
from dita.methods import parse
from dita.shapes import NAMED_SHAPES, Kind, Site
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.sampling_loop import sample

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]
STEPS = 9
ATTENTION = ("attn", "attn1", "attn2", "cross_attn")


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request) -> ModuleType:
    return request.param


def attentions(model: nn.Module) -> list[nn.Module]:
    """The attention modules of every block."""
    blocks = (block for _, _, block in adapter_for(model).blocks(model))
    return [child for block in blocks for name, child in block.named_children() if name in ATTENTION]


def of_each(change: Callable[..., Tensor], *features: Any) -> Any:
    return tuple(map(change, *features)) if isinstance(features[0], tuple) else change(*features)


class Continued:
    """What stands for a module's output: that of its last full step, continued along a line where `line` says so."""

    def __init__(self, full: list[int], since: int | None) -> None:
        self.full = full
        self.since = since
        self.step = -1
        self.last: tuple[int, Any] | None = None
        self.slope: Any = None

    def __call__(self, module: nn.Module, args: Any, out: Any) -> Any:
        self.step += 1
        if self.step in self.full:
            if self.since is not None and self.step >= self.since and self.last is not None:
                distance = self.step - self.last[0]
                self.slope = of_each(lambda new, old: (new - old) / distance, out, self.last[1])
            self.last = (self.step, out)
            return out
        assert self.last is not None
        if self.slope is None:
            return self.last[1]
        ahead = self.step - self.last[0]
        return of_each(lambda at, slope: at + ahead * slope, self.last[1], self.slope)


METHODS = {
    "fora:3:modules=attention": None,
    "taylorseer:3:1:modules=attention": 1,
    "taylorseer:4:1:modules=attention:ramp=true:warmup=3": 2,
}
"""By method, the first step that differences are formed at."""


@pytest.mark.parametrize("method", METHODS)
def test_it_is_what_hooks_on_the_attention_modules_give(family, method: str) -> None:
    model, parsed = family.tiny_transformer(), parse(method)
    inputs = family.transformer_inputs(batch=2)
    dita.enable(model, parsed, steps=STEPS)
    out = sample(family, model, dict(inputs), STEPS)
    summary = dita.summary(model, show=False)
    dita.disable(model)
    full = list(summary.plan.full_steps)
    assert 2 < len(full) < STEPS - 2 and set(summary.kinds) == {Kind.FULL, Kind.PARTIAL}
    since = None if parsed.name == "fora" else max(summary.plan.forecast.since, 1)
    for module in attentions(model):
        module.register_forward_hook(Continued(full, since))
    by_hooks = sample(family, model, dict(inputs), STEPS)
    assert float((out - by_hooks).norm() / by_hooks.norm()) < 1e-5
    assert float((out - by_hooks).norm()) < 1e-2 * float((out - sample_of_all(family, method)).norm())


def sample_of_all(family: ModuleType, method: str) -> Tensor:
    """The same method, with MLPs from the store."""
    model = dita.enable(family.tiny_transformer(), method.replace(":modules=attention", ""), steps=STEPS)
    return sample(family, model, family.transformer_inputs(batch=2), STEPS)


def test_diffusers_taylorseer_with_the_same_full_steps_gives_the_same() -> None:
    from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

    model, inputs = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs(batch=2)
    dita.enable(model, "taylorseer:2:1:modules=attention", steps=STEPS)
    out = sample(tiny_flux, model, dict(inputs), STEPS)
    assert dita.summary(model, show=False).plan.full_steps == (0, 1, 2, 4, 6, 8)
    dita.disable(model)
    config = TaylorSeerCacheConfig(
        cache_interval=2, disable_cache_before_step=3, max_order=1, taylor_factors_dtype=torch.float32
    )
    apply_taylorseer_cache(model, config)
    with model.cache_context("cond"):
        by_diffusers = sample(tiny_flux, model, dict(inputs), STEPS)
    assert float((out - by_diffusers).norm() / out.norm()) < 1e-5


def test_pab_on_flux_computes_attention_in_every_third_step_of_its_window() -> None:
    model, inputs = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs(batch=2)
    dita.enable(model, "pab:2:low=0:high=1000", steps=STEPS)
    out = sample(tiny_flux, model, dict(inputs), STEPS)
    full = list(dita.summary(model, show=False).plan.full_steps)
    assert full == [0, 3, 6]
    dita.disable(model)
    for module in attentions(model):
        module.register_forward_hook(Continued(full, None))
    by_hooks = sample(tiny_flux, model, dict(inputs), STEPS)
    assert float((out - by_hooks).norm() / by_hooks.norm()) < 1e-5


def test_diffusers_pab_with_the_same_full_steps_gives_the_same() -> None:
    from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    model, inputs = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs(batch=2)
    out = sample(tiny_flux, dita.enable(model, "pab:2:low=0:high=1000", steps=STEPS), dict(inputs), STEPS)
    dita.disable(model)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=3,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(model, config)
    with model.cache_context("cond"):
        by_diffusers = sample(tiny_flux, model, dict(inputs), STEPS)
    assert float((out - by_diffusers).norm() / out.norm()) < 1e-5


def test_of_a_single_stream_block_the_attention_is_all_that_is_stored() -> None:
    shape = NAMED_SHAPES["flux-dev"]
    alone, whole = (parse(f"fora:3:modules={modules}").plan(shape, 50) for modules in ("attention", "all"))
    assert alone.attention_alone == {Site("single", layer, "single") for layer in range(38)}
    assert not whole.attention_alone
    assert alone.full_steps == whole.full_steps
    tokens = shape.tokens("single") * shape.width * shape.element_bytes
    assert alone.cache_bytes == (19 + 38) * tokens + shape.steady_bytes(0)  # of a double-stream block no MLP
    step = alone.steps[1]
    assert step[Site("double", 0, "attn")] == (Kind.REUSE, 0, 0)
    assert step[Site("double", 0, "mlp")] == (Kind.FULL, 4096, 0)
    assert step[Site("single", 0, "single")] == (Kind.PARTIAL, 4608, 0)


def test_a_cached_step_costs_what_its_mlps_cost() -> None:
    shape = NAMED_SHAPES["pixart-alpha-256"]
    plan = parse("fora:3:modules=attention").plan(shape, 20)
    mlps = sum(shape.flops(site, Kind.FULL, 256) for site in shape.sites() if site.module == "mlp")
    assert plan.step_flops(plan.steps[1]) == mlps + shape.step_flops()


@pytest.mark.parametrize("name", ["fora:3", "taylorseer:3:1"])
def test_unknown_modules_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown modules 'mlp'; known: all, attention"):
        parse(f"{name}:modules=mlp")


def test_lite_forecasts_no_single_modules() -> None:
    with pytest.raises(ValueError, match=r"lite .* got 'attention'"):
        parse("taylorseer:3:1:lite=true:modules=attention")


def test_it_is_recorded_that_every_token_was_computed() -> None:
    model, inputs = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs(batch=2)
    dita.enable(model, "fora:3:modules=attention", steps=STEPS, record=True)
    sample(tiny_flux, model, inputs, STEPS)
    tokens = dita.summary(model, show=False).tokens
    assert tokens.computed(1, Site("single", 0, "single")).all()
    assert not tokens.computed(1, Site("double", 0, "attn")).any()
    assert (tokens.share(1, module="single") == 1).all() and (tokens.share(1, module="attn") == 0).all()


def test_a_projection_that_cannot_be_cut_takes_the_attention_itself() -> None:
    """A hook on the projection, as offload has one: what is stored is then in front of the projection."""
    model, inputs = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs(batch=2)
    run = partial(sample, tiny_flux, steps=STEPS)
    method = "taylorseer:3:1:modules=attention"
    folded = run(dita.enable(model, method, steps=STEPS), dict(inputs))
    for block in model.single_transformer_blocks:
        block.proj_out.register_forward_hook(lambda module, args, out: None)
    assert float((run(model, dict(inputs)) - folded).norm() / folded.norm()) < 1e-5


def test_toca_that_computes_every_token_stores_no_output_either() -> None:
    shape = NAMED_SHAPES["flux-dev"]
    plan = parse("toca:4:0:random:schedule=constant").plan(shape, 50)
    assert len(plan.attention_alone) == 38
    model, inputs = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs(batch=2)
    run = partial(sample, tiny_flux, steps=STEPS)
    every = run(dita.enable(model, "toca:3:0:schedule=constant", steps=STEPS, record=True), dict(inputs))
    full = dita.summary(model, show=False).plan.full_steps
    assert dita.summary(model, show=False).tokens.computed(5, Site("single", 0, "single")).all()
    dita.disable(model)
    for module in attentions(model):
        module.register_forward_hook(Continued(list(full), None))
    by_hooks = run(model, dict(inputs))
    assert float((every - by_hooks).norm() / by_hooks.norm()) < 1e-5
