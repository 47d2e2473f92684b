"""The plan that ships with a bundled model."""

from __future__ import annotations

import pytest

from dita import miniature, models
from dita.demo.presets import TUNED, presets
from dita.methods import WholeCall, read_method
from dita.shapes import Kind, named_shape


def test_the_plan_of_shapes_flux_is_of_that_model_and_three_times_as_few_calls() -> None:
    path = miniature.tuned("shapes-flux")
    assert path is not None and "/" not in (read_method(path).made_for.model or "/")
    method, made_for = read_method(path)
    assert isinstance(method, WholeCall) and method.full_of == made_for.steps == 28
    assert made_for.model == "shapes-flux" and made_for.revision == models.revision("shapes-flux")
    plan = method.plan(named_shape("flux-dev"), 28)
    assert plan.kinds.count(Kind.FULL) <= 28 / 3 + 1
    assert presets("flux", "shapes-flux")[TUNED] == method
    assert TUNED not in presets("flux", "another-model")


def test_models_without_a_plan_have_none_and_unknown_ones_are_refused() -> None:
    assert miniature.tuned("shapes-dit") is None
    with pytest.raises(ValueError, match="no bundled model is named 'shapes'"):
        miniature.tuned("shapes")
