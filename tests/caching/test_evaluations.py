"""How often a pipeline call evaluates its model: with every scheduler of diffusers that runs, for any step count."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FluxImg2ImgPipeline,
    HeunDiscreteScheduler,
    PixArtSigmaPipeline,
    PNDMScheduler,
)

import dita
from dita.values import integer
from tests import tiny_dit, tiny_flux, tiny_pixart


def schedulers() -> list[tuple[str, dict]]:
    names = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    return [*((name, {}) for name in names), ("PNDMScheduler", {"skip_prk_steps": True})]


def calls_of(family, pipe, steps: int) -> int:
    seen: list[int] = []
    handle = pipe.transformer.register_forward_hook(lambda *_: seen.append(1))
    try:
        family.call(pipe, steps=steps)
    finally:
        handle.remove()
    return len(seen)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [tiny_pixart, tiny_dit, tiny_flux], ids=lambda module: module.FAMILY)
def test_the_plain_run_that_flops_are_compared_with_has_the_evaluations_that_it_has(family) -> None:
    ran = set()
    for name, settings in schedulers():
        pipe = family.tiny_pipeline()
        try:
            pipe.scheduler = getattr(diffusers, name)(**settings)
            plain = calls_of(family, pipe, 9)
        except Exception:
            continue  # not a scheduler of this pipeline
        ran.add(name)
        dita.enable(pipe, "steps:0.5")
        taken = calls_of(family, pipe, 9)
        summary = dita.summary(pipe, show=False)
        assert (summary.steps, len(summary.plan.steps)) == (taken, taken), name
        assert summary.repeats * taken == pytest.approx(plain), name
        assert summary.plain_flops == pytest.approx(summary.plan.plain_flops), name
        assert "set_timesteps" not in vars(pipe.scheduler)
    two_a_step = {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"}
    assert ran >= ({"FlowMatchEulerDiscreteScheduler"} if family is tiny_flux else two_a_step)


@pytest.mark.parametrize("strength", [1.0, 0.7, 0.3, 0.15])
@pytest.mark.parametrize("method", ["steps:0.5", "toca:3:0.5:schedule=constant"])
def test_a_picture_to_start_from_leaves_out_the_same_share_of_both_runs(method: str, strength: float) -> None:
    text = tiny_flux.tiny_pipeline()
    pipe = FluxImg2ImgPipeline(**text.components)
    pipe.set_progress_bar_config(disable=True)
    call = dict(image=torch.rand(1, 3, 32, 32), strength=strength)

    def calls(steps: int) -> int:
        seen: list[int] = []
        handle = pipe.transformer.register_forward_hook(lambda *_: seen.append(1))
        tiny_flux.call(pipe, steps=steps, **call)
        handle.remove()
        return len(seen)

    plain = calls(10)
    dita.enable(pipe, method)
    taken = calls(10)
    summary = dita.summary(pipe, show=False)
    assert summary.steps == taken and summary.repeats * taken == pytest.approx(plain)


def test_one_step_on_pixart_is_refused_in_words_where_the_scheduler_does_not_give_what_it_takes() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    dita.enable(pipe, "fora:3")
    with pytest.raises(ValueError, match=r"a run of 1 step .* DPMSolverMultistepScheduler does not give"):
        tiny_pixart.call(pipe, steps=1)
    dita.enable(pipe, "steps:0.1")
    with pytest.raises(ValueError, match=r"'steps:0\.1' leaves 1 step: PixArtAlphaPipeline"):
        tiny_pixart.call(pipe, steps=8)
    sigma = tiny_pixart.tiny_pipeline(pipeline=PixArtSigmaPipeline)  # takes no other path
    plain = tiny_pixart.call(sigma, steps=1)
    dita.enable(sigma, "fora:3")
    assert torch.equal(tiny_pixart.call(sigma, steps=1), plain)
    pipe = tiny_pixart.tiny_pipeline()
    pipe.scheduler = DDIMScheduler()
    plain = tiny_pixart.call(pipe, steps=1)
    dita.enable(pipe, "steps:0.1")
    assert torch.equal(tiny_pixart.call(pipe, steps=8), plain)
    assert dita.summary(pipe, show=False).repeats == 8


def test_a_number_of_steps_that_a_scheduler_cannot_take_is_refused_in_words() -> None:
    pipe = tiny_dit.tiny_pipeline()
    pipe.scheduler = PNDMScheduler()
    dita.enable(pipe, "steps:0.1")
    with pytest.raises(
        ValueError, match=r"PNDMScheduler cannot take a run of 1 step, which method 'steps:0\.1' leaves"
    ):
        tiny_dit.call(pipe, steps=8)
    assert not {"step", "set_timesteps"} & set(vars(pipe.scheduler))
    dita.enable(pipe, "fora:3")
    with pytest.raises(ValueError, match="PNDMScheduler cannot take a run of 1 step: "):
        tiny_dit.call(pipe, steps=1)


def test_merging_beside_fewer_steps_of_a_second_order_sampler() -> None:
    pipe = tiny_dit.tiny_pipeline()
    pipe.scheduler = HeunDiscreteScheduler()
    dita.enable(pipe, "tome:0.5:force=true+steps:0.5")
    assert calls_of(tiny_dit, pipe, 8) == 7
    summary = dita.summary(pipe, show=False)
    assert (summary.steps, len(summary.plan.steps), summary.plan.requested_steps) == (7, 7, 15)


def test_multistep_solvers_evaluate_once_a_step() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    pipe.scheduler = DPMSolverMultistepScheduler(solver_order=3)
    dita.enable(pipe, "steps:0.5")
    assert calls_of(tiny_pixart, pipe, 8) == 4
    assert dita.summary(pipe, show=False).repeats == 2


WHOLE = (8, np.int64(8), np.uint8(8), np.array(8), torch.tensor(8), torch.tensor([8], dtype=torch.int16))
NOT_WHOLE = (
    True,
    np.True_,
    torch.tensor(True),
    8.0,
    np.float32(8),
    torch.tensor(8.0),
    torch.tensor([8, 9]),
    "8",
    0,
    -1,
)


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_a_whole_number_of_any_type_is_an_int(value) -> None:
    found = integer("steps", value)
    assert found == 8 and type(found) is int


@pytest.mark.parametrize("value", [*NOT_WHOLE, None], ids=repr)
def test_what_is_no_whole_number_is_refused_by_name(value) -> None:
    with pytest.raises(ValueError, match=r"^steps must be a whole number, at least 1, got "):
        integer("steps", value)
