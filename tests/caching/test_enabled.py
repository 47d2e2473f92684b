"""`with dita.enabled(target, method):`, and what is refused as a target."""

from __future__ import annotations

import gc

import pytest
import torch
from diffusers import FluxModularPipeline, FluxPipeline

import dita
from dita.caching.adapters import UnsupportedModelError
from dita.caching.attachment import attachment_of
from dita.caching.ownership import known
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.sampling_loop import sample


@pytest.fixture(params=[tiny_flux, tiny_pixart, tiny_dit, tiny_opensora], ids=lambda module: module.FAMILY)
def family(request):
    return request.param


def test_within_the_block_it_is_accelerated_and_afterwards_plain(family):
    pipe = family.tiny_pipeline()
    kind, plain = type(pipe), family.call(pipe)
    with dita.enabled(pipe, "fora:3") as same:
        assert same is pipe
        fast = family.call(pipe)
        assert dita.summary(pipe, show=False).method == dita.FORA(3)
    assert not torch.equal(fast, plain)
    assert attachment_of(pipe) is None and type(pipe) is kind and torch.equal(family.call(pipe), plain)


@pytest.mark.parametrize("ending", ["well", "error", "disabled", "replaced", "nested"])
def test_what_was_enabled_before_is_back_with_its_options_and_its_last_run(family, ending):
    pipe = dita.enable(family.tiny_pipeline(), "toca:3:0.7", record=True, guard=0.9)
    expected = family.call(pipe)
    last = dita.summary(pipe, show=False)
    try:
        with dita.enabled(pipe, "fora:2"):
            family.call(pipe)
            if ending == "error":
                raise KeyError("of the user")
            if ending == "disabled":
                dita.disable(pipe)
            if ending == "replaced":
                dita.enable(pipe, "fora:4")
            if ending == "nested":
                with dita.enabled(pipe, "plain"):
                    family.call(pipe)
                assert attachment_of(pipe).method == dita.FORA(2)
                family.call(pipe)
    except KeyError:
        assert ending == "error"
    assert dita.summary(pipe, show=False) is last and last.method == dita.ToCa(3, 0.7)
    assert torch.equal(family.call(pipe), expected)
    again = dita.summary(pipe, show=False)
    assert again is not last and again.tokens is not None
    dita.disable(pipe)
    plain = family.call(family.tiny_pipeline())
    assert torch.equal(family.call(pipe), plain)


def test_a_method_that_is_refused_leaves_what_was_enabled(family):
    pipe = dita.enable(family.tiny_pipeline(), "fora:3")
    before = attachment_of(pipe)
    with pytest.raises(ValueError, match="unknown method"), dita.enabled(pipe, "foraa:3"):
        raise AssertionError("the block is not entered")
    assert attachment_of(pipe) is before


def test_bare_transformers_too(family):
    model = family.tiny_transformer()
    inputs = family.transformer_inputs()
    plain = sample(family, model, dict(inputs), 6)
    dita.enable(model, "fora:3", steps=6)
    expected = sample(family, model, dict(inputs), 6)
    with dita.enabled(model, "fora:2", steps=6):
        sample(family, model, dict(inputs), 6)
        assert dita.summary(model, show=False).method == dita.FORA(2)
    assert torch.equal(sample(family, model, dict(inputs), 6), expected)
    assert dita.summary(model, show=False).method == dita.FORA(3)
    dita.disable(model)
    assert torch.equal(sample(family, model, dict(inputs), 6), plain)
    with dita.enabled(model, "fora:2", steps=6):
        pass
    assert attachment_of(model) is None


def test_what_was_enabled_goes_with_its_pipeline(family):
    pipe = dita.enable(family.tiny_pipeline(), "fora:3")
    transformer = known(pipe.transformer)
    model = pipe.transformer
    with dita.enabled(pipe, "fora:2"):
        assert transformer.users == 1
    assert transformer.users == 1
    del pipe
    gc.collect()
    assert transformer.users == 0 and transformer.model is model


def test_a_modular_pipeline_is_told_what_works_and_it_does():
    modular = FluxModularPipeline()
    with pytest.raises(UnsupportedModelError, match=r"is a modular pipeline.*load_components"):
        dita.enable(modular, "fora:3")
    pipe = tiny_flux.tiny_pipeline()
    modular.update_components(transformer=pipe.transformer)
    with pytest.raises(UnsupportedModelError, match=r"is a modular pipeline.*enable\(pipe\.transformer, met"):
        dita.enable(modular, "fora:3")
    dita.enable(modular.transformer, "fora:3", steps=8)
    assert attachment_of(pipe.transformer).method == dita.FORA(3)


@pytest.mark.parametrize("cls", [FluxPipeline, FluxModularPipeline, torch.nn.Linear])
def test_a_class_is_told_to_be_one(cls):
    for use in (dita.enable, lambda *given: dita.enabled(*given).__enter__()):
        with pytest.raises(UnsupportedModelError, match=f"{cls.__name__} is a class, and has no transformer"):
            use(cls, "fora:3")


@pytest.mark.parametrize("target", ["shapes-flux", None, 3])
def test_what_is_no_target_is_refused(target):
    with pytest.raises(UnsupportedModelError, match="has no transformer"), dita.enabled(target, "fora:3"):
        pass
