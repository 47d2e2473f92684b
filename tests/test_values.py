import dataclasses
import math

import numpy as np
import pytest
import torch

from dita import ToCa, ToMe
from dita.methods import METHODS, parse
from dita.values import field_hints, is_choice, nearest, number, shown, switch, typed, unknown, whole

WHOLE = (3, 3.0, np.int64(3), np.float32(3), np.array(3), torch.tensor(3), torch.tensor(3.0))
NOT_WHOLE = (
    True,
    np.True_,
    torch.tensor(True),
    2.5,
    math.nan,
    math.inf,
    "3",
    None,
    [3],
    np.array([3]),
    torch.ones(1),
    1j,
)
AXES = ([3], np.array([3]), torch.ones(1))
WRONG = {int: ("x", True, 2.5, math.nan, None, [4]), float: ("x", True, None, [0.5], 1j), bool: (1, "true", None)}


@pytest.mark.parametrize("value", WHOLE, ids=shown)
def test_whole_numbers_of_any_kind_are_ints(value: object) -> None:
    assert type(whole("count", value)) is int and whole("count", value) == 3


@pytest.mark.parametrize("value", [*NOT_WHOLE, *AXES, torch.empty((), device="meta")], ids=shown)
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="count must be a whole number, got"):
        whole("count", value)


def test_bounds_are_named_with_what_they_mean() -> None:
    with pytest.raises(ValueError, match=r"cycle must be a whole number, at least 1 \(1 is plain\), got 0"):
        whole("cycle", 0, 1, why="1 is plain")
    with pytest.raises(ValueError, match="port must be a whole number from 1 to 65535, got 70000"):
        whole("port", 70000, 1, 65535)


def test_numbers_and_switches() -> None:
    assert number("ratio", torch.tensor(0.5)) == number("ratio", np.float32(0.5)) == 0.5
    assert type(number("ratio", 1)) is float
    assert switch("strict", np.True_) is True
    for value in (True, "0.5", math.nan, -math.inf):
        with pytest.raises(ValueError, match="ratio must be a number, got"):
            number("ratio", value)
    with pytest.raises(ValueError, match="strict must be true or false, got 1"):
        switch("strict", 1)


@pytest.mark.parametrize(
    ("given", "near"),
    [("tocca", "toca"), ("TOCA", "toca"), ("taylor", "taylorseer"), ("x", None), ("", None), (3, None)],
)
def test_the_nearest_name(given: object, near: str | None) -> None:
    assert nearest(given, METHODS) == near
    message = str(unknown("method", given, METHODS))
    assert message.startswith(f"unknown method {given!r}; known: plain, steps, ")
    assert message.endswith(f"; did you mean '{near}'?" if near else ", tome")


def test_a_long_value_is_shortened() -> None:
    assert len(shown("x" * 1000)) == 60 and "\n" not in shown(np.zeros((30, 30)))


@pytest.mark.parametrize(
    ("cls", "field"), [(cls, field.name) for cls in METHODS.values() for field in dataclasses.fields(cls)]
)
def test_every_field_of_every_method_is_checked(cls: type, field: str) -> None:
    hint = field_hints(cls)[field]
    kinds = [kind for kind in (getattr(hint, "__args__", None) or (hint,)) if kind in WRONG]
    listed = any(getattr(kind, "__origin__", None) is tuple for kind in (hint, *getattr(hint, "__args__", ())))
    wrong = ("x", 3, None, [None]) if listed or is_choice(hint) else WRONG[kinds[0]]
    if type(None) in getattr(hint, "__args__", ()):
        wrong = tuple(value for value in wrong if value is not None)
    assert wrong
    for value in wrong:
        with pytest.raises(ValueError, match=field if not listed else "stride|module|full_steps|ratios|weights"):
            cls(**{field: value})


@pytest.mark.parametrize("field", ["ratio", "age_weight", "spatial_bonus", "scale"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_of_methods_are_finite(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        ToCa(**{field: value})


def test_fields_that_are_meant_become_what_their_hint_says() -> None:
    method = ToCa(np.int64(3), torch.tensor(1), warmup=2.0)
    assert method == ToCa(3, 1.0, warmup=2) and type(method.cycle) is int and type(method.ratio) is float
    assert parse(method.label()) == method
    assert ToMe(stride="2x4", modules="attn/mlp") == ToMe(stride=(2, 4), modules=("attn", "mlp"))


def test_hints_of_other_kinds_check_nothing() -> None:
    assert typed("it", {"a": 1}, dict[str, int]) == {"a": 1}
