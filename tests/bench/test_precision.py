"""Runs in a narrow type beside the same in a wide one."""

from __future__ import annotations

import pytest
import torch

from dita.bench.budget import OutOfTime
from dita.bench.precision import precision, same_tokens
from dita.bench.workloads import workload
from dita.methods import parse

METHODS = ("toca:3:0.7", "toca:3:0.7:random", "fora:3")


@pytest.fixture(scope="module")
def found():
    work = workload("cpu-pixart", scale=0.19, dtype=torch.bfloat16)
    return precision(work, [parse(text) for text in METHODS], steps=5)


def test_plain_comes_first_and_all_are_held_against_it(found) -> None:
    assert [one.label for one in found] == ["plain", "toca:3:0.7", "toca:3:0.7:random", "fora"]
    plain = found[0]
    assert 0 < plain.error < 0.1 and plain.over_plain == 1
    assert all(one.over_plain == one.error / plain.error for one in found)


def test_a_method_is_no_less_exact_than_the_type(found) -> None:
    assert all(0.5 < one.over_plain < 2 for one in found)


def test_tokens_that_no_rounded_number_chooses_are_the_same(found) -> None:
    scored, random = found[1:3]
    assert random.same_tokens == 1.0 and 0.7 < scored.same_tokens <= 1.0
    assert found[0].same_tokens is None and found[3].same_tokens is None


def test_the_share_of_tokens_that_both_chose() -> None:
    wide = {"a": torch.tensor([[1, 2, 3], [4, 5, 6]]), "b": torch.tensor([[0, 9]])}
    narrow = {"a": torch.tensor([[1, 2, 7], [1, 2, 3]]), "b": torch.tensor([[0, 9]])}
    assert same_tokens(narrow, wide) == 4 / 8
    assert same_tokens({}, {}) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"wide": torch.bfloat16}, "nothing between torch.bfloat16 and itself"),
    ],
)
def test_bad_arguments(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision(workload("cpu-flux", scale=0.05), [], **({"steps": 2} | changed))


def test_what_takes_too_long_is_not_begun() -> None:
    with pytest.raises(OutOfTime, match="no time"):
        precision(workload("cpu-flux", scale=0.05, dtype=torch.bfloat16), [parse("fora:3")], steps=5, seconds=1e-6)
