"""What a visitor sends is checked before it reaches the pipeline, and refused in words."""

from __future__ import annotations

import pytest

from dita import miniature
from dita.demo.presets import PRESETS, TUNED, presets
from dita.demo.request import Limits, Refused, checked, checked_method, checked_methods, limits_of
from dita.methods import FORA, FewerSteps, ToCa, write_method
from tests.demo.small import PROMPTS, small


@pytest.fixture(scope="module")
def flux():
    return small("flux")


def test_what_is_not_given_is_the_models_own(flux):
    request = checked(flux, Limits(), "  a   red\ncircle ")
    assert (request.prompt, request.steps, request.guidance) == ("a red circle", 6, 3.5)
    assert (request.height, request.width, request.seed) == (32, 32, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "   "}, "empty"),
        ({"prompt": None}, "empty"),
        ({"prompt": "x" * 501}, "501 characters; at most 500"),
        ({"steps": 101}, "between 1 and 100, got 101"),
        ({"steps": 0}, "between 1 and 100, got 0"),
        ({"steps": 2.5}, "whole number, got 2.5"),
        ({"steps": float("nan")}, "whole number, got nan"),
        ({"steps": "many"}, "whole number, got 'many'"),
        ({"seed": -1}, "between 0 and 4294967295"),
        ({"seed": True}, "whole number, got True"),
        ({"guidance": 21}, "between 0 and 20, got 21"),
        ({"guidance": float("inf")}, "must be a number"),
        ({"height": 2048}, "between 4 and 1024"),
        ({"width": 33}, "multiple of 4 pixels, got 33"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(flux, changes, words):
    with pytest.raises(Refused, match=words):
        checked(flux, Limits(), **{"prompt": "a red circle", **changes})


def test_what_the_sampler_cannot_do_is_refused():
    with pytest.raises(Refused, match="between 2 and 100, got 1"):
        checked(small("pixart"), Limits(), "a red circle", steps=1)


def test_long_values_are_quoted_in_short(flux):
    with pytest.raises(Refused) as refused:
        checked(flux, Limits(), "a red circle", seed="9" * 10_000)
    assert len(str(refused.value)) < 120


def test_a_class_that_a_model_does_not_know_is_refused():
    with pytest.raises(Refused, match="is the name of none"):
        checked(small("dit"), Limits(), "a submarine")


def test_sizes_of_models_with_one_size_are_their_own():
    for family in ("dit", "opensora"):
        loaded = small(family)
        request = checked(loaded, Limits(), PROMPTS[family], height=7, width=10**9)
        assert (request.height, request.width) == loaded.side
        assert request.call(loaded).get("height") == loaded.call.get("height")


def test_methods_are_checked_for_the_model(flux, tmp_path):
    assert checked_methods(flux, Limits(), ["toca:4:0.9", "steps:0.5"]) == [ToCa(4, 0.9), FewerSteps(0.5)]
    with pytest.raises(Refused, match=r"Tgate does not run on flux"):
        checked_method(flux, "tgate")
    with pytest.raises(Refused, match="known: plain"):
        checked_method(flux, "magic")
    with pytest.raises(Refused, match="empty"):
        checked_method(flux, "")
    path = write_method(tmp_path / "tuned", FORA())
    for text in (str(path), f"{path.parent}/", str(tmp_path / "gone.json")):  # the server's files are nobody's affair
        with pytest.raises(Refused, match=r"^Unknown method "):
            checked_method(flux, text)
    with pytest.raises(Refused, match="At most 2 methods"):
        checked_methods(flux, Limits(), ["fora:2", "fora:3", "fora:4"])
    with pytest.raises(Refused, match="choose two that differ"):
        checked_methods(flux, Limits(), ["fora:3", FORA(3)])
    with pytest.raises(Refused, match="at least one"):
        checked_methods(flux, Limits(), [])


def test_limits_follow_the_model_and_the_servers_owner(flux):
    assert limits_of(flux).side == 64
    assert limits_of(flux, steps=9).steps == 9
    with pytest.raises(ValueError, match="limit of steps"):
        limits_of(flux, steps=0)


def test_presets_are_those_that_run_on_a_family():
    for family in ("flux", "pixart", "dit", "opensora"):
        known = presets(family)
        assert "Rival: half of the steps" in known
        for method in known.values():
            method.check_family(family)
    assert {name for name in PRESETS if name not in presets("opensora")} == {
        "Rival: a third of the steps, UniPC",
        "Rival: a third of the steps, DPM++ 2M",
    }
    assert not any("T-GATE" in name for name in presets("flux"))


@pytest.mark.parametrize("model", sorted(miniature.MINIATURES))
def test_what_was_tuned_for_a_bundled_model_comes_first_and_stands_once(model, monkeypatch, tmp_path):
    monkeypatch.setattr(miniature, "__file__", str(tmp_path / "__init__.py"))
    family = model.removeprefix("shapes-")
    assert TUNED not in presets(family, model)
    (tmp_path / "tuned").mkdir()
    write_method(tmp_path / "tuned" / "plan", PRESETS["Simplest cache: FORA, whole steps"]).rename(
        tmp_path / "tuned" / f"{model}.json"
    )
    found = presets(family, model)
    assert next(iter(found)) == TUNED and found[TUNED] == FORA(3)
    assert list(found.values()).count(FORA(3)) == 1
    assert TUNED not in presets(family, "somebody/else")
