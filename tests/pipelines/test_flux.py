"""The drop-in class: loads, shares, saves and calls as FluxPipeline, plus `method=`."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from diffusers import FluxPipeline

import dita
from dita.pipelines import AcceleratedFluxPipeline
from tests.tiny_flux import call, tiny_pipeline


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return call(tiny_pipeline())


def test_from_pipe_shares_weights_and_leaves_the_first_pipeline_plain(plain) -> None:
    pipe = tiny_pipeline()
    fast = AcceleratedFluxPipeline.from_pipe(pipe, method="toca:4:0.9")
    assert fast.transformer is pipe.transformer and fast.vae is pipe.vae
    assert not torch.equal(call(fast), plain)
    assert torch.equal(call(pipe), plain)


def test_from_pipe_casts_nothing() -> None:
    pipe = tiny_pipeline().to(dtype=torch.bfloat16)
    fast = AcceleratedFluxPipeline.from_pipe(pipe)
    assert fast.transformer.dtype == pipe.transformer.dtype == torch.bfloat16


def test_a_call_takes_its_own_method(plain) -> None:
    fast = AcceleratedFluxPipeline.from_pipe(tiny_pipeline(), method="toca:4:0.9")
    enabled = call(fast)
    assert torch.equal(call(fast, method=None), plain)
    assert torch.equal(call(fast, method="steps:0.5"), call(tiny_pipeline(), steps=4))
    assert dita.summary(fast, show=False).method == dita.FewerSteps(0.5)
    assert torch.equal(call(fast), enabled)


def test_a_call_with_a_method_where_none_is_enabled(plain) -> None:
    fast = AcceleratedFluxPipeline.from_pipe(tiny_pipeline())
    assert torch.equal(call(fast), plain)
    accelerated = call(fast, method=dita.ToCa(4, 0.9))
    assert not torch.equal(accelerated, plain)
    assert torch.equal(call(fast), plain)


def test_enable_and_disable_work_as_on_any_pipeline(plain) -> None:
    fast = AcceleratedFluxPipeline.from_pipe(tiny_pipeline())
    dita.enable(fast, "fora:2")
    assert type(fast) is AcceleratedFluxPipeline
    assert not torch.equal(call(fast), plain)
    dita.disable(fast)
    assert type(fast) is AcceleratedFluxPipeline
    assert torch.equal(call(fast), plain)


def test_saved_it_is_a_folder_of_the_stock_class(tmp_path, plain) -> None:
    fast = AcceleratedFluxPipeline.from_pipe(tiny_pipeline(), method="toca:4:0.9")
    expected = call(fast)
    fast.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "FluxPipeline"
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    assert torch.equal(call(quiet(FluxPipeline.from_pretrained(tmp_path, **absent))), plain)
    loaded = AcceleratedFluxPipeline.from_pretrained(tmp_path, method="toca:4:0.9", **absent)
    assert torch.equal(call(quiet(loaded)), expected)


def test_the_call_is_documented_as_the_stock_one() -> None:
    assert inspect.signature(AcceleratedFluxPipeline.__call__) == inspect.signature(FluxPipeline.__call__)
    assert AcceleratedFluxPipeline.__call__.__doc__ == FluxPipeline.__call__.__doc__


def test_a_subclass_may_override_the_call(plain) -> None:
    class Halved(AcceleratedFluxPipeline):
        def __call__(self, *args, **kwargs):
            kwargs["num_inference_steps"] //= 2
            return super().__call__(*args, **kwargs)

    pipe = Halved.from_pipe(tiny_pipeline())
    assert torch.equal(call(pipe, steps=16), plain)


def test_a_bad_method_for_one_call_leaves_the_pipeline_as_it_was(plain) -> None:
    fast = AcceleratedFluxPipeline.from_pipe(tiny_pipeline(), method="fora:2")
    expected = call(fast)
    with pytest.raises(ValueError, match="unknown method 'x'"):
        call(fast, method="x")
    assert torch.equal(call(fast), expected)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe
