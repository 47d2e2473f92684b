"""How a pipeline is told what to draw: by prompts, or by the classes that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def asking(pipe: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call for `prompts`: `prompt`, or of a class-conditional pipeline (DiT) `class_labels`.

    Raises `ValueError` for a prompt that is not the name of a class of such a pipeline.
    """
    if not hasattr(pipe, "get_label_ids"):
        return {"prompt": list(prompts)}
    unknown = [prompt for prompt in prompts if prompt not in pipe.labels]
    if unknown:
        known = ", ".join(repr(name) for name in list(pipe.labels)[:3]) or "none"
        raise ValueError(
            f"{type(pipe).__name__} draws classes, and {unknown[0]!r} is the name of none; it knows {len(pipe.labels)},"
            f" such as {known}"
        )
    return {"class_labels": pipe.get_label_ids(list(prompts))}
