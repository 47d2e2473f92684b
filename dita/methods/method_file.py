"""A method in a file: the method itself, what it was made for, and what was found of it. `tuned/method.json`, say."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from dita.methods.method import Method
from dita.output_files import write_file
from dita.values import check_fields, nearest, shown, whole
from dita.version import __version__

METHOD_FILE = "method.json"
"""The name of a method's file in a folder, of a tuning or of a model."""

FORMAT = 1
"""Of the files that are written, and the newest that is read."""

_EXAMPLE = '{"method": "fora", "cycle": 3}'
_KEYS = ("format", "method", "made_for", "found")


class MadeForAnotherWarning(UserWarning):
    """A method is used with another model, scheduler, size, type or number of steps than its file was made for."""


@dataclass(frozen=True)
class MadeFor:
    """The pipeline and the call that a method was made for. What is not known is None, and compared with nothing.

    Fields:
        model: a bundled name, a hub id, or the path of a folder.
        revision: which weights these were, as `dita.models.revision`.
        steps: denoising steps of the plain pipeline.
        scheduler: its class, and behind a colon a digest of the settings that differ from the class's own defaults.
        height, width: of a picture, in pixels.
        dtype: of the transformer, such as `bfloat16`.
        device: its kind: `cpu`, `cuda` ...
        dita: the version of dita that made it.
    """

    model: str | None = None
    revision: str | None = None
    steps: int | None = None
    scheduler: str | None = None
    height: int | None = None
    width: int | None = None
    dtype: str | None = None
    device: str | None = None
    dita: str | None = None

    def __post_init__(self) -> None:
        """Checks every field. Raises `ValueError` that names it."""
        check_fields(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("steps", "height", "width"):
                if value is not None:
                    whole(f"{field.name!r} of made_for", value, 1)
            elif not (value is None or (isinstance(value, str) and value)):
                raise ValueError(f"{field.name!r} of made_for must be a text, got {shown(value)}")

    def as_json(self) -> dict[str, Any]:
        """What is known, as JSON-ready data."""
        known = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in known if value is not None}

    def differences(self, here: MadeFor) -> dict[str, str]:
        """In what `here` is another, in words: by `model`, `scheduler`, `dtype`, `steps` and `size`.

        A model in a folder is known by the folder's name. Weights, device and version are not compared.
        """
        found: dict[str, str] = {}
        if _name(self.model) != _name(here.model) and self.model and here.model:
            found["model"] = f"model {_called(self.model)}, here {_called(here.model)}"
        if self.scheduler and here.scheduler and self.scheduler != here.scheduler:
            (made, _, _), (used, _, _) = self.scheduler.partition(":"), here.scheduler.partition(":")
            found["scheduler"] = f"scheduler {made}, here {used if used != made else 'with other settings'}"
        if self.dtype and here.dtype and self.dtype != here.dtype:
            found["dtype"] = f"{self.dtype}, here {here.dtype}"
        if self.steps and here.steps and self.steps != here.steps:
            found["steps"] = f"{self.steps} steps, here {here.steps}"
        if any(one and two and one != two for one, two in ((self.height, here.height), (self.width, here.width))):
            found["size"] = self._size_beside(here)
        return found

    def _size_beside(self, here: MadeFor) -> str:
        """Both sizes, or the side that differs where not all of the others are known."""
        if self.height and self.width and here.height and here.width:
            return f"{self.height}x{self.width} pixels, here {here.height}x{here.width}"
        side = "height" if self.height and here.height else "width"
        return f"{side} {getattr(self, side)} pixels, here {getattr(here, side)}"

    def origin(self, here: MadeFor) -> str:
        """Where it was made, in words, as far as that is not here: the device, and the version of dita."""
        device = f"on {self.device}" if self.device and here.device and self.device != here.device else ""
        version = f"with dita {self.dita}" if self.dita and self.dita != __version__ else ""
        return ", ".join(filter(None, (device, version)))


class SavedMethod(NamedTuple):
    """A method, and what it was made for where its file says so. It is taken wherever a method is."""

    method: Method
    made_for: MadeFor | None = None


def read_method(source: str | os.PathLike[str] | Mapping[str, Any]) -> SavedMethod:
    """The method in a file, in a folder's `method.json`, or in such a file's data; and what it was made for.

    Read are the data that `write_method` writes, and `Method.as_json` alone, for which nothing is known. Raises
    `ValueError`, in one line, for a file that is not there, is not JSON, is of a newer format, or holds something else.
    """
    if isinstance(source, Mapping):
        return _from_data(source)
    path = Path(source).expanduser()
    try:
        return _from_data(_data(path, os.fspath(source)))
    except _UnreadableError as error:
        raise ValueError(str(error)) from None
    except ValueError as error:
        raise ValueError(f"method file {os.fspath(source)!r}: {error}") from None


