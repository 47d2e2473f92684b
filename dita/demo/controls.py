"""The controls of a method, read off its dataclass: types, defaults and meanings, and what values it takes."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dita.methods import Method, short
from dita.methods.pages import MEANINGS, field_meanings

Kind = Literal["whole", "number", "choice", "switch", "wholes", "names"]
PROBED = 64  # whole numbers up to this are tried
FEW = 6  # a whole number that takes so few values, or fewer, is a choice
SHARES = tuple(n / 20 for n in range(21))


@dataclass(frozen=True)
class Control:
    """One parameter of a method.

    Attributes:
        kind: `whole` and `number` are numbers; `choice` is one of `choices`; `wholes` are whole numbers as in 2x2 or
            0/3/7, and `names` as in attn/mlp.
        default: in the form of `kind`; lists as they are written in short.
        optional: whether it may be unset, which None stands for.
        low, high: the least and largest value, None where there is no bound.
        meaning: of the parameter, in a sentence.
    """

    name: str
    kind: Kind
    default: Any
    optional: bool
    choices: tuple[Any, ...]
    low: float | None
    high: float | None
    meaning: str


def controls(cls: type[Method]) -> tuple[Control, ...]:
    """The controls of a method, in the order of its fields."""
    if cls not in _CONTROLS:
        _CONTROLS[cls] = _found(cls)
    return _CONTROLS[cls]


_CONTROLS: dict[type[Method], tuple[Control, ...]] = {}


def _found(cls: type[Method]) -> tuple[Control, ...]:
    hints = get_type_hints(cls, include_extras=True)
    meanings = MEANINGS | field_meanings(cls)
    return tuple(
        _control(cls, field.name, hints[field.name], field.default, meanings.get(field.name, ""))
        for field in dataclasses.fields(cls)
    )


def parts(method: Method) -> tuple[Method, ...]:
    """A method, or the methods that a composition is made of."""
    together: tuple[Method, ...] | None = getattr(method, "methods", None)
    return together or (method,)


def value(method: Method, control: Control) -> Any:
    """What a control shows for a method."""
    return _written(control.name, getattr(method, control.name))


def _control(cls: type[Method], name: str, hint: Any, default: Any, meaning: str) -> Control:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    optional = type(None) in options
    hint = next(option for option in options if option is not type(None))
    kind: Kind = "number"
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    if get_origin(hint) is Literal:
        kind, choices = "choice", get_args(hint)
    elif get_origin(hint) is tuple:
        kind = "wholes" if int in get_args(hint) else "names"
    elif hint is bool:
        kind = "switch"
    elif hint is int:
        kind = "whole"
        taken = [n for n in range(PROBED + 1) if _takes(cls, name, n)]
        if 1 < len(taken) <= FEW:
            kind, choices = "choice", tuple(taken)
        elif taken:
            low, high = taken[0], None if taken[-1] == PROBED else taken[-1]
    else:
        shares = [share for share in SHARES if _takes(cls, name, share)]
        bounded = not _takes(cls, name, 1.5)
        low = None if not shares or _takes(cls, name, -1.0) else shares[0]
        high = shares[-1] if shares and bounded else None
    return Control(name, kind, _written(name, default), optional, choices, low, high, meaning)


def _takes(cls: type[Method], name: str, value: float) -> bool:
    """Whether the method can be made with this value, all others at their defaults."""
    try:
        cls(**{name: value})
    except (ValueError, TypeError):
        return False
    return True


def _written(name: str, value: Any) -> Any:
    """Lists as `dita.methods.parse` reads them, all else as it is."""
    return short(value, name) if isinstance(value, tuple) else value
