"""Samplers in place of a pipeline's own: they converge where they are offered, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

import dita
from dita.caching.sampled import sampled_as
from dita.methods import FewerSteps
from dita.samplers import FAMILY_SAMPLERS, SAMPLERS, build, is_flow, why_stochastic
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart

FAMILIES = {module.FAMILY: module for module in (tiny_flux, tiny_pixart, tiny_dit, tiny_opensora)}
OFFERED = [(family, name) for family, names in FAMILY_SAMPLERS.items() for name in names]


class Gaussian:
    """The ideal model of data N(0, diag(v)): what a sampler of it must end at is known in closed form."""

    variances = torch.logspace(-2, 0.3, 64, dtype=torch.float64)

    def __init__(self, scheduler) -> None:
        self.scheduler = scheduler
        self.flow = is_flow(scheduler)

    def output(self, sample: torch.Tensor, step: int) -> torch.Tensor:
        from dita.caching.noise_levels import noise_levels

        _, a, s = noise_levels(self.scheduler)[step]
        clean = a * self.variances / (a * a * self.variances + s * s) * sample
        noise = (sample - a * clean) / s
        return noise - clean if self.flow else noise

    def error(self, steps: int) -> float:
        """Root mean square distance to the exact end, from the same noise; of the start's marginal."""
        kwargs = {"mu": 1.1} if self.scheduler.config.get("use_dynamic_shifting") else {}
        self.scheduler.set_timesteps(steps, **kwargs)
        from dita.caching.noise_levels import noise_levels

        _, a, s = noise_levels(self.scheduler)[0]
        noise = torch.randn(32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        sample = noise * (a * a * self.variances + s * s).sqrt()
        wanted = noise * self.variances.sqrt()
        for step, time in enumerate(self.scheduler.timesteps):
            output = self.output(sample, step)
            sample = self.scheduler.step(output, time, sample, return_dict=False)[0].double()
        return float((sample - wanted).square().mean().sqrt())


@pytest.mark.parametrize(("family", "name"), OFFERED)
def test_a_sampler_that_is_offered_converges(family: str, name: str) -> None:
    own = FAMILIES[family].tiny_pipeline().scheduler
    errors = [Gaussian(build(name, own)).error(steps) for steps in (6, 12, 48)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.06


@pytest.mark.parametrize(("family", "name"), OFFERED)
def test_a_sampler_runs_in_the_pipeline_which_has_its_own_back(family: str, name: str) -> None:
    module = FAMILIES[family]
    pipe = module.tiny_pipeline()
    own, plain, config = pipe.scheduler, module.call(pipe), dict(pipe.scheduler.config)
    dita.enable(pipe, f"steps:0.5:{name}")
    made = module.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert torch.isfinite(made).all() and summary.steps == 4 and summary.plain_flops == 2 * summary.flops
    assert torch.equal(module.call(pipe), made), "a fresh scheduler for each call"
    dita.disable(pipe)
    assert pipe.scheduler is own and dict(own.config) == config and torch.equal(module.call(pipe), plain)
    with sampled_as(pipe, FewerSteps(0.5, name)):
        assert torch.equal(module.call(pipe, steps=4), made), "with nothing attached, the same"
    assert pipe.scheduler is own


def test_the_own_scheduler_is_back_after_an_error() -> None:
    pipe = dita.enable(tiny_flux.tiny_pipeline(), "steps:0.5:unipc")
    own = pipe.scheduler

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tiny_flux.call(pipe, callback_on_step_end=fail)
    assert pipe.scheduler is own and not {"step", "set_timesteps"} & set(vars(own))


def test_a_sampler_that_does_not_converge_on_a_family_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"'unipc' is not offered for opensora.*offered: none"):
        dita.enable(tiny_opensora.tiny_pipeline(), "steps:0.5:unipc")
    with pytest.raises(ValueError, match=r"'deis' is not offered for flux.*offered: unipc, dpm\+\+"):
        dita.enable(tiny_flux.tiny_pipeline(), "steps:0.5:deis")
    with pytest.raises(ValueError, match=r"unknown sampler 'unipcc'.*unipc"):
        dita.enable(tiny_flux.tiny_pipeline(), "steps:0.5:unipcc")
    assert set(SAMPLERS) == {"unipc", "dpm++", "deis"}


def test_flow_matching_without_dynamic_shifting_takes_the_shift_of_its_configuration() -> None:
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = build("unipc", own)
    made.set_timesteps(10)
    own.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
    assert torch.allclose(made.sigmas, own.sigmas, atol=2e-2)
    with pytest.raises(ValueError, match=r"needs a scheduler with use_dynamic_shifting.*'unipc'"):
        build("dpm++", own)


def test_what_only_pipelines_read_of_the_configuration_stays() -> None:
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.4, max_shift=1.3)
    made = build("unipc", own)
    assert (made.config.base_shift, made.config.max_shift) == (0.4, 1.3)
    back = FlowMatchEulerDiscreteScheduler.from_config(made.config)
    assert back.config.base_shift == 0.4 and back.config.shift == own.config.shift


def test_chosen_steps_of_the_own_grid() -> None:
    """The sampler takes exactly these of its noise levels, and ends at none."""
    pipe = tiny_flux.tiny_pipeline()
    tiny_flux.call(pipe)
    sigmas = pipe.scheduler.sigmas
    dita.enable(pipe, "steps:full=0/2/5")
    tiny_flux.call(pipe)
    assert torch.equal(pipe.scheduler.sigmas, sigmas[[0, 2, 5, 8]])
    summary = dita.summary(pipe, show=False)
    assert summary.steps == 3 and summary.plain_flops / summary.flops == pytest.approx(8 / 3)
    with pytest.raises(ValueError, match="below 8"):
        tiny_flux.call(dita.enable(pipe, "steps:full=0/2/9"))
    with pytest.warns(dita.CarriedOverWarning, match="0/1/3"):
        tiny_flux.call(dita.enable(pipe, "steps:full=0/4/10:of=28"))
    dita.disable(pipe)
    tiny_flux.call(pipe)
    assert torch.equal(pipe.scheduler.sigmas, sigmas)


def test_samplers_whose_steps_are_no_noise_levels_take_no_chosen_ones() -> None:
    pipe = tiny_dit.tiny_pipeline()
    assert isinstance(pipe.scheduler, DDIMScheduler)
    dita.enable(pipe, "steps:full=0/2/5")
    with pytest.raises(ValueError, match=r"DDIMScheduler takes no chosen steps.*call:order=0"):
        tiny_dit.call(pipe)


@pytest.mark.parametrize(
    ("name", "arguments", "draws"),
    [
        ("DDIMScheduler", {}, False),
        ("EulerDiscreteScheduler", {}, False),
        ("EulerAncestralDiscreteScheduler", {}, True),
        ("DDPMScheduler", {}, True),
        ("LCMScheduler", {}, True),
        ("DPMSolverMultistepScheduler", {}, False),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, True),
        ("FlowMatchEulerDiscreteScheduler", {}, False),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, True),
    ],
)
def test_samplers_that_draw_noise_are_told(name: str, arguments: dict, draws: bool) -> None:
    import diffusers

    assert (why_stochastic(getattr(diffusers, name)(**arguments)) is not None) == draws
