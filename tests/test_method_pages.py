"""docs/methods: one page a method, whose lists are what the method itself says."""

from __future__ import annotations

import pytest

from dita.methods import METHODS
from dita.methods.pages import costs, families_line, page, parameters


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
