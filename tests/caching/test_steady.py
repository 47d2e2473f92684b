"""Projections of the text, and FLUX's rotary angles: computed in full steps, kept for the cached ones that follow."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch

import dita
from dita.caching.steady import SteadyMemo
from dita.shapes import NAMED_SHAPES
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.sampling_loop import sample

FAMILIES = {"pixart": tiny_pixart, "opensora": tiny_opensora}
STEPS = 8
METHOD = "toca:3:0.5:schedule=constant"


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request) -> ModuleType:
    return request.param


def attentions(family: ModuleType, model) -> list:
    return [block.attn2 for block in family.blocks(model)]


def run(family: ModuleType, model, change=None) -> torch.Tensor:
    return sample(family, model, family.transformer_inputs(), STEPS, change)


def full_steps(family: ModuleType) -> tuple[int, ...]:
    model = family.tiny_transformer()
    run(family, dita.enable(model, METHOD, steps=STEPS))
    full = dita.summary(model, show=False).plan.full_steps
    assert full[-1] - 1 not in full
    return full


def without(monkeypatch) -> None:
    monkeypatch.setattr("dita.caching.run.Run._keeps_steady", lambda self, branch: False)


def test_nothing_changes_but_the_work(family, monkeypatch) -> None:
    model = family.tiny_transformer()
    calls: list[bool] = []
    stock = SteadyMemo.made_by

    def made_by(self, module, compute):
        computed: list[int] = []
        made = stock(self, module, lambda: (computed.append(1), compute())[1])
        calls.append(bool(computed))
        return made

    monkeypatch.setattr(SteadyMemo, "made_by", made_by)
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
        module.__dict__["_dita"] for module in model.modules() if isinstance(module.__dict__.get("_dita"), SteadyMemo)
    }
    assert memos and not any(list(memo.tensors()) for memo in memos)
    dita.disable(model)
    assert not any("_dita" in module.__dict__ for module in model.modules())


def test_a_short_text_beside_a_large_picture_is_not_kept() -> None:
    assert replace(NAMED_SHAPES["pixart-alpha-1024"], text_tokens=120).steady_bytes(1) > 0
    assert NAMED_SHAPES["pixart-sigma-2k"].steady_bytes(1) == NAMED_SHAPES["opensora-1.2-480p-2s"].steady_bytes(1) == 0


def test_dit_has_no_such_modules() -> None:
    model = tiny_dit.tiny_transformer()
    dita.enable(model, METHOD, steps=STEPS)
    assert not any(isinstance(module.__dict__.get("_dita"), SteadyMemo) for module in model.modules())
    dita.disable(model)


def angles_of_flux(model, change=None) -> list[torch.Tensor]:
    """The rotary angles that each step's first block is given."""
    seen: list[torch.Tensor] = []
    first = model.transformer_blocks[0]
    hook = first.register_forward_pre_hook(
        lambda block, args, kwargs: seen.append(kwargs["image_rotary_emb"][0]), with_kwargs=True
    )
    run(tiny_flux, dita.enable(model, METHOD, steps=STEPS), change)
    hook.remove()
    return seen


def test_flux_computes_rotary_angles_in_full_steps_alone() -> None:
    model = tiny_flux.tiny_transformer()
    seen = angles_of_flux(model)
    full = dita.summary(model, show=False).plan.full_steps
    assert len(seen) == STEPS and len({id(angles) for angles in seen}) == len(full)
    assert all(torch.equal(angles, seen[0]) for angles in seen)
    dita.disable(model)
    assert "_dita" not in model.pos_embed.__dict__ and type(model.pos_embed).__module__.startswith("diffusers")


@pytest.mark.parametrize("in_place", [True, False])
def test_flux_follows_positions_that_change_in_a_cached_step(in_place: bool) -> None:
    model = tiny_flux.tiny_transformer()
    angles_of_flux(model)
    full = dita.summary(model, show=False).plan.full_steps
    cached = full[-1] - 1

    def change(step: int, inputs: dict) -> None:
        if step == cached:
            if in_place:
                inputs["img_ids"].mul_(2)
            else:
                inputs["img_ids"] = inputs["img_ids"] * 2

    seen = angles_of_flux(model, change)
    stock = type(model.pos_embed).__mro__[1].forward
    inputs = tiny_flux.transformer_inputs()
    expected = stock(model.pos_embed, torch.cat([inputs["txt_ids"], 2 * inputs["img_ids"]]))[0]
    assert torch.equal(seen[cached], expected) and not torch.equal(seen[cached - 1], expected)
