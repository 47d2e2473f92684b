"""Guidance by parts of a batch: what is taken for them and what is not, switched in mid-run, and half a call."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPAGPipeline
from diffusers.models.modeling_outputs import Transformer2DModelOutput

import dita
from dita.caching.guidance import APART, Parts, first_half, parts_of_pipeline, twice
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.for_family import method_for
from tests.nearness import distance
from tests.sampling_loop import sample

HALVES = {"pixart": tiny_pixart, "dit": tiny_dit, "opensora": tiny_opensora}
"""The families whose pipelines put both halves of guidance into one call."""

METHODS = (
    "fora:3",
    "toca:4:0.5",
    "toca:3:0.5:kv-norm",
    "toca:3:0.5:norm:forecast=1",
    "duca:3:0.5",
    "taylorseer:3:1",
    "taylorseer:3:1:lite=true",
    "deltadit:2",
    "tgate:4",
    "pab:2:low=0:high=1000",
    "tome:0.5:force=true",
)
STEPS = 8


@pytest.fixture(params=HALVES.values(), ids=HALVES)
def family(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, family: ModuleType) -> dita.Method:
    return method_for(family.FAMILY, request.param)


def test_the_first_half_is_taken_of_what_holds_the_samples() -> None:
    inputs = {
        "hidden_states": torch.arange(8).view(4, 2),
        "encoder_hidden_states": torch.zeros(4, 3),
        "timestep": torch.tensor(5.0),
        "added_cond_kwargs": {"resolution": torch.ones(4, 2), "aspect_ratio": None},
        "table": torch.zeros(7, 2),
        "return_dict": False,
    }
    half = first_half(inputs, 4)
    assert half["hidden_states"].tolist() == [[0, 1], [2, 3]]
    assert half["encoder_hidden_states"].shape == (2, 3)
    assert half["added_cond_kwargs"]["resolution"].shape == (2, 2) and half["added_cond_kwargs"]["aspect_ratio"] is None
    assert half["timestep"] is inputs["timestep"] and half["table"] is inputs["table"] and half["return_dict"] is False
    assert len(inputs["hidden_states"]) == 4


def test_outputs_come_back_for_both_halves_in_their_own_form() -> None:
    out = torch.tensor([[1.0], [2.0]])
    assert twice((out,))[0].tolist() == [[1.0], [2.0], [1.0], [2.0]]
    whole = twice(Transformer2DModelOutput(sample=out))
    assert isinstance(whole, Transformer2DModelOutput) and whole.sample.shape == (4, 1)


# ------------------------------------------------------------------------------------------------ what is a part


def run(family: ModuleType, method: Any, inputs: dict[str, torch.Tensor], **settings: Any) -> torch.Tensor:
    model = dita.enable(family.tiny_transformer(), method, steps=STEPS, **settings)
    with torch.no_grad():
        return sample(family, model, dict(inputs), STEPS)


def on_one_noise(family: ModuleType, batch: int = 2) -> dict[str, torch.Tensor]:
    inputs = family.transformer_inputs(batch=batch)
    inputs["hidden_states"] = inputs["hidden_states"][:1].expand_as(inputs["hidden_states"]).clone()
    return inputs


def test_two_prompts_on_one_noise_are_no_halves_of_a_bare_transformer(family, method) -> None:
    inputs = on_one_noise(family)
    both = run(family, method, inputs)
    for i in range(2):
        alone = run(family, method, {name: value[i : i + 1] for name, value in inputs.items()})
        assert distance(both[i : i + 1], alone) < 1e-5


def test_a_bare_transformer_is_told_of_its_halves(family) -> None:
    inputs, model = on_one_noise(family), family.tiny_transformer()
    dita.enable(model, "toca:3:0.5:kv-norm", steps=STEPS, guided_halves=True, record=True)
    guided_loop(family, model, inputs["hidden_states"][:1], inputs)
    summary = dita.summary(model, show=False)
    assert summary.shape.guided and (summary.shape.batch, summary.shape.rows) == (1, 2)
    assert summary.selections and all(torch.equal(*index) for index in summary.selections.values())
    with pytest.raises(ValueError, match="guided_halves=True, but the latents of this call, 2 rows, are no two equal"):
        run(family, "fora:3", family.transformer_inputs(batch=2), guided_halves=True)
    with pytest.raises(ValueError, match="3 rows, are no two equal halves"):
        run(family, "fora:3", family.transformer_inputs(batch=3), guided_halves=True)


def test_where_halves_can_be_told_of() -> None:
    with pytest.raises(ValueError, match="guided_halves is for bare transformers"):
        dita.enable(tiny_pixart.tiny_pipeline(), "fora:3", guided_halves=True)
    with pytest.raises(ValueError, match=r"not for flux, .* calls_per_step=2"):
        dita.enable(tiny_flux.tiny_transformer(), "fora:3", steps=8, guided_halves=True)
    with pytest.raises(ValueError, match="guided_halves must be true or false, got 2"):
        dita.enable(tiny_pixart.tiny_transformer(), "fora:3", steps=8, guided_halves=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_pictures_of_one_seed_are_halves_under_guidance_alone(family, method, scale: float) -> None:
    """Two prompts on one noise in a pipeline, guided and not: the same as each alone."""
    pipe = dita.enable(family.tiny_pipeline(), method)

    def seeds(count: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(5) for _ in range(count)]

    both = family.call(pipe, count=2, guidance_scale=scale, generator=seeds(2))
    assert dita.summary(pipe, show=False).shape.guided == (scale > 1)
    for i in range(2):
        alone = family.call(pipe, count=1, first=i, guidance_scale=scale, generator=seeds(1))
        assert distance(both[i : i + 1], alone) < 1e-4


@pytest.mark.parametrize("scale", [1.0, 4.5])
@pytest.mark.parametrize("name", ["num_images_per_prompt", "num_videos_per_prompt"])
def test_several_pictures_of_a_prompt_are_samples_of_their_own(name: str, scale: float) -> None:
    family = tiny_pixart if name == "num_images_per_prompt" else tiny_opensora
    for method in ("toca:3:0.5", "duca:3:0.5:schedule=constant", "taylorseer:3:1"):
        pipe = dita.enable(family.tiny_pipeline(), method)

        def seeds(*numbers: int) -> list[torch.Generator]:
            return [torch.Generator().manual_seed(number) for number in numbers]

        four = family.call(pipe, count=2, guidance_scale=scale, generator=seeds(1, 2, 1, 2), **{name: 2})
        assert dita.summary(pipe, show=False).shape.batch == 4
        for i, one in enumerate(four):
            alone = family.call(pipe, first=i // 2, guidance_scale=scale, generator=seeds(1 + i % 2))
            assert distance(one[None], alone) < 1e-4


# ------------------------------------------------------------------------------------------------ perturbed attention


def perturbing(method: str | None = None) -> PixArtSigmaPAGPipeline:
    pipe = PixArtSigmaPAGPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=tiny_pixart.tiny_pipeline().vae,
        transformer=tiny_pixart.tiny_transformer(),
        scheduler=DPMSolverMultistepScheduler(),
        pag_applied_layers=["blocks.1"],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe if method is None else dita.enable(pipe, method, record=True)


@pytest.mark.parametrize("scale", [1.0, 4.5], ids=["two parts", "three parts"])
@pytest.mark.parametrize("shared_seed", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_the_parts_of_perturbed_attention_guidance(method: str, shared_seed: bool, scale: float) -> None:
    pipe = perturbing(method)

    def call(count: int, first: int = 0) -> torch.Tensor:
        seeds = [5 if shared_seed else first + i for i in range(count)]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return tiny_pixart.call(
            pipe, count=count, first=first, pag_scale=3.0, guidance_scale=scale, generator=generators
        )

    both = call(2)
    shape = dita.summary(pipe, show=False).shape
    assert (shape.batch, shape.rows) == (2, 6 if scale > 1 else 4)
    assert shape.perturbed and shape.guided == (scale > 1)
    for i in range(2):
        assert distance(both[i : i + 1], call(1, i)) < 1e-4
    if method.startswith("toca"):
        for index in dita.summary(pipe, show=False).selections.values():
            parts = index.chunk(shape.rows // shape.batch)
            assert all(torch.equal(parts[0], part) for part in parts), "all parts of a picture compute the same tokens"


@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_perturbed_attention_with_nothing_skipped_is_plain(scale: float) -> None:
    plain = tiny_pixart.call(perturbing(), count=2, pag_scale=3.0, guidance_scale=scale)
    assert torch.equal(tiny_pixart.call(perturbing("toca:1:0.5"), count=2, pag_scale=3.0, guidance_scale=scale), plain)


def test_what_a_pipeline_says_of_rows() -> None:
    class Property:
        do_classifier_free_guidance = True

    def parts(rows: int, pipe: Any = None, **arguments: Any) -> Parts:
        return parts_of_pipeline(pipe or object(), arguments)(rows)

    guided = Parts(guided=True)
    assert parts(4, prompt=["a", "b"], guidance_scale=4.5) == guided
    assert parts(2, prompt=["a", "b"], guidance_scale=4.5) == APART, "guidance has been switched off"
    assert parts(4, prompt=["a", "b"], guidance_scale=1) == APART
    assert parts(4, prompt="a", num_images_per_prompt=2, guidance_scale=4) == guided
    assert parts(4, class_labels=[1, 2, 3, 4], guidance_scale=4) == APART
    assert parts(2, kwargs={"prompt": "a", "guidance_scale": 7}) == guided
    assert parts(2, prompt="a") == guided and parts(1, prompt="a") == APART, "a scale that only the pipeline knows"
    assert parts(2) == APART
    assert parts(2, Property(), guidance_scale=1.0) == guided and parts(3, Property()) == APART


# ------------------------------------------------------------------------------------------------ switched in mid-run


def guided_loop(
    family: ModuleType,
    model: Any,
    latents: torch.Tensor,
    conditions: dict[str, torch.Tensor],
    guided: Callable[[int], bool] = lambda step: True,
    scale: float = 3.0,
) -> torch.Tensor:
    """A sampling loop with both halves of guidance in one call, in the steps that are guided."""
    batch = len(latents)
    with torch.no_grad():
        for step in range(STEPS):
            if guided(step):
                inputs = conditions | {"hidden_states": torch.cat([latents, latents])}
                prompted, free = family.forward(model, inputs, step / STEPS).chunk(2)
                out = free + scale * (prompted - free)
            else:
                halved = {name: value[:batch] for name, value in conditions.items()}
                out = family.forward(model, halved | {"hidden_states": latents}, step / STEPS)
            latents = latents - out / STEPS
    return latents


SWITCHES: dict[str, Callable[[int], bool]] = {
    "off": lambda step: step < 3,
    "off and on": lambda step: not 3 <= step < 5,
}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("samples", [1, 2])
def test_guidance_that_a_loop_switches(family, method, switch: str, samples: int) -> None:
    inputs, model = family.transformer_inputs(batch=2 * samples), family.tiny_transformer()
    latents, guided = inputs["hidden_states"][:samples], SWITCHES[switch]
    plain = guided_loop(family, model, latents, inputs, guided)
    dita.enable(model, "toca:1:0.5", steps=STEPS, guided_halves=True)
    assert torch.equal(guided_loop(family, model, latents, inputs, guided), plain)
    assert dita.summary(model, show=False).steps == STEPS, "it is one run"
    dita.enable(model, method, steps=STEPS, guided_halves=True)
    fast = guided_loop(family, model, latents, inputs, guided)
    summary = dita.summary(model, show=False)
    assert torch.isfinite(fast).all() and summary.steps == STEPS
    for i in range(samples):
        own = {name: value[i::samples] for name, value in inputs.items()}
        assert distance(fast[i : i + 1], guided_loop(family, model, latents[i : i + 1], own, guided)) < 1e-4
    dita.disable(model)
    assert torch.equal(guided_loop(family, model, latents, inputs, guided), plain)


@pytest.mark.parametrize("method", ["toca:1:0.5", "fora:3", "toca:3:0.5", "taylorseer:3:1", "deltadit:2", "duca:3:0.5"])
@pytest.mark.parametrize("guided", SWITCHES.values(), ids=SWITCHES)
def test_flux_whose_second_call_ends_in_mid_run(method: str, guided: Callable[[int], bool]) -> None:
    """True guidance: the call under the null prompt is left out from a step on, and may come back."""
    inputs = tiny_flux.transformer_inputs()
    others = inputs | {"encoder_hidden_states": -inputs["encoder_hidden_states"]}

    def loop(model: Any) -> torch.Tensor:
        latents = inputs["hidden_states"]
        with torch.no_grad():
            for step in range(STEPS):
                out = tiny_flux.forward(model, inputs | {"hidden_states": latents}, step / STEPS)
                if guided(step):
                    free = tiny_flux.forward(model, others | {"hidden_states": latents}, step / STEPS)
                    out = free + 2 * (out - free)
                latents = latents - out / STEPS
        return latents

    model = tiny_flux.tiny_transformer()
    plain = loop(model)
    dita.enable(model, method, steps=STEPS, calls_per_step=2)
    fast = loop(model)
    summary = dita.summary(model, show=False)
    assert torch.isfinite(fast).all()
    if method == "toca:1:0.5":
        assert torch.equal(fast, plain)
    expected = [(step, 0) for step in range(STEPS)] + [(step, 1) for step in range(STEPS) if guided(step)]
    assert sorted((call.step, call.branch) for call in summary.executed) == sorted(expected)
    assert torch.equal(loop(model), fast), "the next run begins with its own first step"


def test_the_scale_of_distilled_guidance_takes_effect_at_once() -> None:
    model = tiny_flux.tiny_transformer(guidance_embeds=True)

    def change(step: int, inputs: dict[str, torch.Tensor]) -> None:
        inputs["guidance"] = torch.tensor([3.5 if step < 4 else 1.0])

    inputs = tiny_flux.transformer_inputs()
    with torch.no_grad():
        plain = sample(tiny_flux, model, dict(inputs), STEPS, change)
        dita.enable(model, "fora:1", steps=STEPS)
        assert torch.equal(sample(tiny_flux, model, dict(inputs), STEPS, change), plain)
        times = [1000 * (1 - step / STEPS) for step in range(STEPS)]
        dita.enable(model, "fora:3", steps=STEPS, timesteps=times)
        ahead = sample(tiny_flux, model, dict(inputs), STEPS, change)
        dita.enable(model, "fora:3", steps=STEPS)
        assert distance(sample(tiny_flux, model, dict(inputs), STEPS, change), ahead) < 1e-5
