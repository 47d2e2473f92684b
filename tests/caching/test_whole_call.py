"""Steps without a transformer call: what they forecast, what they store, and that they work beside everything else."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

import dita
from dita.caching.noise_levels import NoiseLevel, noise_levels, prediction, space_map
from dita.caching.whole_call import StochasticSamplerError, WholeCalls, blank, filled, form_of
from dita.plan import CallForecast
from dita.shapes import Kind, named_shape
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.sampling_loop import sample

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request):
    return request.param


def counted(pipe) -> list[int]:
    """Real calls of the first block: what ran, whatever the summary says."""
    calls: list[int] = []
    blocks = pipe.transformer
    first = next(module for name, module in blocks.named_modules() if name.endswith("blocks.0") or name == "blocks.0")
    first.register_forward_hook(lambda *_: calls.append(1))
    return calls


# ------------------------------------------------------------------------------------------------ what is executed


@pytest.mark.parametrize("method", ["call:3", "call:4:0", "call:full=0/1/5", "call:3:steps_factor=2"])
def test_cached_steps_make_no_call_and_the_store_is_latents(family, method: str) -> None:
    pipe = family.tiny_pipeline()
    calls = counted(pipe)
    dita.enable(pipe, method)
    family.call(pipe)
    summary = dita.summary(pipe, show=False)
    plan = summary.plan
    assert summary.kinds == plan.kinds and Kind.CALL in plan.kinds
    assert len(calls) == plan.kinds.count(Kind.FULL) * max(1, summary.shape.branches)
    assert summary.cache_bytes == plan.cache_bytes > 0
    assert summary.flops == pytest.approx(plan.flops())
    assert summary.plain_flops / summary.flops == pytest.approx(plan.flops_ratio())


def test_the_store_is_order_plus_one_latents(family) -> None:
    for order in (0, 1, 2):
        pipe = dita.enable(family.tiny_pipeline(), dita.WholeCall(3, order))
        latents = family.call(pipe)
        one = latents.numel() * 4 * (2 if family is tiny_dit and dita.summary(pipe, show=False).shape.guided else 1)
        held = dita.summary(pipe, show=False).cache_bytes
        if family is tiny_dit:  # its pipeline hands out pictures, not latents
            one = dita.summary(pipe, show=False).shape.latent_bytes()
        assert held == (order + 1) * one


def test_reuse_of_a_flow_is_one_long_step_of_euler() -> None:
    """The output of a held call moves the sample along a straight line: as a step over all of them at once."""
    held = tiny_flux.call(dita.enable(tiny_flux.tiny_pipeline(), "call:order=0:full=0/3/5"))
    long_steps = tiny_flux.call(dita.enable(tiny_flux.tiny_pipeline(), "steps:full=0/3/5"))
    assert torch.allclose(held, long_steps, atol=1e-5 * float(long_steps.abs().max()))


@pytest.mark.parametrize("space", ["output", "x0", "velocity"])
@pytest.mark.parametrize("along", ["step", "noise", "log-snr"])
@pytest.mark.parametrize(
    "scheduler",
    [None, DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler],
    ids=lambda one: getattr(one, "__name__", "own"),
)
def test_a_model_that_is_exactly_linear_is_forecast_exactly(space: str, along: str, scheduler) -> None:
    """Outputs that lie on a straight line of z over u are continued without error, in each space and coordinate."""
    pipe = tiny_pixart.tiny_pipeline() if scheduler else tiny_flux.tiny_pipeline()
    used = scheduler() if scheduler else pipe.scheduler
    used.set_timesteps(8, **({} if scheduler else {"mu": 0.7}))
    plan = dita.WholeCall(7, along=along).plan(named_shape("flux-dev"), 8)
    whole = WholeCalls(CallForecast(1, "lagrange", space, along, stored=2), used, 0, plan)
    generator = torch.Generator().manual_seed(0)
    start, slope = torch.randn(2, 1, 4, 4, 4, generator=generator, dtype=torch.float64)
    for step in range(8):
        level = noise_levels(used)[step]
        u = {"step": float(step), "noise": level.time, "log-snr": level.log_snr}[along]
        x = torch.randn(1, 4, 4, 4, generator=generator, dtype=torch.float64)
        output = space_map(space, prediction(used), level).back(x, start + slope * u / 10, torch.float64)
        if step < 2:
            whole.put(step, output, x)
        else:
            assert torch.allclose(whole.output(step, x, torch.float64), output, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("predicted", ["flow", "epsilon", "v_prediction", "sample"])
def test_spaces_are_what_they_are_called(predicted: str) -> None:
    clean, noise = torch.randn(2, 5, dtype=torch.float64)
    for alpha, sigma in ((0.8, 0.6), (0.28, 0.96)):
        if predicted == "flow":
            alpha = 1 - sigma
        level = NoiseLevel(500.0, alpha, sigma)
        x = alpha * clean + sigma * noise
        velocity = noise - clean if predicted == "flow" else alpha * noise - sigma * clean
        output = {"flow": velocity, "epsilon": noise, "v_prediction": velocity, "sample": clean}[predicted]
        for space, wanted in (("x0", clean), ("velocity", velocity), ("output", output)):
            to = space_map(space, predicted, level)
            assert torch.allclose(to.forward(x, output), wanted)
            assert torch.allclose(to.back(x, wanted, torch.float64), output)


def test_a_sampler_that_scales_the_sample_has_the_same_clean_sample_and_velocity() -> None:
    """Euler's sample is x0 + sigma noise: the velocity is that of the sample divided by its length."""
    clean, noise = torch.randn(2, 5, dtype=torch.float64)
    sigma = 1.7
    norm = (1 + sigma**2) ** 0.5
    x = clean + sigma * noise
    velocity = noise / norm - sigma / norm * clean
    for predicted, output in (("epsilon", noise), ("v_prediction", velocity)):
        level = NoiseLevel(1.0, 1.0, sigma)
        assert torch.allclose(space_map("x0", predicted, level).forward(x, output), clean)
        assert torch.allclose(space_map("velocity", predicted, level).forward(x, output), velocity)


