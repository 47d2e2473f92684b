"""Whose a transformer's call is: callbacks, threads, shared schedulers, copies beneath hooks, wrappers."""

from __future__ import annotations

import copy
import functools
import threading
import warnings
from types import ModuleType

import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image, FluxImg2ImgPipeline, FluxPipeline
from diffusers.callbacks import PipelineCallback
from diffusers.hooks import HookRegistry, ModelHook
from peft import LoraConfig, get_peft_model

import dita
from dita.caching.adapters import UnsupportedModelError
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.caching.test_contracts import assert_stock, between_steps, sibling_of
from tests.sampling_loop import sample

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]
METHOD = "fora:3"


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request) -> ModuleType:
    return request.param


@pytest.fixture(params=[tiny_flux, tiny_pixart, tiny_opensora], ids=lambda module: module.FAMILY)
def called_back(request) -> ModuleType:
    """A family whose pipeline has callbacks."""
    return request.param


def with_callback(family: ModuleType, do) -> dict:
    """Arguments of a call whose callback does something."""
    if family is tiny_pixart:
        return {"callback": lambda step, t, latents: do(), "callback_steps": 1}

    def callback(pipe, step, t, kwargs):
        do()
        return kwargs

    return {"callback_on_step_end": callback}


# ------------------------------------------------------------------------------------------------ callbacks


@pytest.mark.parametrize("method", ["fora:3", "toca:4:0.5:random", "taylorseer:3:1"])
def test_a_callback_may_call_the_transformer_itself(called_back, method: str) -> None:
    pipe, inputs = called_back.tiny_pipeline(), called_back.transformer_inputs()
    plain = called_back.forward(pipe.transformer, inputs, 0.5)
    dita.enable(pipe, method)
    alone, seen = called_back.call(pipe), []
    arguments = with_callback(called_back, lambda: seen.append(called_back.forward(pipe.transformer, inputs, 0.5)))
    assert torch.equal(called_back.call(pipe, **arguments), alone)
    assert len(seen) == 8 and all(torch.equal(one, plain) for one in seen)
    summary = dita.summary(pipe, show=False)
    assert len(summary.executed) == 8 and summary.ran_as_planned


class Calls:
    def __init__(self, do) -> None:
        self.do = do

    def __call__(self, pipe, step, t, kwargs):
        self.do()
        return kwargs

    def method(self, pipe, step, t, kwargs):
        return self(pipe, step, t, kwargs)


class Official(PipelineCallback):
    tensor_inputs = ("latents",)

    def __init__(self, do) -> None:
        super().__init__(cutoff_step_index=0, cutoff_step_ratio=None)
        self.do = do

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        self.do()
        return callback_kwargs


@pytest.mark.parametrize(
    "form",
    [
        lambda do: Calls(do),
        lambda do: Calls(do).method,
        lambda do: functools.partial(Calls(do).method),
        lambda do: Official(do),
    ],
    ids=["object", "method", "partial", "PipelineCallback"],
)
def test_callbacks_of_every_form_are_told_from_the_pipeline(form) -> None:
    pipe, inputs, seen = tiny_flux.tiny_pipeline(), tiny_flux.transformer_inputs(), []
    plain = tiny_flux.forward(pipe.transformer, inputs, 0.5)
    dita.enable(pipe, METHOD)
    alone = tiny_flux.call(pipe)
    callback = form(lambda: seen.append(tiny_flux.forward(pipe.transformer, inputs, 0.5)))
    assert torch.equal(tiny_flux.call(pipe, callback_on_step_end=callback), alone)
    assert len(seen) == 8 and all(torch.equal(one, plain) for one in seen)


