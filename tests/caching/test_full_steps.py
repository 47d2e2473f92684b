"""Runs whose full steps are chosen: those of a cycle give what the cycle gives, in every family."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import dita
from dita.shapes import Kind
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.for_family import method_for


@pytest.fixture(params=[tiny_flux, tiny_pixart, tiny_dit, tiny_opensora], ids=lambda module: module.FAMILY)
def family(request):
    """The module that makes tiny pipelines of one family, and calls them."""
    return request.param


@pytest.mark.parametrize(
    "text",
    [
        "fora:3",
        "toca:3:0.6:schedule=constant",
        "toca:2:0.6:random:schedule=constant:forecast=1",
        "duca:4:1.0",
        "duca:2:0.6:schedule=constant:aggressive=reuse",
        "taylorseer:3:2",
        "taylorseer:4:1:ramp=true:lite=true",
        "deltadit:3",
    ],
)
def test_the_full_steps_of_a_cycle_give_its_latents(family, text: str) -> None:
    method = method_for(family.FAMILY, text)
    if isinstance(method, dita.ToCa) and family is tiny_opensora:  # else cross-attention has a cycle of its own
        method = dataclasses.replace(method, cross_cycle=method.cycle)
    pipe = family.tiny_pipeline()
    dita.enable(pipe, method)
    expected = family.call(pipe)
    cycle = dita.summary(pipe, show=False)
    full = tuple(s for s, kind in enumerate(cycle.kinds) if kind is Kind.FULL)
    assert 1 < len(full) < len(cycle.kinds)
    unset = {"cross_cycle": None} if isinstance(method, dita.ToCa) else {}
    dita.enable(pipe, dataclasses.replace(method, full_steps=full, **unset))
    assert torch.equal(family.call(pipe), expected)
    chosen = dita.summary(pipe, show=False)
    assert (chosen.kinds, chosen.flops, chosen.cache_bytes) == (cycle.kinds, cycle.flops, cycle.cache_bytes)


@pytest.mark.parametrize("text", ["fora", "toca", "duca", "taylorseer:order=1", "deltadit"])
def test_steps_chosen_for_another_number_are_carried_over_by_the_timesteps_of_the_run(family, text: str) -> None:
    pipe = family.tiny_pipeline()
    dita.enable(pipe, f"{text}:full=0/2/3:of=4")
    with pytest.warns(dita.CarriedOverWarning, match="chosen for 4 steps, are carried over to these 8"):
        family.call(pipe, steps=8)
    found = tuple(s for s, kind in enumerate(dita.summary(pipe, show=False).kinds) if kind is Kind.FULL)
    assert found == (0, 4, 6)


def test_steps_beyond_the_run_are_refused_and_the_next_call_is_right(family) -> None:
    pipe = family.tiny_pipeline()
    dita.enable(pipe, "fora:full=0/3/7")
    expected = family.call(pipe, steps=8)
    with pytest.raises(ValueError, match="full_steps must be below 5, the steps of this run, got step 7"):
        family.call(pipe, steps=5)
    assert torch.equal(family.call(pipe, steps=8), expected)
