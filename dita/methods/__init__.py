"""The accelerations by name: each method is one frozen dataclass that turns a model's shape into a plan."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from dita.methods.deltadit import DeltaDiT
from dita.methods.duca import DuCa
from dita.methods.fora import FORA
from dita.methods.method import Method, NothingToSkipWarning, short
from dita.methods.pab import PAB
from dita.methods.plain import FewerSteps, Plain
from dita.methods.taylorseer import LoweredOrderWarning, TaylorSeer
from dita.methods.tgate import TGate
from dita.methods.toca import FEATURE_SCORES, LIVE_SCORES, PROBED_SCORES, SCORES, Score, ToCa
from dita.methods.tome import MERGED_MODULES, Composition, MergingRefusedWarning, ToMe

__all__ = [
    "FEATURE_SCORES",
    "FORA",
    "LIVE_SCORES",
    "MERGED_MODULES",
    "METHODS",
    "PAB",
    "PROBED_SCORES",
    "SCORES",
    "Composition",
    "DeltaDiT",
    "DuCa",
    "FewerSteps",
    "LoweredOrderWarning",
    "MergingRefusedWarning",
    "Method",
    "MethodLike",
    "NothingToSkipWarning",
    "Plain",
    "Score",
    "TGate",
    "TaylorSeer",
    "ToCa",
    "ToMe",
    "as_method",
    "from_json",
    "parse",
    "short",
]

_ALL: tuple[type[Method], ...] = (Plain, FewerSteps, FORA, ToCa, DuCa, TaylorSeer, DeltaDiT, TGate, PAB, ToMe)
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in _ALL}
"""Every method by the name that the command line and JSON use."""


MethodLike: TypeAlias = Method | str | Sequence[Method | str]
"""A method, its short form, or several that work together."""


def as_method(given: MethodLike) -> Method:
    """The method that `given` stands for. Raises `ValueError` where it is none, or several that cannot be together."""
    if isinstance(given, Method):
        return given
    if isinstance(given, str):
        return parse(given)
    if not isinstance(given, Sequence):
        raise ValueError(f"method must be a dita method or its short form such as 'toca:4:0.9', got {given!r}")
    methods = tuple(method for method in map(as_method, given) if method != Plain())
    return methods[0] if len(methods) == 1 else Composition(methods)


def from_json(data: dict[str, Any]) -> Method:
    """The method that `Method.as_json` wrote. Raises `ValueError` for unknown names, fields or values."""
    fields = dict(data)
    if fields.get("method") == Composition.name:
        return Composition(tuple(from_json(part) for part in fields.get("methods", ())))
    return _build(fields.pop("method", None), fields)


def parse(text: str) -> Method:
    """A method from its short form: `plain`, `steps:0.5`, `fora:3`, `toca:4:0.9:random`, `toca:cycle=4:score=norm`.

    `tome:0.5+toca:4:0.9` are two that work together. Raises `ValueError` that names what is wrong and what is allowed.
    """
    together = re.split(r"\+(?=[a-z])", text)
    if len(together) > 1:
        return as_method(together)
    name, *parts = text.strip().split(":")
    cls = METHODS.get(name)
    if cls is None:
        raise _unknown_method(name)
    values: dict[str, Any] = {}
    for position, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            if position >= len(cls.positional):
                form = ":".join((name, *cls.positional))
                raise ValueError(f"method {text!r} has too many values; its form is {form!r}")
            key, value = cls.positional[position], part
        values[key] = _literal(value)
    return _build(name, values)


def _build(name: str | None, fields: dict[str, Any]) -> Method:
    cls = METHODS.get(name or "")
    if cls is None:
        raise _unknown_method(name)
    types = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    for key, value in fields.items():
        if key not in types:
            raise ValueError(f"method {name!r} has no parameter {key!r}; it has: {', '.join(types) or 'none'}")
        fields[key] = _checked(name, key, value, types[key])
    return cls(**fields)


def _checked(name: str | None, key: str, value: Any, annotation: str) -> Any:
    if annotation.startswith("tuple"):
        return _listed(name, key, value, whole="int" in annotation)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if annotation.startswith("float") and number:
        return float(value)
    matches = {
        "float": False,
        "float | None": value is None,
        "int": number and value == int(value),
        "int | None": value is None or (number and value == int(value)),
        "bool": isinstance(value, bool),
    }.get(annotation, True)  # a choice, which the method checks itself
    if not matches:
        kind = {"float": "a number", "float | None": "a number", "bool": "true or false"}.get(
            annotation, "a whole number"
        )
        raise ValueError(f"parameter {key!r} of method {name!r} must be {kind}, got {value!r}")
    return int(value) if annotation.startswith("int") and value is not None else value


def _listed(name: str | None, key: str, value: Any, whole: bool) -> tuple[Any, ...]:
    """Whole numbers (`2x2` in short) or names (`attn/mlp` in short)."""
    parts = value.split("x" if whole else "/") if isinstance(value, str) else value
    if isinstance(parts, (list, tuple)):
        items = [_literal(part) if whole and isinstance(part, str) else part for part in parts]
        if all(isinstance(item, int if whole else str) and not isinstance(item, bool) for item in items):
            return tuple(items)
    kind = "whole numbers such as 2x2" if whole else "names such as attn/mlp"
    raise ValueError(f"parameter {key!r} of method {name!r} must be {kind}, got {value!r}")


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _unknown_method(name: str | None) -> ValueError:
    return ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
