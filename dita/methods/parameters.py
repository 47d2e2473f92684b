"""Parameters of methods: of each field what it means, which values it takes, and what it is by default.

Types and choices are those of the field's hint, meanings those of the `Fields:` sections of docstrings, and ranges are
written beside the type: `cycle: Annotated[int, Range(1)] = 4`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from dita.values import LARGEST_SEED, choice, field_hints, is_choice, known_name, typed, whole

Kind = Literal["whole", "number", "choice", "switch", "wholes", "numbers", "names", "data"]


@dataclass(frozen=True)
class Range:
    """The numbers that a field takes.

    Attributes:
        least, most: the bounds, which it takes too; None for no upper one.
        above: whether `least` itself is left out.
        why: what a bound means, in a few words.
    """

    least: float
    most: float | None = None
    above: bool = False
    why: str = ""

    def __str__(self) -> str:
        if self.most is None:
            return f"{'above' if self.above else 'at least'} {self.least}"
        return f"{'(' if self.above else '['}{self.least}, {self.most}]"

    def check(self, name: str, value: float, kind: Kind) -> None:
        """Raises `ValueError` that names the field, unless `value` is in the range."""
        if kind == "whole":
            most = None if self.most is None else int(self.most)
            whole(name, value, int(self.least), most, why=self.why)
            return
        low = self.least < value if self.above else self.least <= value
        if not (low and math.isfinite(value) and (self.most is None or value <= self.most)):
            allowed = f"in {self}" if self.most is not None else f"a finite number, {self}"
            raise ValueError(f"{name} must be {allowed}{f' ({self.why})' if self.why else ''}, got {value}")


@dataclass(frozen=True)
class OneOf:
    """The few whole numbers that a field takes."""

    choices: tuple[int, ...]


Cycle = Annotated[int, Range(1, why="1 is the plain pipeline")]
Warmup = Annotated[int, Range(1, why="the first step is always full")]
Order = Annotated[int, Range(0, why="an order; 0 is reuse")]
Scale = Annotated[float, Range(0, 1, above=True)]
Weight = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
StepNumber = Annotated[int, Range(0, why="a step number")]
Seed = Annotated[int, Range(0, LARGEST_SEED)]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        kind: `whole` and `number` are numbers; `choice` is one of `choices`; `switch` is true or false; `wholes` are
            whole numbers as in 2x2 or 0/3/7, `numbers` as in 0.9/0.8, `names` as in attn/mlp; `data` comes in JSON
            alone.
        optional: whether it may be None.
        range: the numbers that it takes, where the method declares them.
        meaning: in a sentence or more; "" where the method does not document it.
    """

    name: str
    kind: Kind
    default: Any
    optional: bool
    choices: tuple[Any, ...]
    range: Range | None
    meaning: str

    @property
    def takes(self) -> str:
        """What values it takes, in a few words of Markdown."""
        if self.kind == "choice":
            said = ", ".join(f"`{one}`" for one in self.choices)
        elif self.range is not None and self.range.most != LARGEST_SEED:
            kind = {"whole": "whole, ", "numbers": "numbers in "}.get(self.kind, "")
            said = f"{kind}{self.range}"
        else:
            said = _WORDS[self.kind]
        return f"{said}; or unset" if self.optional else said

    def check(self, value: Any) -> None:
        """Raises `ValueError` for a value, of the right type, that the method does not declare to take."""
        if value is None:
            return
        if self.kind == "choice":
            choice(self.name, value, self.choices)
        elif self.range is not None and self.kind == "numbers":
            for number, one in enumerate(value):
                self.range.check(f"{self.name}[{number}]", one, "number")
        elif self.range is not None:
            self.range.check(self.name, value, self.kind)


_WORDS: dict[Kind, str] = {
    "whole": "whole number",
    "number": "number",
    "choice": "one of a few",
    "switch": "true, false",
    "wholes": "whole numbers",
    "numbers": "numbers",
    "names": "names",
    "data": "lists of numbers",
}


def parameters_of(cls: type[Any]) -> tuple[Parameter, ...]:
    """The parameters of a method, in the order of its fields."""
    if cls not in _FOUND:
        _FOUND[cls] = _found(cls)
    return _FOUND[cls]


_FOUND: dict[type[Any], tuple[Parameter, ...]] = {}


def _found(cls: type[Any]) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    meanings = _meanings(cls)
    made = (
        _parameter(one.name, hints[one.name], one.default, meanings.get(one.name, ""))
        for one in dataclasses.fields(cls)
    )
    extended = next((base for base in cls.__mro__[1:] if dataclasses.is_dataclass(base)), None)
    above = {one.name: one for one in parameters_of(extended)} if extended is not None else {}
    return tuple(_bounded(one, above.get(one.name)) for one in made)


def _bounded(one: Parameter, above: Parameter | None) -> Parameter:
    """A parameter with the range of the one that it takes the place of, where its own hint has none."""
    if above is None or one.range is not None or one.kind != above.kind:
        return one
    return dataclasses.replace(one, range=above.range)


def parameter(cls: type[Any], name: str) -> Parameter:
    """One of the parameters of a method. Raises `KeyError` where it has none of that name."""
    return {one.name: one for one in parameters_of(cls)}[name]


def read(cls: type[Any], name: str, value: Any) -> Any:
    """The value of a method's parameter in JSON or in a short form, as its type is. Raises `ValueError`.

    A choice that is none stays as it is: the method refuses it, and names what there is.
    """
    hint = field_hints(cls)[name]
    if is_choice(hint):
        return known_name(value, [one for one in parameter(cls, name).choices if isinstance(one, str)]) or value
    return typed(f"parameter {name!r} of method {cls.name!r}", value, hint)


def check_parameters(method: Any) -> None:
    """Raises `ValueError` for the first field of a method whose value it does not declare to take."""
    for one in parameters_of(type(method)):
        one.check(getattr(method, one.name))


def _parameter(name: str, hint: Any, default: Any, meaning: str) -> Parameter:
    options = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kind_hint = next(option for option in options if option is not type(None))
    noted: tuple[Any, ...] = ()
    if get_origin(kind_hint) is Annotated:
        kind_hint, *notes = get_args(kind_hint)
        noted = tuple(notes)
    limits = next((note for note in noted if isinstance(note, Range)), None)
    few = next((note.choices for note in noted if isinstance(note, OneOf)), ())
    choices = get_args(kind_hint) if get_origin(kind_hint) is Literal else few
    kind: Kind = "choice" if choices else _kind(kind_hint)
    return Parameter(name, kind, default, type(None) in options, choices, limits, meaning)


def _kind(hint: Any) -> Kind:
    """The kind of a type that is no choice."""
    if get_origin(hint) is tuple:
        listed: dict[Any, Kind] = {int: "wholes", float: "numbers", str: "names"}
        return listed.get(next(iter(get_args(hint)), None), "data")
    return "switch" if hint is bool else "whole" if hint is int else "number" if hint is float else "data"


def _meanings(cls: type[Any]) -> dict[str, str]:
    """The `Fields:` sections of the docstrings of a method and of what it extends, by field."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # fields that a method has from another one are documented there
        section = inspect.cleandoc(base.__doc__ or "").partition("Fields:\n")[2]
        for name, meaning in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, flags=re.M):
            meanings[name] = " ".join(meaning.split())
    return meanings
