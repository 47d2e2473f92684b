"""The drift guard: which cached steps are computed in full, and what follows them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import dita
from dita.caching.guard import Guard
from dita.plan import full_step, step_kind
from dita.shapes import Kind
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.caching.test_broken import break_from
from tests.for_family import method_for
from tests.sampling_loop import sample


@pytest.fixture(params=[tiny_flux, tiny_pixart, tiny_dit, tiny_opensora], ids=lambda module: module.FAMILY)
def family(request):
    return request.param


GOING_ON = (
    "fora:4",
    "toca:4:0.6:random:schedule=constant",
    "toca:4:0.6:norm:schedule=constant",
    "toca:4:0.6:schedule=constant",
    "duca:4:0.6:schedule=constant",
    "taylorseer:4:2",
    "taylorseer:4:1:modules=attention",
    "taylorseer:4:2:lite=true",
    "deltadit:4",
    "tgate:3",
    "pab:3:low=0:high=1000",
)


@pytest.mark.parametrize("text", GOING_ON)
def test_steps_after_a_guarded_one_are_those_of_a_plan_that_has_it_full(family, text: str, monkeypatch) -> None:
    method = method_for(family.FAMILY, text)
    pipe = family.tiny_pipeline()
    dita.enable(pipe, method)
    family.call(pipe, steps=10)
    kinds = dita.summary(pipe, show=False).kinds
    cached = [s for s, kind in enumerate(kinds) if kind is not Kind.FULL]
    chosen = next((s for s in cached if s >= 4), cached[0])

    stock = type(method).plan

    def with_one_more(self, shape, steps, timesteps=None):
        plan = stock(self, shape, steps, timesteps)
        more = (*plan.steps[:chosen], full_step(shape), *plan.steps[chosen + 1 :])
        skips = {step: span for step, span in plan.skips.items() if step != chosen}
        joined = plan.joined if plan.joined is None or plan.joined != chosen else chosen + 1
        return dataclasses.replace(plan, steps=more, skips=skips, joined=joined)

    with monkeypatch.context() as patch:
        patch.setattr(type(method), "plan", with_one_more)
        if not (method.name == "tgate" and family is tiny_pixart and chosen > 3):  # guidance would end before
            dita.enable(pipe, method)
            expected = family.call(pipe, steps=10)
            planned = dita.summary(pipe, show=False)
        else:
            expected = planned = None

    calls: list[int] = []

    def accepts(self, branch, output) -> bool:
        calls.append(1)
        return cached[len(calls) - 1] != chosen

    monkeypatch.setattr(Guard, "accepts", accepts)
    dita.enable(pipe, method, guard=0.3)
    found = family.call(pipe, steps=10)
    summary = dita.summary(pipe, show=False)
    assert summary.guarded == (chosen,) and summary.kinds[chosen] is Kind.FULL
    assert [k for s, k in enumerate(summary.kinds) if s != chosen] == [k for s, k in enumerate(kinds) if s != chosen]
    assert f"guarded           1 cached by plan, computed in full: step {chosen}" in str(summary)
    if planned is not None and expected is not None:
        assert summary.kinds == planned.kinds and summary.flops > planned.flops
        assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_both_calls_of_guidance_are_full_where_the_first_departs() -> None:
    pipe = tiny_flux.tiny_pipeline()
    negative = tiny_flux.prompts(1, seed=9)
    call = dict(
        true_cfg_scale=3.0,
        negative_prompt_embeds=negative["prompt_embeds"],
        negative_pooled_prompt_embeds=negative["pooled_prompt_embeds"],
    )
    plain = tiny_flux.call(pipe, **call)
    for bound in (0, 1e-9, 0.5, 1.0, 2.0):
        dita.enable(pipe, "toca:4:0.6:schedule=constant", guard=bound)
        out = tiny_flux.call(pipe, **call)
        summary = dita.summary(pipe, show=False)
        by_step = {s: [one.kind for one in summary.executed if one.step == s] for s in range(8)}
        for step, kinds in by_step.items():
            if kinds[0] is Kind.FULL:
                assert kinds[1] is Kind.FULL, (bound, step)
        if bound < 1e-3:
            assert torch.allclose(out, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))
            assert set(summary.guarded) == {
                s for s, k in enumerate(summary.plan.method.plan(summary.shape, 8).kinds) if k is not Kind.FULL
            }


def test_the_sample_that_departs_most_decides() -> None:
    guard, branch = Guard(0.5), object()
    guard.keep(branch, (torch.ones(2, 4),))  # type: ignore[arg-type]
    near, far = torch.full((4,), 1.4), torch.full((4,), 1.6)
    assert guard.accepts(branch, (torch.stack([near, near]),))  # type: ignore[arg-type]
    assert not guard.accepts(branch, (torch.stack([near, far]),))  # type: ignore[arg-type]
    assert not guard.accepts(branch, (torch.stack([near, near * float("nan")]),))  # type: ignore[arg-type]


def test_a_cached_step_that_breaks_is_computed_in_full(family, monkeypatch) -> None:
    pipe = family.tiny_pipeline()
    monkeypatch.setattr("dita.plan.Forecast.weights", lambda *_: (float("nan"),))
    dita.enable(pipe, "taylorseer:3:1:warmup=2", guard=1e6)
    assert torch.isfinite(family.call(pipe)).all()
    summary = dita.summary(pipe, show=False)
    assert summary.guarded and summary.broken == ()


def test_the_first_steps_of_a_cycle_may_be_near_and_later_ones_not(family) -> None:
    pipe = family.tiny_pipeline()
    dita.enable(pipe, "fora:8")
    family.call(pipe)
    everything = [s for s, kind in enumerate(dita.summary(pipe, show=False).kinds) if kind is not Kind.FULL]
    for bound in (0.05, 0.2, 0.5, 1.0):
        dita.enable(pipe, "fora:8", guard=bound)
        family.call(pipe)
        assert set(dita.summary(pipe, show=False).guarded) <= set(everything)


def test_a_bare_transformer_is_guarded(family) -> None:
    model = family.tiny_transformer()
    plain = sample(family, model, family.transformer_inputs(), 9)
    dita.enable(model, "fora:3", steps=9, guard=1e-9)
    found = sample(family, model, family.transformer_inputs(), 9)
    assert torch.equal(found, plain)
    summary = dita.summary(model, show=False)
    assert len(summary.guarded) >= 2 and set(summary.kinds) == {Kind.FULL}
    assert len(summary.executed) == 9


def test_recorded_tokens_are_those_of_what_ran(family) -> None:
    pipe = family.tiny_pipeline()
    dita.enable(pipe, "toca:4:0.5:random:schedule=constant", record=True, guard=0)
    family.call(pipe)
    assert dita.summary(pipe, show=False).selections == {}


def test_a_broken_full_step_is_still_broken(family) -> None:
    pipe = family.tiny_pipeline()
    handle = break_from(family.blocks(pipe.transformer)[0], 0)
    dita.enable(pipe, "fora:3", guard=0.5)
    with pytest.raises(dita.BrokenNumbersError, match="at step 0"):
        family.call(pipe)
    handle.remove()


def test_plans_know_a_step_that_became_full() -> None:
    method = dita.ToCa(4, 0.6, schedule="constant")
    pipe = tiny_pixart.tiny_pipeline()
    dita.enable(pipe, method, guard=0)
    tiny_pixart.call(pipe)
    summary = dita.summary(pipe, show=False)
    assert all(step_kind(step) is Kind.FULL for step in summary.plan.steps)
    assert summary.flops == summary.plan.flops() == summary.plain_flops


class Wrapper(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class DataParallel(Wrapper):
    """A wrapper that hands its arguments on, by a name that is known."""


def test_a_transformer_in_a_wrapper_is_guarded(family) -> None:
    pipe = family.tiny_pipeline()
    plain = family.call(pipe)
    wrapped = DataParallel(pipe.transformer)
    inputs = family.transformer_inputs()
    expected = sample(family, pipe.transformer, dict(inputs), 8)
    dita.enable(wrapped, "fora:3", steps=8, guard=1e-9)
    assert torch.equal(sample(family, wrapped, dict(inputs), 8), expected)
    summary = dita.summary(wrapped, show=False)
    assert summary.guarded and len(summary.executed) == 8
    dita.disable(wrapped)
    assert torch.equal(family.call(pipe), plain)