def test_a_preview_pipeline_made_in_the_callback(called_back) -> None:
    """By copies, whose scheduler is the original's copied in the middle of its run."""
    plain = called_back.call(called_back.tiny_pipeline(), first=1, steps=4)
    for method in (METHOD, "steps:0.5"):
        pipe, previews = dita.enable(called_back.tiny_pipeline(), method), []
        alone = called_back.call(pipe)

        def preview(pipe=pipe, previews=previews) -> None:
            for made in (lambda: sibling_of(called_back, pipe), lambda: copy.deepcopy(pipe)):
                previews.append(called_back.call(made(), first=1, steps=4))

        assert torch.equal(called_back.call(pipe, **with_callback(called_back, preview)), alone)
        assert len(previews) >= 8 and all(torch.equal(one, plain) for one in previews)


def test_a_pipeline_that_samples_is_not_called_again(family) -> None:
    pipe, said = dita.enable(family.tiny_pipeline(), METHOD), []
    alone = family.call(pipe)

    def again() -> None:
        with pytest.raises(RuntimeError, match=r"sampling already.*copy\.copy\(pipe\)") as error:
            family.call(pipe)
        said.append(error)

    between_steps(pipe, again)
    assert torch.equal(family.call(pipe), alone) and len(said) == 8


@pytest.mark.parametrize("inner", [None, "fora:2"])
def test_another_pipeline_with_the_same_scheduler_object_is_refused_and_the_run_goes_on(called_back, inner) -> None:
    pipe = dita.enable(called_back.tiny_pipeline(), METHOD)
    other = type(pipe)(**pipe.components, **getattr(called_back, "SETTINGS", {}))
    other.set_progress_bar_config(disable=True)
    if inner is not None:
        dita.enable(other, inner)
    alone, said = called_back.call(pipe), []

    def preview() -> None:
        with pytest.raises(RuntimeError, match=r"give each pipeline a scheduler of its own.*copy\.deepcopy") as error:
            called_back.call(other, steps=3)
        said.append(error)

    assert torch.equal(called_back.call(pipe, **with_callback(called_back, preview)), alone)
    assert len(said) == 8 and dita.summary(pipe, show=False).ran_as_planned
    called_back.call(other)  # one after the other is right


def test_a_method_may_be_taken_off_or_changed_in_the_middle_of_a_call(called_back) -> None:
    pipe = called_back.tiny_pipeline()
    plain = called_back.call(pipe)
    dita.enable(pipe, "fora:2")
    done: list[int] = []

    def once(do) -> None:
        if not done:
            done.append(1)
            do()

    called_back.call(pipe, **with_callback(called_back, lambda: once(lambda: dita.disable(pipe))))
    assert_stock(pipe.transformer)
    assert torch.equal(called_back.call(pipe), plain)
    dita.enable(pipe, "fora:2")
    done.clear()
    called_back.call(pipe, **with_callback(called_back, lambda: once(lambda: dita.enable(pipe, METHOD))))
    assert torch.equal(called_back.call(pipe), called_back.call(dita.enable(called_back.tiny_pipeline(), METHOD)))


# ------------------------------------------------------------------------------------------------ threads


def test_two_accelerated_pipelines_in_two_threads(family) -> None:
    one = family.tiny_pipeline()
    two = sibling_of(family, one)
    wanted = [
        family.call(dita.enable(family.tiny_pipeline(), method), first=first)
        for first, method in enumerate(("fora:3", "toca:4:0.6:random"))
    ]
    dita.enable(one, "fora:3")
    dita.enable(two, "toca:4:0.6:random")
    found: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(2)

    def draw(pipe, first: int) -> None:
        barrier.wait()
        for _ in range(2):
            found[first] = family.call(pipe, first=first)

    threads = [threading.Thread(target=draw, args=(pipe, first)) for first, pipe in enumerate((one, two))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[first], want) for first, want in enumerate(wanted))


