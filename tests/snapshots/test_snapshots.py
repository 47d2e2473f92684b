"""Plans, latents and compiled graphs are what tests/snapshots/record.py recorded: rebuilding moves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from dita.shapes import NAMED_SHAPES
from tests.snapshots.record import (
    FAMILIES,
    FIRST_OF_FAMILY,
    differences,
    graph_snapshots,
    latents,
    plan_snapshots,
    stored,
)

OTHER_SHAPES = tuple(
    pytest.param(shape, marks=pytest.mark.slow) for shape in NAMED_SHAPES if shape not in FIRST_OF_FAMILY
)
LATENTS = stored("latents")


def assert_same(before: Any, now: Any) -> None:
    found = list(differences(before, now))
    assert not found, "\n".join(found)


def test_every_shape_and_family_is_recorded() -> None:
    assert set(stored("plans")) == set(NAMED_SHAPES)
    assert set(LATENTS) == set(FAMILIES)


@pytest.mark.parametrize("shape", [*FIRST_OF_FAMILY, *OTHER_SHAPES])
def test_plans_are_the_recorded_ones(shape: str) -> None:
    """The JSON of a plan and what every site does in every step, to the bit."""
    recorded = stored("plans")[shape]
    assert_same(recorded, plan_snapshots(shape, recorded))


@pytest.mark.parametrize(("family", "method"), [(family, method) for family in LATENTS for method in LATENTS[family]])
def test_latents_are_the_recorded_ones(family: str, method: str) -> None:
    """Within a tolerance: other processors round otherwise."""
    for run, before in LATENTS[family][method].items():
        largest = max(abs(value) for value in before)
        assert latents(family, method, run) == pytest.approx(before, rel=0, abs=1e-4 * largest), run


@pytest.mark.slow
@pytest.mark.parametrize("family", stored("graphs"))
def test_compiling_makes_the_recorded_number_of_graphs(family: str) -> None:
    assert_same(stored("graphs")[family], graph_snapshots(family))


def test_a_difference_is_named_by_its_place() -> None:
    before, now = {"flux": {"fora": [1, 2], "toca": [3]}}, {"flux": {"fora": [1, 4], "tome": [5]}}
    named = [line.split(":")[0] for line in differences(before, now)]
    assert named == ["flux fora", "flux toca", "flux tome"]
