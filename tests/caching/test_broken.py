"""Broken numbers, NaN or infinite: where they are found, and what is said of them."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch

import dita
from dita.caching.attachment import attachment_of
from dita.caching.broken import BrokenNumbersError, BrokenNumbersWarning, Checks, Outputs, steps_text, watching
from dita.caching.stand_in import is_stand_in
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.sampling_loop import sample


@pytest.fixture(params=[tiny_flux, tiny_pixart, tiny_dit, tiny_opensora], ids=lambda module: module.FAMILY)
def family(request):
    return request.param


def break_from(module: torch.nn.Module, call: int, value: float = float("nan")):
    """From the `call`-th call of `module` on, one number of each tensor that it puts out is `value`."""
    seen: list[int] = []

    def broken(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[7] = value
        return tensor

    def hook(_, __, out):
        seen.append(1)
        if len(seen) <= call:
            return None
        return tuple(map(broken, out)) if isinstance(out, tuple) else broken(out)

    return module.register_forward_hook(hook)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_the_first_module_that_breaks_is_named(family, value: float) -> None:
    pipe = family.tiny_pipeline()
    block = family.blocks(pipe.transformer)[1]
    name = next(name for name, module in pipe.transformer.named_modules() if module is block)
    handle = break_from(block, 4, value)
    for method in ("plain", "taylorseer:4:0:warmup=1"):
        handle.remove()
        handle = break_from(block, 4, value)
        dita.enable(pipe, method)
        with pytest.raises(BrokenNumbersError, match=f"at step 4 of 8, counted from 0, first in {name} "):
            family.call(pipe)
        assert dita.summary(pipe, show=False).broken == (4,)
        assert "BROKEN NUMBERS    NaN or infinity put out in step 4" in str(dita.summary(pipe, show=False))
    handle.remove()


def test_a_weight_that_breaks_is_named_by_its_module(family) -> None:
    pipe = family.tiny_pipeline()
    name, layer = [(n, m) for n, m in pipe.transformer.named_modules() if isinstance(m, torch.nn.Linear)][-3]
    layer.weight[0, 0] = float("nan")
    dita.enable(pipe, "toca:4:0.5:random:schedule=constant")
    with pytest.raises(BrokenNumbersError, match=f"at step 0 of 8, counted from 0, first in {name} "):
        family.call(pipe)


def test_what_a_method_keeps_is_named_where_the_call_in_full_is_whole(family, monkeypatch) -> None:
    pipe = family.tiny_pipeline()
    dita.enable(pipe, "taylorseer:3:1:warmup=2")
    monkeypatch.setattr("dita.plan.Forecast.weights", lambda *_: (float("inf"),))
    with pytest.raises(
        BrokenNumbersError, match="computed in full this call has none, so they come of what taylorseer"
    ):
        family.call(pipe)


def test_broken_arguments_are_named() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    dita.enable(pipe, "fora:3")

    def change(pipe, step, _, tensors):
        if step == 3:
            tensors["latents"] = tensors["latents"] * float("nan")
        return tensors

    def old_callback(step: int, _, latents: torch.Tensor) -> None:
        if step == 3:
            latents.fill_(float("nan"))

    with pytest.raises(BrokenNumbersError, match="at step 4 of 8, counted from 0, first in its input hidden_states"):
        tiny_pixart.call(pipe, callback=old_callback, callback_steps=1)
    flux = tiny_flux.tiny_pipeline()
    dita.enable(flux, "fora:3")
    with pytest.raises(BrokenNumbersError, match="at step 4 of 8, counted from 0, first in its input hidden_states"):
        tiny_flux.call(flux, callback_on_step_end=change, callback_on_step_end_tensor_inputs=["latents"])


def test_it_warns_once_and_goes_on(family) -> None:
    pipe = family.tiny_pipeline()
    handle = break_from(family.blocks(pipe.transformer)[-1], 5)
    dita.enable(pipe, "plain", on_nan="warn")
    with pytest.warns(BrokenNumbersWarning, match="at step 5 of 8") as seen:
        out = family.call(pipe)
    assert len([one for one in seen if one.category is BrokenNumbersWarning]) == 1
    assert torch.isnan(out).any() or out.unique().numel() < out.numel()
    assert dita.summary(pipe, show=False).broken == (5, 6, 7)
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error", BrokenNumbersWarning)
        family.call(pipe)
    assert dita.summary(pipe, show=False).broken == ()


def test_latents_that_the_last_step_breaks(family) -> None:
    pipe = family.tiny_pipeline()
    stock, calls = pipe.scheduler.step, []

    def step(*args, **kwargs):
        calls.append(1)
        out = stock(*args, **kwargs)
        if len(calls) < 8:
            return out
        if isinstance(out, tuple):
            return (out[0] * float("nan"), *out[1:])
        out.prev_sample = out.prev_sample * float("nan")
        return out

    pipe.scheduler.step = step
    dita.enable(pipe, "fora:3")
    with pytest.raises(BrokenNumbersError, match="the latents hold NaN or infinity after the scheduler's last step"):
        family.call(pipe)
    assert dita.summary(pipe, show=False).broken == ()


@pytest.mark.parametrize("family", [tiny_flux, tiny_pixart, tiny_dit], ids=lambda module: module.FAMILY)
def test_a_picture_that_the_autoencoder_breaks(family) -> None:
    pipe = family.tiny_pipeline()
    next(pipe.vae.decoder.parameters()).data.fill_(float("nan"))
    dita.enable(pipe, "fora:3")
    with pytest.raises(BrokenNumbersError, match=r"the autoencoder .* made NaN or infinity of latents that hold none"):
        family.call(pipe, output_type="np")
    dita.enable(pipe, "fora:3", on_nan="warn")
    with pytest.warns(BrokenNumbersWarning, match="the autoencoder"):
        family.call(pipe, output_type="np")
    assert not is_stand_in(type(pipe.vae))


def test_a_bare_transformer(family) -> None:
    model = family.tiny_transformer()
    expected = sample(family, model, family.transformer_inputs(), 8)
    handle = break_from(family.blocks(model)[0], 3)
    dita.enable(model, "plain", steps=8)
    with pytest.raises(BrokenNumbersError, match="at step 3 of 8"):
        sample(family, model, family.transformer_inputs(), 8)
    assert dita.summary(model, show=False).broken == (3,)
    handle.remove()
    assert torch.equal(sample(family, model, family.transformer_inputs(), 8), expected), "a new run begins"
    handle = break_from(family.blocks(model)[0], 3)
    dita.enable(model, "plain", steps=8, on_nan="warn")
    with pytest.warns(BrokenNumbersWarning, match="at step 3 of 8"):
        sample(family, model, family.transformer_inputs(), 8)
    assert dita.summary(model, show=False).broken == (3, 4, 5, 6, 7)
    handle.remove()


def test_on_nan_is_one_of_two() -> None:
    pipe = tiny_dit.tiny_pipeline()
    with pytest.raises(ValueError, match="unknown on_nan 'rise'; known: raise, warn; did you mean 'raise'"):
        dita.enable(pipe, "fora:3", on_nan="rise")
    assert attachment_of(pipe) is None


def test_calls_are_told_by_step_and_number() -> None:
    outputs, whole, broken = Outputs(), torch.zeros(3), torch.tensor([0.0, float("inf")])
    assert outputs.note(0, 0, (whole,)) == []
    assert outputs.note(1, 1, {"sample": broken}) == [(1, 1)]
    assert outputs.note(2, 0, whole) == []
    assert outputs.settle() == [] and outputs.broken == [(1, 1)]


def test_samples_are_told_apart() -> None:
    pipe = tiny_flux.tiny_pipeline()
    with watching(pipe) as made:
        made.stepped((torch.tensor([[0.0], [float("nan")], [0.0]]),))
        made.decoded((torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.5, 0.5]]),))
    assert made.broken(3) == [False, True, False] and made.constant(3) == [False, False, True]
    with watching(pipe) as made:  # one after another
        for value in (0.0, float("nan"), 1.0):
            made.decoded(torch.tensor([[value, 0.5]]))
    assert made.broken(3) == [False, True, False]
    with watching(pipe) as made:  # guidance has doubled the rows
        made.stepped((torch.tensor([[0.0], [float("nan")], [0.0], [0.0]]),))
    assert made.broken(2) == [False, True]


def test_steps_as_text() -> None:
    assert steps_text([3]) == "step 3" and steps_text([7, 2, 5, 6, 2]) == "steps 2, 5-7"


@pytest.mark.parametrize("guard", [-1, -0.1, float("nan"), float("inf"), "0.3", True], ids=str)
def test_a_guard_without_meaning_is_refused(guard) -> None:
    with pytest.raises(ValueError, match=r"^guard must be"):
        Checks(guard=guard)
    pipe = tiny_dit.tiny_pipeline()
    with pytest.raises(ValueError, match=r"^guard must be"):
        dita.enable(pipe, "fora:3", guard=guard)
    assert attachment_of(pipe) is None


def last_layer(model: torch.nn.Module) -> torch.nn.Module:
    """The layer that every step computes last."""
    children = dict(model.named_children())
    return children["proj_out_2" if "proj_out_2" in children else "proj_out"]


def test_pipelines_that_share_an_autoencoder_see_their_own_pictures() -> None:
    one, other = tiny_flux.tiny_pipeline(), tiny_flux.tiny_pipeline()
    other.vae = one.vae
    latents, broken = torch.zeros(1, 4, 4, 4), torch.full((1, 4, 4, 4), float("nan"))
    with watching(one) as outer:
        thread = threading.Thread(target=lambda: one.vae.decode(broken))
        thread.start()
        thread.join()
        with watching(other) as inner:
            one.vae.decode(latents)
        assert is_stand_in(type(one.vae))
        copied = copy.deepcopy(one.vae)
    assert not outer.broken_pictures() and not inner.broken_pictures()
    assert type(copied) is type(one.vae) and not is_stand_in(type(copied)) and not is_stand_in(type(one.vae))
