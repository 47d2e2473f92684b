"""The controls of a method, read off its dataclass: types, defaults and meanings, and what values it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dita.methods import Method, short
from dita.methods.parameters import Parameter, parameters_of

Kind = Literal["whole", "number", "choice", "switch", "wholes", "numbers", "names"]
PROBED = 64  # whole numbers up to this are tried
FEW = 6  # a whole number that takes so few values, or fewer, is a choice
SHARES = tuple(n / 20 for n in range(21))


@dataclass(frozen=True)
class Control:
    """One parameter of a method.

    Attributes:
        kind: `whole` and `number` are numbers; `choice` is one of `choices`; `wholes` are whole numbers as in 2x2 or
            0/3/7, `numbers` as in 0.9/0.8, and `names` as in attn/mlp.
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
    return tuple(_control(cls, one) for one in parameters_of(cls))


def parts(method: Method) -> tuple[Method, ...]:
    """A method, or the methods that a composition is made of."""
    together: tuple[Method, ...] | None = getattr(method, "methods", None)
    return together or (method,)


def value(method: Method, control: Control) -> Any:
    """What a control shows for a method."""
    return _written(control.name, getattr(method, control.name))


def _control(cls: type[Method], one: Parameter) -> Control:
    kind: Kind = "names" if one.kind == "data" else one.kind
    choices = one.choices
    low: float | None = None
    high: float | None = None
    if kind == "whole":
        taken = [n for n in range(PROBED + 1) if _takes(cls, one.name, n)]
        if 1 < len(taken) <= FEW:
            kind, choices = "choice", tuple(taken)
        elif one.range is not None:
            low, high = one.range.least, one.range.most
        elif taken:
            low, high = taken[0], None if taken[-1] == PROBED else taken[-1]
    elif kind == "number":
        shares = [share for share in SHARES if _takes(cls, one.name, share)]
        bounded = not _takes(cls, one.name, 1.5)
        low = None if not shares or _takes(cls, one.name, -1.0) else shares[0]
        high = shares[-1] if shares and bounded else None
    return Control(one.name, kind, _written(one.name, one.default), one.optional, choices, low, high, one.meaning)


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