# ------------------------------------------------------------------------------------------------ beside the rest


def test_true_guidance_skips_both_calls() -> None:
    embeds = tiny_flux.prompts(1, seed=7)
    negative = {f"negative_{name}": value for name, value in embeds.items()}
    pipe = tiny_flux.tiny_pipeline()
    calls = counted(pipe)
    dita.enable(pipe, "call:3:0")
    tiny_flux.call(pipe, true_cfg_scale=3.0, **negative)
    summary = dita.summary(pipe, show=False)
    assert len(calls) == 2 * summary.kinds.count(Kind.FULL)
    assert summary.cache_bytes == 64 * 16 * 4, "one latent, not one a call"
    dita.disable(pipe)
    plain = tiny_flux.call(pipe, true_cfg_scale=3.0, **negative)
    dita.enable(pipe, "call:1")
    assert torch.equal(tiny_flux.call(pipe, true_cfg_scale=3.0, **negative), plain)


def test_a_batch_gives_what_its_prompts_give_alone(family) -> None:
    pipe = dita.enable(family.tiny_pipeline(), "call:3")
    both = family.call(pipe, count=2)
    alone = torch.cat([family.call(pipe, count=1, first=i) for i in range(2)])
    assert torch.allclose(both, alone, atol=1e-4 * float(alone.abs().max()))


def test_a_bare_transformer_forecasts_its_outputs(family) -> None:
    model, inputs = family.tiny_transformer(), family.transformer_inputs()
    dita.enable(model, "call:3", steps=8)
    sample(family, model, dict(inputs), 8)
    summary = dita.summary(model, show=False)
    assert summary.kinds.count(Kind.CALL) == 4
    dita.enable(model, "call:4:0", steps=4)
    same = family.forward(model, inputs, 0.5)
    assert torch.equal(family.forward(model, inputs, 0.5), same), "the step without a call reuses the output"
    dita.enable(model, "call:3:space=x0", steps=4)
    with pytest.raises(ValueError, match="needs a pipeline's scheduler"):
        family.forward(model, inputs, 0.5)


def test_schedulers_that_evaluate_twice_at_a_level_go_by_step_number() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    pipe.scheduler = HeunDiscreteScheduler()
    dita.enable(pipe, "call:3")
    assert torch.isfinite(tiny_pixart.call(pipe)).all()
    dita.enable(pipe, "call:3:along=noise")
    with pytest.raises(ValueError, match="along='step'"):
        tiny_pixart.call(pipe)


def test_a_sampler_that_draws_noise_is_refused_and_what_works_is_named() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    pipe.scheduler = EulerAncestralDiscreteScheduler()
    plain = tiny_pixart.call(pipe)
    dita.enable(pipe, "call:3")
    with pytest.raises(StochasticSamplerError, match=r"draws noise in each step.*fora:3"):
        tiny_pixart.call(pipe)
    dita.disable(pipe)
    assert torch.equal(tiny_pixart.call(pipe), plain)


