"""What a page knows of a model: its examples are prompts that it can draw."""

from __future__ import annotations

from dita import miniature, realistic_prompts
from dita.demo.loaded import load
from dita.demo.request import Limits, checked
from tests.demo.small import small


def test_models_that_are_not_bundled_get_realistic_prompts():
    for family in ("flux", "pixart", "opensora"):
        assert small(family).examples(6) == realistic_prompts.texts(6)


def test_class_names_are_spread_over_all_classes():
    loaded = small("dit")
    assert sorted(loaded.examples(6)) == sorted(loaded.labels)
    loaded.pipe.labels = {f"class {n}": n for n in range(10)}
    assert loaded.examples(2) == ["class 0", "class 5"]


def test_every_example_is_taken(loaded):
    for prompt in loaded.examples(8):
        assert checked(loaded, Limits(), prompt).prompt == " ".join(prompt.split())


def test_a_bundled_model_goes_by_its_own_name():
    loaded = load("Shapes-DiT", "float32", "cpu")
    assert loaded.name == "shapes-dit"
    assert loaded.examples(3) == miniature.prompts("shapes-dit", 3)
