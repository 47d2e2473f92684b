"""Methods from files on pipelines: what differs from what they were made for is said once; saving what is enabled."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import dita
from dita import compare, miniature, models
from dita.caching.attachment import attachment_of
from dita.caching.origin import call_facts, model_name, scheduler_name, target_facts
from dita.methods import FORA, MadeFor, Plain, ToCa, read_method, write_method
from dita.pipelines import (
    AcceleratedDiTPipeline,
    AcceleratedFluxPipeline,
    AcceleratedOpenSoraPipeline,
    AcceleratedPixArtAlphaPipeline,
)
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart

FAMILIES = {
    "flux": (tiny_flux, AcceleratedFluxPipeline),
    "pixart": (tiny_pixart, AcceleratedPixArtAlphaPipeline),
    "dit": (tiny_dit, AcceleratedDiTPipeline),
    "opensora": (tiny_opensora, AcceleratedOpenSoraPipeline),
}
OTHER = MadeFor(model="another", scheduler="OtherScheduler:0", steps=50, dtype="bfloat16", height=8, width=16)


@pytest.fixture(params=FAMILIES)
def entry(request):
    return FAMILIES[request.param]


@pytest.fixture
def quiet():
    """Nothing in here warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", dita.MadeForAnotherWarning)
        yield


def said(caught) -> list[str]:
    return [str(one.message) for one in caught if one.category is dita.MadeForAnotherWarning]


def test_a_saved_method_is_enabled_as_it_was_and_says_nothing(entry, tmp_path, quiet):
    family, _ = entry
    pipe = family.tiny_pipeline()
    dita.enable(pipe, "toca:3:0.7")
    expected = family.call(pipe)
    path = dita.save_method(pipe, tmp_path / "tuned", found={"psnr": 40})
    method, made_for = read_method(path)
    assert method == ToCa(3, 0.7) and path.name == "method.json"
    assert made_for.steps == 8 and made_for.dtype == "float32" and made_for.device == "cpu"
    assert made_for.scheduler == scheduler_name(pipe.scheduler) and made_for.model is None
    assert json.loads(path.read_text())["found"] == {"psnr": 40}
    for given in (path, str(path), path.parent, f"{path.parent}/", json.loads(path.read_text())):
        other = family.tiny_pipeline()
        dita.enable(other, given)
        assert torch.equal(family.call(other), expected)


