"""Methods and the form of their stored features, as options give them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from dita.cli.options import option_of
from dita.methods import (
    METHODS,
    Composition,
    FewerSteps,
    Method,
    Plain,
    SavedMethod,
    from_json,
    named_parameters,
    names_a_file,
    saved_method,
)
from dita.methods.method_file import read_fields
from dita.stores import Store, parse_bytes
from dita.values import field_hints

_STORE_OPTIONS = ("--store-dtype", "--store-device", "--max-cache")


def methods_of(text: str) -> list[Method | SavedMethod]:
    """The methods of a list with commas between, those of a file with what they were made for.

    Raises `ValueError` as `saved_method`, and where there are none.
    """
    read = [saved_method(part.strip()) for part in text.split(",") if part.strip()]
    found = [one.method if one.made_for is None else one for one in read]
    if not found:
        raise ValueError(f"--methods is empty; give names or short forms of {', '.join(METHODS)}, with commas between")
    return found


def changed(text: str, changes: dict[str, Any]) -> SavedMethod:
    """The method that `text` stands for with the parameters that options gave, which take the place of its own.

    Raises `ValueError` for one that it does not have, and for one that two methods have. Warns of a value that `text`
    gives and an option replaces.
    """
    method, made_for = saved_method(text.strip())
    written = read_fields(text.strip()) if names_a_file(text) else named_parameters(text)
    parts = list(method.methods) if isinstance(method, Composition) else [method]
    for name, value in changes.items():
        owners = [n for n, part in enumerate(parts) if name in field_hints(type(part))]
        if not owners:
            has = ", ".join(option_of(key) for part in parts for key in field_hints(type(part))) or "no parameters"
            raise ValueError(f"option --{name} does not belong to method {method.name!r}, which has {has}")
        if len(owners) > 1:
            raise ValueError(f"both methods of {text!r} have --{name}: write it into the short form, as {name}=VALUE")
        before, part = written.get(name), parts[owners[0]]
        parts[owners[0]] = from_json({**part.as_json(), name: value})
        if before is not None and getattr(parts[owners[0]], name) != getattr(part, name):
            warnings.warn(f"--{name} {value} takes the place of {before} in {text!r}", stacklevel=2)
    return SavedMethod(parts[0] if len(parts) == 1 else Composition(tuple(parts)), made_for)


def store_of(dtype: str | None, device: str | None, most: str | None) -> Store:
    """How features are kept, from options."""
    return Store(dtype, device, None if most is None else parse_bytes(most))


def say_what_is_not_kept(store: Store, methods: Sequence[Method], device: str | None = None) -> None:
    """Warns of options for stored features where there are none, or where they lie already.

    device: of the model; None where that is not known.
    """
    given = [
        option for option, value in zip(_STORE_OPTIONS, dataclasses.astuple(store), strict=True) if value is not None
    ]
    if given and methods and all(isinstance(method.caching, (Plain, FewerSteps)) for method in methods):
        labels = ", ".join(method.label() for method in methods)
        warnings.warn(f"{given[0]} has no effect: {labels} keeps no features", stacklevel=2)
    elif store.device is not None and device is not None and device.partition(":")[0] == "cpu":
        warnings.warn("--store-device has no effect: the model is on the cpu, and so are its features", stacklevel=2)
