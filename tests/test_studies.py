"""Ready-made comparisons hold what can run, and the honest rivals."""

from __future__ import annotations

import warnings

import pytest

from dita.families import FAMILIES
from dita.methods import METHODS, FewerSteps, Plain
from dita.methods.pages import MODELS
from dita.shapes import named_shape
from dita.studies import STUDIES, every_method


@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_of_a_family_has_a_plan_there(family: str) -> None:
    name, steps = MODELS[family]
    methods = every_method(family)
    assert isinstance(methods[0], Plain) and any(isinstance(method, FewerSteps) for method in methods)
    assert {method.name for method in methods} == {n for n, cls in METHODS.items() if family in cls.families}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in methods[1:]:
            plan = method.plan(named_shape(name), steps)
            assert plan.flops() < plan.plain_flops, method.label()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_study_of_selection_has_random_tokens_no_tokens_and_fewer_steps(family: str) -> None:
    labels = [method.label() for method in STUDIES["selection"](family, 4, 0.9)]
    assert {"plain", "steps:0.4", "fora:4", "toca:4:0.9:random"} <= set(labels)
    assert ("toca:4:0.9:frame-uniqueness" in labels) == (family == "opensora")
    assert len(set(labels)) == len(labels)