def test_a_store_that_is_too_small_computes_every_step(family) -> None:
    plain = family.call(family.tiny_pipeline())
    pipe = dita.enable(family.tiny_pipeline(), "call:3", store=dita.Store(max_cache_bytes=0))
    assert torch.equal(family.call(pipe), plain)
    assert set(dita.summary(pipe, show=False).kinds) == {Kind.FULL}


def test_stores_of_fewer_bits_hold_fewer_bytes(family) -> None:
    whole = dita.enable(family.tiny_pipeline(), "call:3")
    family.call(whole)
    half = dita.enable(family.tiny_pipeline(), "call:3", store=dita.Store(dtype="bf16"))
    family.call(half)
    assert 2 * dita.summary(half, show=False).cache_bytes == dita.summary(whole, show=False).cache_bytes


def test_the_drift_guard_calls_the_transformer_where_a_forecast_departs(family) -> None:
    plain = family.call(family.tiny_pipeline())
    pipe = dita.enable(family.tiny_pipeline(), "call:3", guard=0.0)
    assert torch.equal(family.call(pipe), plain)
    assert dita.summary(pipe, show=False).guarded == (2, 3, 5, 6)
    free = family.call(dita.enable(pipe, "call:3"))
    assert torch.equal(family.call(dita.enable(pipe, "call:3", guard=1e9)), free)
    dita.enable(pipe, "call:3", guard=0.3)
    family.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert summary.kinds.count(Kind.CALL) + len(summary.guarded) == 4


def test_chosen_steps_of_a_finer_grid_are_carried_over_by_the_plain_steps_that_they_are_for() -> None:
    method, shape = dita.WholeCall(steps_factor=2, full_steps=(0, 4, 54), full_of=28), named_shape("flux-dev")
    assert method.plan(shape, 28).full_steps == (0, 4, 54)
    with pytest.warns(dita.CarriedOverWarning, match="0/7/96"):
        assert method.plan(shape, 50).full_steps == (0, 7, 96)
    with pytest.raises(ValueError, match="at most 55, got step 56"):
        dita.WholeCall(steps_factor=2, full_steps=(0, 56), full_of=28)


def test_forms_of_outputs_hold_no_numbers() -> None:
    output = (torch.randn(2, 3), torch.randn(4))
    form = form_of(output)
    assert sum(one.untyped_storage().nbytes() for one in form) == 8
    assert [tuple(one.shape) for one in blank(form)] == [(2, 3), (4,)] and not blank(form)[0].any()
    assert torch.equal(filled(form, output[0])[0], output[0])


def test_fitted_weights_are_used_as_they_are() -> None:
    rows = [[1.0], [0.25, 0.5], [0.25, 0.5], [-0.5, 0.5, 1.0]]
    method = dita.WholeCall(predictor="fitted", full_steps=(0, 2, 5, 7), weights=rows)
    fitted = tiny_flux.call(dita.enable(tiny_flux.tiny_pipeline(), method))
    seen: list[torch.Tensor] = []

    class Spy(type(tiny_flux.tiny_pipeline().scheduler)):
        def step(self, output, time, sample, **kwargs):
            seen.append(output.clone())
            return super().step(output, time, sample, **kwargs)

    pipe = tiny_flux.tiny_pipeline()
    pipe.scheduler = Spy.from_config(pipe.scheduler.config)
    assert torch.equal(tiny_flux.call(dita.enable(pipe, method)), fitted)
    for step, row, nodes in ((1, rows[0], [0]), (3, rows[1], [0, 2]), (4, rows[2], [0, 2]), (6, rows[3], [0, 2, 5])):
        expected = sum(weight * seen[node] for weight, node in zip(row, nodes, strict=True))
        assert torch.allclose(seen[step], expected, atol=1e-6)


@pytest.mark.slow
def test_compiled_transformers_skip_calls_too() -> None:
    torch._dynamo.reset()
    pipe = tiny_flux.tiny_pipeline()
    expected = tiny_flux.call(dita.enable(pipe, "call:3"))
    dita.disable(pipe)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    dita.enable(pipe, "call:3")
    made = tiny_flux.call(pipe)
    assert dita.summary(pipe, show=False).kinds.count(Kind.CALL) == 4
    assert torch.allclose(made, expected, atol=1e-5)
    dita.disable(pipe)
    assert not hasattr(pipe.transformer.forward, "answer")