def test_a_bare_transformers_run_is_of_one_thread_and_not_of_a_pipeline_in_its_loop(family) -> None:
    model, inputs = family.tiny_transformer(), family.transformer_inputs()
    plain = family.forward(model, inputs, 0.5)
    dita.enable(model, METHOD, steps=8)
    alone = sample(family, model, dict(inputs), 8)
    pipe = family.tiny_pipeline()
    want = family.call(pipe, steps=3)
    pipe.transformer = model  # of the same weights
    found: list[torch.Tensor] = []

    def elsewhere(step: int, _) -> None:
        if step == 4:
            thread = threading.Thread(target=lambda: found.append(family.forward(model, inputs, 0.5)))
            thread.start()
            thread.join()
            found.append(family.call(pipe, steps=3))

    with pytest.warns(
        UserWarning, match=r"by another thread, in the middle of an accelerated run, was computed in full"
    ):
        assert torch.equal(sample(family, model, dict(inputs), 8, elsewhere), alone)
    assert torch.equal(found[0], plain) and torch.equal(found[1], want)


# ------------------------------------------------------------------------------------------------ copies


def accelerates_hooks(model) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for _, module in list(model.named_modules())[::3]:
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))


@pytest.mark.parametrize("hooks_first", [True, False])
def test_a_copy_beneath_accelerates_hooks_is_stock(family, hooks_first: bool) -> None:
    pipe, inputs = family.tiny_pipeline(), family.transformer_inputs()
    expected = family.forward(pipe.transformer, inputs, 0.5)
    if hooks_first:
        accelerates_hooks(pipe.transformer)
    dita.enable(pipe, METHOD)
    if not hooks_first:
        accelerates_hooks(pipe.transformer)
    alone = family.call(pipe)
    other = copy.deepcopy(pipe.transformer)
    assert_stock(other)
    assert torch.equal(family.forward(other, inputs, 0.5), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(family.call(pipe), alone), "the copy has weights of its own"
    assert not torch.equal(family.forward(other, inputs, 0.5), expected)
    dita.disable(dita.enable(other, METHOD, steps=8))
    assert_stock(other)


@pytest.mark.parametrize("hooks_first", [True, False])
def test_a_copy_beneath_diffusers_hooks_has_stock_classes_and_forwards(family, hooks_first: bool) -> None:
    """A model under group offloading itself cannot be copied, enabled or not."""
    pipe, inputs = family.tiny_pipeline(), family.transformer_inputs()
    expected = family.forward(pipe.transformer, inputs, 0.5)

    def hooks() -> None:
        for block in family.blocks(pipe.transformer):
            for module in (block, block.ff) if hasattr(block, "ff") else (block,):
                HookRegistry.check_if_exists_or_initialize(module).register_hook(ModelHook(), "layer_execution_tracker")

    if hooks_first:
        hooks()
    dita.enable(pipe, METHOD)
    if not hooks_first:
        hooks()
    other = copy.deepcopy(pipe.transformer)
    assert_stock(other)
    for module in other.modules():
        if hasattr(module, "_diffusers_hook"):
            module._diffusers_hook.remove_hook("layer_execution_tracker", recurse=False)
    assert torch.equal(family.forward(other, inputs, 0.5), expected)


def test_auto_pipelines_take_the_components_of_an_enabled_pipeline() -> None:
    pipe = dita.enable(tiny_flux.tiny_pipeline(), METHOD)
    plain = tiny_flux.call(tiny_flux.tiny_pipeline())
    made = AutoPipelineForText2Image.from_pipe(pipe)
    made.scheduler = copy.deepcopy(made.scheduler)
    made.set_progress_bar_config(disable=True)
    assert type(made) is FluxPipeline and torch.equal(tiny_flux.call(made), plain)
    assert type(AutoPipelineForImage2Image.from_pipe(pipe)) is FluxImg2ImgPipeline
    assert type(FluxImg2ImgPipeline.from_pipe(pipe)) is FluxImg2ImgPipeline
    bare = tiny_flux.tiny_pipeline()
    dita.enable(bare.transformer, METHOD, steps=8)
    assert FluxImg2ImgPipeline.from_pipe(bare).transformer is bare.transformer
    made = AutoPipelineForText2Image.from_pipe(tiny_pixart_enabled())
    assert type(made) is type(tiny_pixart.tiny_pipeline())


def tiny_pixart_enabled():
    return dita.enable(tiny_pixart.tiny_pipeline(), METHOD)


def test_accelerated_pipelines_are_copied_without_their_method() -> None:
    pipe = dita.pipelines.AcceleratedFluxPipeline.from_pipe(tiny_flux.tiny_pipeline(), method=METHOD)
    plain, accelerated = tiny_flux.call(tiny_flux.tiny_pipeline()), tiny_flux.call(pipe)
    for other in (copy.copy(pipe), copy.deepcopy(pipe), type(pipe).from_pipe(pipe)):
        other.scheduler = copy.deepcopy(pipe.scheduler)
        assert torch.equal(tiny_flux.call(other), plain)
        dita.disable(other)
    assert torch.equal(tiny_flux.call(pipe), accelerated)


# ------------------------------------------------------------------------------------------------ wrappers


def lora(model):
    targets = ["to_q", "to_v"]
    torch.manual_seed(4)
    return get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, target_modules=targets))