def test_what_differs_is_named_once_at_enable_and_at_the_call(entry, tmp_path):
    family, _ = entry
    pipe = family.tiny_pipeline()
    pipe.register_to_config(_name_or_path="org/one")
    path = write_method(tmp_path, FORA(5), replace(OTHER, device="cuda", dita="0.0.1"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dita.enable(pipe, path)
        first = said(caught)
        family.call(pipe)
        family.call(pipe)
    scheduler = type(pipe.scheduler).__name__
    assert first == [
        "fora:5 was made for something else (on cuda, with dita 0.0.1): model another, here org/one;"
        f" scheduler OtherScheduler, here {scheduler}; bfloat16, here float32"
    ]
    assert said(caught)[1:] == [
        "fora:5 was made for something else (with dita 0.0.1): 50 steps, here 8; 8x16 pixels, here 32x32"
    ]


def test_where_warnings_are_errors_the_pipeline_is_left_as_it_was(entry, tmp_path, quiet):
    family, _ = entry
    pipe = family.tiny_pipeline()
    path = write_method(tmp_path, FORA(3), replace(OTHER, model=None))
    with pytest.raises(dita.MadeForAnotherWarning, match="scheduler OtherScheduler"):
        dita.enable(pipe, path)
    assert attachment_of(pipe) is None
    dita.enable(pipe, "fora:2")
    with pytest.raises(dita.MadeForAnotherWarning):
        dita.enable(pipe, path)
    assert attachment_of(pipe).method == FORA(2)


def test_the_sizes_and_steps_of_a_call_are_compared(tmp_path):
    pipe = tiny_flux.tiny_pipeline()
    path = write_method(tmp_path, FORA(2), MadeFor(steps=8, height=32, width=32))
    dita.enable(pipe, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny_flux.call(pipe)
        assert said(caught) == []
        tiny_flux.call(pipe, steps=6)
        tiny_flux.call(pipe, size=48, steps=5)  # steps were told of
        tiny_flux.call(pipe, size=16)
    assert said(caught) == [
        "fora:2 was made for something else: 8 steps, here 6",
        "fora:2 was made for something else: 32x32 pixels, here 48x48",
    ]


def test_a_method_without_a_file_is_compared_with_nothing(entry, quiet):
    family, accelerated = entry
    pipe = family.tiny_pipeline()
    for method in ("fora:3", FORA(3), {"method": "fora", "cycle": 3}):
        family.call(dita.enable(pipe, method))
    family.call(accelerated.from_pipe(pipe, method="fora:3"), method=FORA(2))


def test_the_accelerated_classes_take_files_and_the_folder_of_the_model(entry, tmp_path, quiet):
    family, accelerated = entry
    pipe = accelerated.from_pipe(family.tiny_pipeline(), method="toca:3:0.7")
    expected = family.call(pipe)
    plain = family.call(pipe, method=None)
    elsewhere = dita.save_method(pipe, tmp_path / "tuned.json")
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    absent = {name: None for name, part in pipe.components.items() if part is None}

    def loaded(**options):
        made = accelerated.from_pretrained(folder, **options, **absent)
        made.set_progress_bar_config(disable=True)
        return made

    assert attachment_of(loaded()) is None
    assert torch.equal(family.call(loaded(method=elsewhere)), expected)
    assert torch.equal(family.call(loaded(), method=str(elsewhere)), expected)
    dita.save_method(pipe, folder)
    here = loaded()
    assert attachment_of(here).method == ToCa(3, 0.7) and torch.equal(family.call(here), expected)
    assert torch.equal(family.call(here, method=None), plain)
    assert attachment_of(loaded(method=None)) is None
    assert attachment_of(loaded(method="fora:3")).method == FORA(3)
    by_name = accelerated.from_pretrained(pretrained_model_name_or_path=str(folder), **absent)
    assert attachment_of(by_name).method == ToCa(3, 0.7)
    folder.rename(tmp_path / "moved")
    folder = tmp_path / "moved"  # the method is the folder's, whatever it was called when it was saved
    assert torch.equal(family.call(loaded()), expected)
    (folder / "method.json").write_text("{")
    with pytest.raises(ValueError, match=r"method file .*method\.json' is not JSON"):
        loaded()
    assert attachment_of(loaded(method=None)) is None


def test_a_file_for_one_call_is_compared_for_that_call_alone(tmp_path):
    pipe = AcceleratedFluxPipeline.from_pipe(tiny_flux.tiny_pipeline(), method="fora:3")
    path = write_method(tmp_path, FORA(2), replace(OTHER, model=None, scheduler=None, dtype=None))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny_flux.call(pipe, method=path)
        tiny_flux.call(pipe)
    assert said(caught) == ["fora:2 was made for something else: 50 steps, here 8; 8x16 pixels, here 32x32"]
    assert attachment_of(pipe).method == FORA(3)


def test_generate_warns_once_and_leaves_what_was_enabled(tmp_path):
    pipe, call = models.load("shapes-flux")
    path = write_method(tmp_path, FORA(2), MadeFor(model="shapes-pixart", steps=28))
    earlier = write_method(tmp_path / "earlier", FORA(3), MadeFor(model="shapes-flux", steps=2))
    dita.enable(pipe, earlier)
    texts = miniature.prompts("shapes-flux", 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = {**call, "steps": 2}
        arguments.pop("num_inference_steps")
        assert len(list(dita.generate(pipe, texts, method=path, **arguments))) == 2
    assert said(caught) == [
        "fora:2 was made for something else: model shapes-pixart, here shapes-flux; 28 steps, here 2"
    ]
    assert attachment_of(pipe).origin.made_for == MadeFor(model="shapes-flux", steps=2)


def test_compare_takes_files_and_warns_once(tmp_path):
    pipe = tiny_flux.tiny_pipeline()
    path = write_method(tmp_path / "tuned", FORA(2), MadeFor(steps=28, height=32, width=32, dtype="float16"))
    with (
        warnings.catch_warnings(record=True) as caught,
        pytest.raises(Exception, match=r".+"),  # it has no text encoders: nothing can be drawn
    ):
        warnings.simplefilter("always")
        compare.compare(pipe, [path, "fora:3"], ["a"], out=tmp_path / "out", steps=4, call={"height": 32, "width": 32})
    assert said(caught) == ["fora:2 was made for something else: float16, here float32; 28 steps, here 4"]


def test_a_bare_transformer_is_saved_and_compared_too(tmp_path):
    model = tiny_flux.tiny_transformer()
    dita.enable(model, "fora:3", steps=6)
    path = dita.save_method(model, tmp_path / "bare.json")
    assert read_method(path).made_for.steps == 6 and read_method(path).made_for.scheduler is None
    with pytest.warns(dita.MadeForAnotherWarning, match="6 steps, here 9"):
        dita.enable(model, path, steps=9)


def test_bundled_models_are_saved_by_name_with_their_revision(tmp_path, quiet):
    pipe, _ = models.load("shapes-pixart")
    dita.enable(pipe, "fora:3")
    made_for = read_method(dita.save_method(pipe, tmp_path, steps=20, height=64, width=64)).made_for
    assert (made_for.model, made_for.revision) == ("shapes-pixart", models.revision("shapes-pixart"))
    assert (made_for.steps, made_for.height, made_for.width, made_for.dita) == (20, 64, 64, dita.version.__version__)
    dita.enable(pipe, tmp_path)


def test_what_cannot_be_saved_is_refused(tmp_path):
    pipe = tiny_flux.tiny_pipeline()
    with pytest.raises(RuntimeError, match=r"^dita is not enabled on this FluxPipeline: there is no method to save$"):
        dita.save_method(pipe, tmp_path)
    with pytest.raises(ValueError, match="unknown method 'tocca'"):
        dita.save_method("tocca", tmp_path)
    with pytest.raises(ValueError, match="'steps' of made_for must be a whole number, at least 1, got 0"):
        dita.save_method("fora:3", tmp_path, steps=0)
    assert not list(tmp_path.iterdir())
    assert read_method(dita.save_method("fora:3", tmp_path)) == (FORA(3), None)
    assert read_method(dita.save_method([Plain(), "fora:3"], tmp_path, steps=9)) == (FORA(3), MadeFor(steps=9))


def test_a_scheduler_is_named_by_its_class_and_by_what_is_not_the_default():
    euler = FlowMatchEulerDiscreteScheduler()
    assert scheduler_name(euler).startswith("FlowMatchEulerDiscreteScheduler:")
    assert scheduler_name(euler) == scheduler_name(FlowMatchEulerDiscreteScheduler(shift=1))
    assert scheduler_name(euler) != scheduler_name(FlowMatchEulerDiscreteScheduler(shift=3.0))
    again = FlowMatchEulerDiscreteScheduler.from_config({**euler.config, "_diffusers_version": "0.0", "unheard_of": 1})
    assert scheduler_name(again) == scheduler_name(euler)
    betas = [0.1, 0.2, 0.3]
    assert scheduler_name(DDIMScheduler(trained_betas=betas)) == scheduler_name(DDIMScheduler(trained_betas=betas[:]))
    assert scheduler_name(DDIMScheduler(trained_betas=betas)) != scheduler_name(DDIMScheduler())
    assert len({scheduler_name(cls()) for cls in (DPMSolverMultistepScheduler, UniPCMultistepScheduler)}) == 2


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("org/one", "org/one"),
        ("/home/me/models/one/", "/home/me/models/one"),
        (Path("/home/me/models/one"), "/home/me/models/one"),
        ("/cache/hub/models--org--one/snapshots/0123abcd", "org/one"),
        (None, None),
    ],
)
def test_a_pipeline_is_named_as_it_was_loaded(path, name):
    pipe = tiny_flux.tiny_pipeline()
    if path is not None:
        pipe.register_to_config(_name_or_path=path)
        pipe.transformer.register_to_config(_name_or_path=f"{str(path).rstrip('/')}/transformer")
        assert model_name(pipe.transformer) == name
    assert model_name(pipe) == target_facts(pipe).model == name


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"num_inference_steps": 9, "height": 16, "width": 24}, MadeFor(steps=9, height=16, width=24)),
        ({"num_inference_steps": 9, "sigmas": [1.0, 0.5]}, MadeFor(steps=2, height=256, width=256)),
        ({"num_inference_steps": torch.tensor(4), "height": 16}, MadeFor(steps=4, height=16, width=256)),
        ({"num_inference_steps": "many", "height": 16.5, "width": -1}, MadeFor()),
        ({"num_inference_steps": 9, "resolution": "240p"}, MadeFor(steps=9)),
    ],
)
def test_what_a_call_asks_for(arguments, facts):
    assert call_facts(tiny_flux.tiny_pipeline(), arguments) == facts
