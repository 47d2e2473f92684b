"""Controls come from a method's dataclass alone, whatever the method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from dita.demo.controls import controls, parts, value
from dita.methods import METHODS, SCORES, Method, ToCa, ToMe, as_method, parse, short


def by_name(name: str) -> dict:
    return {control.name: control for control in controls(METHODS[name])}


def test_every_parameter_of_every_method_has_a_control_that_shows_its_default():
    for cls in METHODS.values():
        made = controls(cls)
        assert [control.name for control in made] == [field.name for field in dataclasses.fields(cls)]
        for control in made:
            assert value(cls(), control) == control.default
            assert control.meaning, f"{cls.name}.{control.name} is not explained"


def test_choices_are_those_of_the_type():
    assert by_name("toca")["score"].choices == SCORES
    assert by_name("tome")["machine"].choices == ("accelerator", "cpu")
    assert by_name("tome")["machine"].optional


def test_a_number_that_takes_few_values_is_a_choice():
    assert by_name("pab")["level"].kind == "choice"
    assert by_name("pab")["level"].choices == (1, 2, 3)


def test_bounds_are_what_the_method_itself_accepts():
    toca, tome = by_name("toca"), by_name("tome")
    assert (toca["ratio"].low, toca["ratio"].high) == (0.0, 1.0)
    assert (tome["ratio"].low, tome["ratio"].high) == (0.0, 0.75)
    assert (toca["cycle"].low, toca["cycle"].high) == (1, None)
    assert (by_name("steps")["fraction"].low, by_name("steps")["fraction"].high) == (0.05, 1.0)
    assert (toca["age_weight"].low, toca["age_weight"].high) == (0.0, None)


def test_bounds_hold_for_every_method():
    for cls in METHODS.values():
        for control in controls(cls):
            for bound in (control.low, control.high):
                if bound is not None:
                    number = int(bound) if control.kind == "whole" else bound
                    cls(**{control.name: number})  # does not raise


def test_full_steps_are_shown_and_read_as_in_the_short_form():
    made = {control.name: control for control in controls(ToCa)}["full_steps"]
    assert (made.kind, made.default, made.optional) == ("wholes", None, True)
    assert value(ToCa(full_steps=(0, 3, 7)), made) == "0/3/7"
    assert parse("toca:full_steps=0/3/7:full_of=28") == ToCa(full_steps=(0, 3, 7), full_of=28)


def test_ratios_are_shown_and_read_as_in_the_short_form():
    made = {control.name: control for control in controls(ToCa)}["ratios"]
    assert (made.kind, made.default, made.optional) == ("numbers", None, True)
    assert value(ToCa(full_steps=(0, 3), ratios=(0.9, 0.5)), made) == "0.9/0.5"


def test_what_controls_show_is_what_the_short_form_reads():
    changed = ToMe(0.25, stride=(4, 4), modules=("attn", "mlp"), machine="cpu", random=False)
    said = ":".join(
        f"{control.name}={short(shown) if not isinstance(shown, str) else shown}"
        for control in controls(ToMe)
        if (shown := value(changed, control)) != control.default
    )
    assert parse(f"tome:{said}") == changed


def test_a_method_of_ones_own_gets_controls_too():
    @dataclass(frozen=True)
    class Own(Method):
        """A method.

        Fields:
            depth: how deep it goes.
            mode: how it goes.
        """

        name: ClassVar[str] = "own"
        depth: int = 2
        mode: Literal["slow", "fast"] | None = None

        def __post_init__(self) -> None:
            if not 1 <= self.depth <= 20:
                raise ValueError(f"depth must be 1 to 20, got {self.depth}")

    depth, mode = controls(_named(Own))
    assert (depth.kind, depth.low, depth.high, depth.meaning) == ("whole", 1, 20, "how deep it goes.")
    assert (mode.kind, mode.choices, mode.optional) == ("choice", ("slow", "fast"), True)


def _named(cls: type[Method]) -> type[Method]:
    """`cls` with its annotations resolvable, as those of a module are."""
    cls.__annotations__ = {**cls.__annotations__, "name": ClassVar[str], "depth": int}
    cls.__annotations__["mode"] = Literal["slow", "fast"] | None
    return cls


def test_a_composition_shows_its_parts():
    assert parts(as_method("tome:force=true+toca:4:0.9")) == (ToMe(force=True), ToCa(4, 0.9))
    assert parts(ToCa()) == (ToCa(),)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "plain"])
def test_a_switch_is_a_yes_or_no(name):
    for control in controls(METHODS[name]):
        assert (control.kind == "switch") == isinstance(control.default, bool)
