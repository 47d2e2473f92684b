"""The accelerations by name: each method is one frozen dataclass that turns a model's shape into a plan."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from dita.methods.deltadit import DeltaDiT
from dita.methods.duca import DuCa
from dita.methods.fora import FORA
from dita.methods.full_steps import CarriedOverWarning
from dita.methods.method import Method, NothingToSkipWarning, short
from dita.methods.method_file import (
    METHOD_FILE,
    MadeFor,
    MadeForAnotherWarning,
    SavedMethod,
    read_method,
    warn_of_another,
    write_method,
)
from dita.methods.pab import PAB
from dita.methods.parameters import parameters_of, read
from dita.methods.plain import FewerSteps, Plain
from dita.methods.taylorseer import LoweredOrderWarning, TaylorSeer
from dita.methods.tgate import TGate
from dita.methods.toca import FEATURE_SCORES, LIVE_SCORES, PROBED_SCORES, SCORES, Score, ToCa
from dita.methods.tome import MERGED_MODULES, Composition, MergingRefusedWarning, ToMe
from dita.methods.whole_call import WholeCall
from dita.values import choice, field_hints, known_name, nearest, shown

__all__ = [
    "FEATURE_SCORES",
    "FORA",
    "LIVE_SCORES",
    "MERGED_MODULES",
    "METHODS",
    "METHOD_FILE",
    "PAB",
    "PROBED_SCORES",
    "SCORES",
    "CarriedOverWarning",
    "Composition",
    "DeltaDiT",
    "DuCa",
    "FewerSteps",
    "LoweredOrderWarning",
    "MadeFor",
    "MadeForAnotherWarning",
    "MergingRefusedWarning",
    "Method",
    "MethodLike",
    "NothingToSkipWarning",
    "Plain",
    "SavedMethod",
    "Score",
    "TGate",
    "TaylorSeer",
    "ToCa",
    "ToMe",
    "WholeCall",
    "as_method",
    "as_methods",
    "from_json",
    "named_parameters",
    "names_a_file",
    "parse",
    "read_method",
    "saved_method",
    "saved_methods",
    "short",
    "warn_of_another",
    "write_method",
]

_ALL: tuple[type[Method], ...] = (
    Plain,
    FewerSteps,
    FORA,
    ToCa,
    DuCa,
    TaylorSeer,
    WholeCall,
    DeltaDiT,
    TGate,
    PAB,
    ToMe,
)
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in _ALL}
"""Every method by the name that the command line and JSON use."""


OneMethod: TypeAlias = Method | SavedMethod | str | os.PathLike[str] | Mapping[str, Any]
MethodLike: TypeAlias = OneMethod | Sequence[OneMethod]
"""A method, its short form, the path of its file, its data in JSON, or several that work together.

A text is a path where it ends in `.json`, and where it names a folder that holds a `method.json`.
"""


def as_method(given: MethodLike, *, files: bool = True) -> Method:
    """The method that `given` stands for. Raises `ValueError` where it is none, or several that cannot be together.

    files: whether paths are read. False refuses them, for what comes from strangers.
    """
    return saved_method(given, files=files).method


def saved_method(given: MethodLike, *, files: bool = True) -> SavedMethod:
    """The method that `given` stands for, and what it was made for where a file says so. Raises as `as_method` does."""
    if isinstance(given, SavedMethod):
        return given
    if isinstance(given, Method):
        return SavedMethod(given)
    if isinstance(given, Mapping):
        return read_method(given)
    if isinstance(given, str) and not (files and names_a_file(given)):
        return SavedMethod(parse(given))
    if isinstance(given, (str, os.PathLike)) and files:
        return read_method(given.strip() if isinstance(given, str) else given)
    if not isinstance(given, Sequence):
        raise ValueError(
            "method must be a dita method or its short form such as 'toca:4:0.9', got"
            f" {shown(given)}{_class_hint(given)}"
        )
    parts = [saved_method(one, files=files) for one in cast(Sequence[OneMethod], given)]
    made_for = next((part.made_for for part in parts if part.made_for is not None), None)
    methods = tuple(part.method for part in parts if part.method != Plain())
    return SavedMethod(methods[0] if len(methods) == 1 else Composition(methods), made_for)


def names_a_file(text: str) -> bool:
    """Whether a text is the path of a method's file, or of a folder that holds one.

    A short form is none, and the disk is not looked at for it.
    """
    text = text.strip()
    if text.lower().endswith(".json"):
        return True
    head = re.split(r"[:+]", text, maxsplit=1)[0]
    if not text or head.lower() in METHODS:
        return False
    if "/" in head or os.sep in head:
        return True
    return os.path.isfile(os.path.join(os.path.expanduser(text), METHOD_FILE))


def as_methods(given: Sequence[MethodLike]) -> list[Method]:
    """The methods of a list. Raises `ValueError` for a single one, and as `as_method` does."""
    return [one.method for one in saved_methods(given)]


def saved_methods(given: Sequence[MethodLike]) -> list[SavedMethod]:
    """The methods of a list, each with what it was made for. Raises as `as_methods` does."""
    if isinstance(given, (str, Method, SavedMethod)) or not isinstance(given, Sequence):
        raise ValueError(f"methods must be a list such as ['toca:4:0.9', 'fora:3'], got {shown(given)}")
    return [saved_method(one) for one in given]


def _class_hint(given: object) -> str:
    """What to write for a method's class in place of a method."""
    return f"; did you mean {given.__name__}()?" if isinstance(given, type) and issubclass(given, Method) else ""


