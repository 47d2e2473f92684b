"""What people give, checked where it enters: numbers, switches, choices, lists of them. Errors say what is allowed."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import operator
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

_LONGEST = 60  # characters of a value in a message
LARGEST_SEED = 2**64 - 1
"""That `torch.Generator.manual_seed` takes."""


def unknown(kind: str, name: object, known: Iterable[object], more: str = "") -> ValueError:
    """The error for a name that is not among `known`: all of them, and the nearest one.

    more: what is said behind them.
    """
    names = [str(one) for one in known]
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    return ValueError(f"unknown {kind} {shown(name)}; known: {', '.join(names)}{more}{hint}")


def known_name(name: object, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` is, in capitals or not; None if it is none of them."""
    names = list(known)
    if not isinstance(name, str) or name in names:
        return name if isinstance(name, str) else None
    wanted = name.strip().lower()
    return next((one for one in names if one.lower() == wanted), None)


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The one of `known` that `name` is most likely a misspelling of, if any is like it."""
    if not isinstance(name, str) or not name.strip():
        return None
    by_lower = {one.lower(): one for one in known}
    wanted = name.strip().lower()
    found = difflib.get_close_matches(wanted, by_lower, 1)
    longer = [one for one in by_lower if len(wanted) > 2 and one.startswith(wanted)]
    return by_lower[(found or longer)[0]] if found or longer else None


def shown(value: object) -> str:
    """A value as messages quote it: on one line, of bounded length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def whole(name: str, value: object, least: int | None = None, most: int | None = None, *, why: str = "") -> int:
    """A whole number: an int, a float or a scalar of NumPy or torch without a fraction; never a bool.

    Raises `ValueError` that names the value and, in `why`, what the bound means.
    """
    count = _scalar(value)
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    right = isinstance(count, int) and not isinstance(count, bool)
    if not right or (least is not None and count < least) or (most is not None and count > most):
        bounds = "" if least is None else f", at least {least}" if most is None else f" from {least} to {most}"
        reason = f" ({why})" if why else ""
        raise ValueError(f"{name} must be a whole number{bounds}{reason}, got {shown(count if right else value)}")
    return int(count)


def integer(name: str, value: object, least: int = 1) -> int:
    """How many: an integer of Python, NumPy or torch. A float is none, whatever its value, and a bool neither.

    Raises `ValueError`, also below `least`.
    """
    try:
        truth = isinstance(value, bool) or str(getattr(value, "dtype", "")).rpartition(".")[2] == "bool"
        found = None if truth else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        found = None
    if found is None or found < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {shown(value)}")
    return found


def number(name: str, value: object, *, finite: bool = True) -> float:
    """A number: an int, a float, or a scalar of NumPy or torch; never a bool. Raises `ValueError`."""
    found = _scalar(value)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or (finite and not math.isfinite(found)):
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    return float(found)


def switch(name: str, value: object) -> bool:
    """True or false, and nothing that only counts as one. Raises `ValueError`."""
    found = _scalar(value)
    if not isinstance(found, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return found


def choice(name: str, value: object, known: Iterable[object]) -> Any:
    """One of `known`, whose names may be given in capitals.

    Raises `ValueError` that lists them, and names the nearest.
    """
    allowed = tuple(known)
    for one in allowed:
        if type(value) is type(one) and value == one:
            return one
    found = known_name(value, [one for one in allowed if isinstance(one, str)])
    if found is None:
        raise unknown(name, value, allowed)
    return found


def is_choice(hint: Any) -> bool:
    """Whether a type hint is a choice of values, or such a choice and None."""
    return get_origin(hint) is Literal or any(get_origin(kind) is Literal for kind in get_args(hint))


def typed(name: str, value: object, hint: Any, *, finite: bool = True) -> Any:
    """`value` as what the type hint says: bool, int, float, a choice, a tuple of numbers or of names, or None.

    Lists become tuples, as do `2x2`, `0/3/7` and `attn/mlp`, and whole floats ints. A hint of another kind checks
    nothing. Raises `ValueError`.
    """
    if get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            return None
        return typed(name, value, kinds[0], finite=finite) if len(kinds) == 1 else value
    if get_origin(hint) is Literal:
        return choice(name, value, get_args(hint))
    if get_origin(hint) is tuple and get_args(hint) in ((int, ...), (float, ...), (str, ...)):
        return _several(name, value, get_args(hint)[0], finite)
    if hint is bool:
        return switch(name, value)
    if hint is int:
        return whole(name, value)
    if hint is float:
        return number(name, value, finite=finite)
    return value


def check_fields(instance: Any) -> None:
    """Makes every field of a frozen dataclass what its hint says, as `typed`; NaN is left to checks of the range.

    Raises `ValueError` that names the field.
    """
    for name, hint in field_hints(type(instance)).items():
        value = getattr(instance, name)
        object.__setattr__(instance, name, typed(name, value, hint, finite=False))


def field_hints(cls: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    if cls not in _HINTS:
        hints = typing.get_type_hints(cls)
        _HINTS[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _HINTS[cls]


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _several(name: str, value: object, kind: type, finite: bool) -> tuple[Any, ...]:
    """Whole numbers (`2x2` or `0/3/7` in short), numbers (`0.9/0.8`) or names (`attn/mlp` in short)."""
    parts = re.split("[x/]" if kind is int else "/", value) if isinstance(value, str) else value
    if isinstance(parts, (list, tuple)) and kind is str and all(isinstance(part, str) for part in parts):
        return tuple(parts)
    if isinstance(parts, (list, tuple)) and kind is int:
        numbers = [int(part) if isinstance(part, str) and re.fullmatch(r"-?\d+", part) else part for part in parts]
        with contextlib.suppress(ValueError):
            return tuple(whole(name, one) for one in numbers)
    if isinstance(parts, (list, tuple)) and kind is float:
        with contextlib.suppress(ValueError):
            return tuple(number(name, _read(part), finite=finite) for part in parts)
    listed = "0/3/7" if "steps" in name else "2x2"
    examples = {int: f"whole numbers such as {listed}", float: "numbers such as 0.9/0.8"}
    example = examples.get(kind, "names such as attn/mlp")
    raise ValueError(f"{name} must be {example}, got {shown(value)}")


def _read(part: object) -> object:
    """A number that is written out; anything else as it is."""
    return float(part) if isinstance(part, str) else part


def _scalar(value: object) -> Any:
    """The Python number in a scalar of NumPy or in a tensor without axes; anything else as it is."""
    if getattr(value, "shape", None) != () or not callable(getattr(value, "item", None)):
        return value
    try:
        return value.item()  # type: ignore[attr-defined]
    except (RuntimeError, TypeError, ValueError):  # a tensor without numbers
        return value
