"""docs/methods: one page a method, whose lists are what the method itself says."""

from __future__ import annotations

import dataclasses

import pytest

from dita.methods import METHODS
from dita.methods.pages import costs, families_line, page, parameters
from dita.methods.parameters import parameter, parameters_of


@pytest.mark.parametrize("cls", METHODS.values(), ids=list(METHODS))
def test_a_page_has_the_parameters_families_and_costs_of_its_method(cls) -> None:
    text = page(cls)
    assert parameters(cls) in text
    assert costs(cls) in text
    assert f"Families: {families_line(cls)}." in text
    assert cls.paper in text and "## Idea" in text


def test_a_method_without_a_page_says_where_it_was_looked_for() -> None:
    class Unwritten(METHODS["plain"]):
        name = "unwritten"

    with pytest.raises(FileNotFoundError, match=r"the page of method 'unwritten' is in none of .*unwritten\.md"):
        page(Unwritten)


@pytest.mark.parametrize("cls", METHODS.values(), ids=list(METHODS))
def test_each_field_has_a_text_of_its_own_and_one_line_on_the_page(cls) -> None:
    described = parameters_of(cls)
    assert [one.name for one in described] == [field.name for field in dataclasses.fields(cls)]
    meanings = [one.meaning for one in described]
    assert all(meanings) and len(set(meanings)) == len(meanings)
    for one in described:
        assert page(cls).count(f"| `{one.name}` |") == 1
        assert one.default is None or one.check(one.default) is None


def test_a_field_is_explained_as_what_it_is() -> None:
    toca = METHODS["toca"]
    assert "Hermite" in parameter(toca, "basis").meaning and "c^i" in parameter(toca, "scale").meaning
    assert (
        "multiplied" in parameter(toca, "spatial_bonus").meaning and "side" in parameter(toca, "spatial_grid").meaning
    )
    assert parameter(toca, "scale").takes == "(0, 1]" and parameter(toca, "cycle").takes == "whole, at least 1"
    assert parameter(toca, "warmup").takes == "whole, at least 1; or unset"
    assert parameter(toca, "ratios").takes == "numbers in [0, 1]; or unset"
    assert parameter(METHODS["pab"], "level").choices == (1, 2, 3)


RANGED = [(cls, one) for cls in METHODS.values() for one in parameters_of(cls) if one.range is not None]


@pytest.mark.parametrize(("cls", "one"), RANGED, ids=[f"{cls.name}-{one.name}" for cls, one in RANGED])
def test_a_range_is_what_the_method_takes_and_its_error_names_the_field(cls, one) -> None:
    bounds = one.range
    outside = [bounds.least - 1, *([bounds.least] if bounds.above else []), *([bounds.most + 1] if bounds.most else [])]
    listed = one.kind == "numbers"
    for value in outside:
        named = rf"{one.name}\[1\]" if listed else one.name
        with pytest.raises(ValueError, match=rf"{named} must be .*, got {value}"):
            cls(**{one.name: (bounds.least, value) if listed else value})
    inside = bounds.most or 3
    if listed:
        between = cls(**{one.name: (inside, bounds.least)}, full_steps=(0, 3))
        assert getattr(between, one.name) == (inside, bounds.least)
        return
    assert getattr(cls(**{one.name: inside}), one.name) == inside


def test_a_method_without_descriptions_is_described_by_its_types() -> None:
    @dataclasses.dataclass(frozen=True)
    class Own(METHODS["plain"]):
        name = "own"
        depth: int = 2

    assert parameter(Own, "depth").kind == "whole" and parameter(Own, "depth").takes == "whole number"


def test_a_method_that_extends_another_keeps_its_ranges() -> None:
    @dataclasses.dataclass(frozen=True)
    class EverySecond(METHODS["fora"]):
        name = "every-second"
        cycle: int = 2

    with pytest.raises(
        ValueError, match=r"cycle must be a whole number, at least 1 \(1 is the plain pipeline\), got 0"
    ):
        EverySecond(0)