def read_fields(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The method's fields as a file gives them, without those that it leaves out. Raises as `read_method` does."""
    read_method(source)
    data = _data(Path(source).expanduser(), os.fspath(source))
    return dict(data["method"]) if isinstance(data["method"], dict) else data


def write_method(
    path: str | os.PathLike[str],
    method: Method,
    made_for: MadeFor | None = None,
    found: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a method so that `read_method` reads it back: the whole file, or nothing. Returns the file's path.

    Args:
        path: a file that ends in `.json`, or a folder, which gets a `method.json`; folders that are missing are made.
        method: the method.
        made_for: what it was made for.
        found: what else is to be known of it, such as `{"speedup": 2.9}`; JSON-ready, and read by nobody here.

    Raises `ValueError` for what is no method or no JSON, and `OSError` where it cannot be written.
    """
    if not isinstance(method, Method):
        raise ValueError(f"method must be a dita method, got {shown(method)}")
    data: dict[str, Any] = {"format": FORMAT, "method": method.as_json()}
    if made_for is not None:
        data["made_for"] = made_for.as_json()
    if found is not None:
        data["found"] = dict(found)
    try:
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"found must be JSON: {error}") from None
    file = Path(path).expanduser()
    if file.suffix.lower() != ".json" or file.is_dir():
        file = file / METHOD_FILE
    write_file(file, f"{text}\n".encode())
    return file


def warn_of_another(
    saved: SavedMethod, here: MadeFor, told: set[str] | None = None, *, skip: Iterable[str] = (), stacklevel: int = 2
) -> None:
    """Warns once, by `MadeForAnotherWarning`, of everything in which `here` is not what a method was made for.

    Args:
        told: of what was warned already, which is added to.
        skip: what is not compared, as the keys of `MadeFor.differences`.
    """
    method, made_for = saved
    if made_for is None:
        return
    told = set() if told is None else told
    found = {name: words for name, words in made_for.differences(here).items() if name not in {*told, *skip}}
    told.update(found)
    if found:
        origin = made_for.origin(here)
        warnings.warn(
            f"{method.label()} was made for something else{origin and f' ({origin})'}: {'; '.join(found.values())}",
            MadeForAnotherWarning,
            stacklevel=stacklevel + 1,
        )


class _UnreadableError(ValueError):
    """A file that gives no data; its message names the file."""


def _data(path: Path, name: str) -> dict[str, Any]:
    """The object in a method file."""
    if path.is_dir():
        if not (path / METHOD_FILE).is_file():
            raise _UnreadableError(f"method file {name!r} is a folder without a {METHOD_FILE}; give a file")
        path = path / METHOD_FILE
    if not os.path.exists(path):
        raise _UnreadableError(f"method file {name!r} does not exist; give one that holds {_EXAMPLE}, or a short form")
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise _UnreadableError(f"method file {name!r} is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise _UnreadableError(f"method file {name!r} is not JSON: it is no text in UTF-8") from None
    except RecursionError:
        raise _UnreadableError(f"method file {name!r} is nested too deeply") from None
    except OSError as error:
        raise _UnreadableError(f"method file {name!r} cannot be read: {error.strerror or error}") from None
    if not isinstance(data, dict):
        raise _UnreadableError(f"method file {name!r} must hold an object such as {_EXAMPLE}, got {shown(data)}")
    return data


def _from_data(data: Mapping[str, Any]) -> SavedMethod:
    from dita.methods import from_json  # which knows all methods, and imports this module

    if "format" not in data and not isinstance(data.get("method"), Mapping):
        return SavedMethod(from_json(dict(data)))
    if "format" not in data:
        raise ValueError(f'a method with its "made_for" begins with "format": {FORMAT}, got {shown(dict(data))}')
    version = whole("format", data["format"], 1)
    if version > FORMAT:
        raise ValueError(f"format {version} is newer than dita {__version__}, which reads {FORMAT}: update dita")
    _check_keys("a method file", data, _KEYS)
    method = from_json(data.get("method"))
    made_for, found = data.get("made_for"), data.get("found")
    for name, part in (("made_for", made_for), ("found", found)):
        if part is not None and not isinstance(part, Mapping):
            raise ValueError(f"{name!r} must be an object, got {shown(part)}")
    if made_for is None:
        return SavedMethod(method)
    _check_keys("made_for", made_for, [field.name for field in fields(MadeFor)])
    return SavedMethod(method, MadeFor(**made_for))


def _check_keys(what: str, data: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises `ValueError` for a name that is not known."""
    names = tuple(known)
    for key in data:
        if key not in names:
            near = nearest(key, names)
            raise ValueError(
                f"{what} has no {key!r}; it has: {', '.join(names)}" + (f"; did you mean {near!r}?" if near else "")
            )


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name may stand twice."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"the JSON of a method gives {twice[0]!r} twice")
    return dict(pairs)


def _called(model: str) -> str:
    """A model in a message: a folder without the way to it."""
    return PurePath(model).name if PurePath(model).is_absolute() else model


def _name(model: str | None) -> str:
    """What a model is called wherever it lies: the last part of its path or hub id."""
    return PurePath(model).name.lower() if model else ""
