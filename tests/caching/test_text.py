"""Projections of the text are computed in full steps, and kept for the cached ones that follow."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch

import dita
from dita.caching.text import TextMemo
from dita.shapes import NAMED_SHAPES
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart

FAMILIES = {"pixart": tiny_pixart, "opensora": tiny_opensora}
STEPS = 8
METHOD = "toca:3:0.5:schedule=constant"


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request) -> ModuleType:
    return request.param


def attentions(family: ModuleType, model) -> list:
    return [block.attn2 for block in family.blocks(model)]


def run(family: ModuleType, model, change=None) -> torch.Tensor:
    inputs = family.transformer_inputs()
    for step in range(STEPS):
        if change is not None:
            change(step, inputs)
        out = family.forward(model, inputs, step / STEPS)
        inputs["hidden_states"] = inputs["hidden_states"] - out / STEPS
    return inputs["hidden_states"]


def full_steps(family: ModuleType) -> tuple[int, ...]:
    model = family.tiny_transformer()
    run(family, dita.enable(model, METHOD, steps=STEPS))
    full = dita.summary(model, show=False).plan.full_steps
    assert full[-1] - 1 not in full
    return full


def without(monkeypatch) -> None:
    monkeypatch.setattr("dita.caching.run.Run._keeps_text", lambda self, branch: False)


def test_nothing_changes_but_the_work(family, monkeypatch) -> None:
    model = family.tiny_transformer()
    calls: list[bool] = []
    stock = TextMemo.made_by

    def made_by(self, module, compute):
        computed: list[int] = []
        made = stock(self, module, lambda: (computed.append(1), compute())[1])
        calls.append(bool(computed))
        return made

    monkeypatch.setattr(TextMemo, "made_by", made_by)
    kept = run(family, dita.enable(model, METHOD, steps=STEPS))
    full = dita.summary(model, show=False).plan.full_steps
    blocks = len(attentions(family, model))
    assert len(calls) == STEPS * (1 + blocks)
    assert sum(calls) == len(full) * (1 + blocks) < len(calls)
    without(monkeypatch)
    assert torch.equal(kept, run(family, dita.enable(model, METHOD, steps=STEPS)))


@pytest.mark.parametrize("in_place", [True, False])
def test_another_text_in_a_cached_step_is_projected(family, in_place: bool, monkeypatch) -> None:
    def change(step: int, inputs: dict) -> None:
        if step == cached:
            if in_place:
                inputs["encoder_hidden_states"].mul_(-2)
            else:
                inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"] * -2

    model = family.tiny_transformer()
    cached = full_steps(family)[-1] - 1
    kept = run(family, dita.enable(model, METHOD, steps=STEPS), change)
    assert not torch.equal(kept, run(family, dita.enable(model, METHOD, steps=STEPS)))
    without(monkeypatch)
    assert torch.equal(kept, run(family, dita.enable(model, METHOD, steps=STEPS), change))


def test_weights_that_change_take_effect_in_the_next_full_step(family, monkeypatch) -> None:
    full = full_steps(family)[-1]
    assert 0 < full < STEPS - 1, "a cached step follows"

    def runs() -> torch.Tensor:
        model = family.tiny_transformer()

        def change(step: int, inputs: dict) -> None:
            if step == full:
                for attn in attentions(family, model):
                    attn.to_v.weight.data.mul_(2)

        return run(family, dita.enable(model, METHOD, steps=STEPS), change)

    kept = runs()
    without(monkeypatch)
    assert torch.equal(kept, runs())


def test_nothing_is_held_between_runs(family) -> None:
    model = family.tiny_transformer()
    run(family, dita.enable(model, METHOD, steps=STEPS))
    memos = {
        module.__dict__["_dita"] for module in model.modules() if isinstance(module.__dict__.get("_dita"), TextMemo)
    }
    assert memos and not any(list(memo.tensors()) for memo in memos)
    dita.disable(model)
    assert not any("_dita" in module.__dict__ for module in model.modules())


def test_a_short_text_beside_a_large_picture_is_not_kept() -> None:
    assert replace(NAMED_SHAPES["pixart-alpha-1024"], text_tokens=120).text_bytes(1) > 0
    assert NAMED_SHAPES["pixart-sigma-2k"].text_bytes(1) == NAMED_SHAPES["opensora-1.2-480p-2s"].text_bytes(1) == 0


@pytest.mark.parametrize("other", [tiny_flux, tiny_dit], ids=["flux", "dit"])
def test_others_have_no_such_projections(other) -> None:
    model = other.tiny_transformer()
    dita.enable(model, METHOD, steps=STEPS)
    assert not any(isinstance(module.__dict__.get("_dita"), TextMemo) for module in model.modules())