@pytest.mark.parametrize("wrap", [lora, torch.nn.DataParallel], ids=["PeftModel", "DataParallel"])
def test_a_wrapped_transformer_is_accelerated(family, wrap) -> None:
    pipe = family.tiny_pipeline()
    inner = pipe.transformer
    pipe.register_modules(transformer=inner)
    wrapper = wrap(inner)
    if wrap is torch.nn.DataParallel:
        model, inputs = wrapper, family.transformer_inputs()
        plain = sample(family, model, dict(inputs), 8)
        found = sample(family, dita.enable(model, METHOD, steps=8), dict(inputs), 8)
        dita.disable(model)
        again = sample(family, dita.enable(inner, METHOD, steps=8), dict(inputs), 8)
        dita.disable(inner)
        assert torch.equal(found, again) and not torch.equal(found, plain)
        assert torch.equal(sample(family, dita.enable(model, "fora:1", steps=8), dict(inputs), 8), plain)
        dita.disable(model)
    else:
        pipe.transformer = wrapper
        plain = family.call(pipe)
        assert torch.equal(family.call(dita.enable(pipe, "fora:1")), plain)
        found = family.call(dita.enable(pipe, METHOD))
        assert dita.summary(pipe, show=False).ran_as_planned
        dita.disable(pipe)
        assert torch.equal(family.call(pipe), plain)
        pipe.transformer = inner
        assert torch.equal(family.call(dita.enable(pipe, METHOD)), found) and not torch.equal(found, plain)
        dita.disable(pipe)
    assert_stock(wrapper)


class Unknown(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.held = torch.nn.ModuleDict({"inside": model})


def test_a_wrapper_that_dita_does_not_know_is_told_what_works(family) -> None:
    model = family.tiny_transformer()
    with pytest.raises(
        UnsupportedModelError, match=rf"does not support Unknown; it wraps a {type(model).__name__}, which"
    ):
        dita.enable(Unknown(model), METHOD, steps=8)
    assert_stock(model)


@pytest.mark.slow
def test_a_transformer_that_is_compiled_after_its_pipeline_was_enabled() -> None:
    torch._dynamo.reset()
    pipe = dita.enable(tiny_flux.tiny_pipeline(), METHOD)
    alone = tiny_flux.call(pipe)
    inner = pipe.transformer
    pipe.transformer = torch.compile(inner, backend="eager")
    torch.testing.assert_close(tiny_flux.call(pipe), alone, rtol=1e-4, atol=1e-4)
    dita.disable(pipe)
    assert_stock(inner)
    torch._dynamo.reset()


def test_nothing_warns_in_an_ordinary_run(family) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe = dita.enable(family.tiny_pipeline(), METHOD)
        family.call(pipe)
    assert dita.summary(pipe, show=False).ran_as_planned