def from_json(data: object) -> Method:
    """The method that `Method.as_json` wrote. Raises `ValueError` for unknown names, fields or values."""
    if not isinstance(data, dict):
        raise ValueError(f"a method in JSON is an object such as {json.dumps(FORA().as_json())}, got {shown(data)}")
    fields = dict(data)
    if fields.get("method") == Composition.name:
        parts = fields.get("methods")
        if not isinstance(parts, (list, tuple)) or set(fields) > {"method", "methods"}:
            raise ValueError(f'a composition in JSON has a list "methods" and nothing else, got {shown(data)}')
        return Composition(tuple(from_json(part) for part in parts))
    return _build(fields.pop("method", None), fields)


def parse(text: str) -> Method:
    """A method from its short form: `plain`, `steps:0.5`, `fora:3`, `toca:4:0.9:random`, `toca:cycle=4:score=norm`.

    `tome:0.5+toca:4:0.9` are two that work together. Raises `ValueError` that names what is wrong and what is allowed.
    """
    if not isinstance(text, str):
        raise ValueError(f"the short form of a method is a text such as 'toca:4:0.9', got {shown(text)}")
    together = re.split(r"\+(?=[a-zA-Z])", text)
    if len(together) > 1:
        return as_method(together)
    name, values = _named_values(text)
    return _build(name, values)


def named_parameters(text: str) -> dict[str, Any]:
    """The parameters that a short form gives, by name; several methods' together. Raises `ValueError` as `parse`."""
    parts = [_named_values(part)[1] for part in re.split(r"\+(?=[a-zA-Z])", text)]
    return {key: value for values in parts for key, value in values.items()}


def _named_values(text: str) -> tuple[str, dict[str, Any]]:
    """The method's name and the values of its parameters, in a short form of one method."""
    given, *parts = text.strip().split(":")
    name = choice("method", given, METHODS)
    cls = METHODS[name]
    values: dict[str, Any] = {}
    for position, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            if position >= len(cls.positional):
                form = ":".join((name, *cls.positional))
                raise ValueError(f"method {text!r} has too many values; its form is {form!r}")
            key, value = cls.positional[position], part
        key = known_name(key, (*_SHORT_FOR, *field_hints(cls))) or key
        key = _SHORT_FOR.get(key, key)
        if key in values:
            raise ValueError(f"method {text!r} gives {key!r} twice: {short(values[key])} and {value}")
        values[key] = value if key in _AS_TEXT else _literal(value)
    return name, values


def _build(name: object, fields: dict[str, Any]) -> Method:
    cls = METHODS[choice("method", name, METHODS)]
    known = [one.name for one in parameters_of(cls)]
    for key, value in fields.items():
        if key not in known:
            near = nearest(key, known)
            raise ValueError(
                f"method {name!r} has no parameter {key!r}; it has: {', '.join(known) or 'none'}"
                + (f"; did you mean {near!r}?" if near else "")
            )
        fields[key] = read(cls, key, value)
    return cls(**fields)


_AS_TEXT = ("full_steps", "ratios")  # lists, also of a single number
_SHORT_FOR = {short_name: field for field, short_name in Method.short_names.items()}


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
