"""How a pipeline is told what to draw: by prompts, or by the classes that they name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from dita.values import shown

LISTED = 3  # names in a message


def check_pipeline(pipe: object) -> None:
    """Raises `ValueError` for what is no pipeline, such as a name, a class or a bare transformer."""
    if isinstance(pipe, type) or not callable(pipe) or hasattr(pipe, "forward"):
        raise ValueError(f"pictures are made by a diffusers pipeline, got {shown(pipe)}")


def asking(pipe: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call for `prompts`: `prompt`, or of a class-conditional pipeline (DiT) `class_labels`.

    Raises `ValueError` for a prompt that is not the name of a class of such a pipeline.
    """
    if not takes_classes(pipe):
        return {"prompt": list(prompts)}
    check_classes(type(pipe).__name__, pipe.labels, prompts)
    return {"class_labels": pipe.get_label_ids(list(prompts))}


def can_be_asked(pipe: Any) -> bool:
    """Whether a pipeline takes prompts, or the names of classes."""
    return takes_classes(pipe) or "prompt" in inspect.signature(pipe.__call__).parameters


def takes_classes(pipe: Any) -> bool:
    """Whether a pipeline is told a class (DiT), not a prompt."""
    return hasattr(pipe, "get_label_ids")


def class_names(id2label: dict[str, str]) -> list[str]:
    """All names of the classes in the `id2label` of a pipeline's `model_index.json`: a class may have several.

    Read as diffusers' `DiTPipeline` reads them: with commas between.
    """
    return [name.strip() for names in id2label.values() for name in names.split(",")]


def check_classes(model: str, names: Iterable[str], prompts: Iterable[str]) -> None:
    """Raises `ValueError` for the first of `prompts` that is not among `names`, with the most similar ones."""
    known = dict.fromkeys(names)
    unknown = next((prompt for prompt in prompts if prompt not in known), None)
    if unknown is None:
        return
    by_lower = {name.lower(): name for name in known}
    near = [by_lower[name] for name in difflib.get_close_matches(unknown.lower(), by_lower, LISTED)]
    listed = ", ".join(repr(name) for name in (near or list(known)[:LISTED])) or "none"
    raise ValueError(
        f"{model} draws classes, and {unknown!r} is the name of none; it knows {len(known)},"
        f" {'near it' if near else 'such as'} {listed}"
    )
