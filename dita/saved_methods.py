"""The method of a pipeline, saved beside it or anywhere else, with what it was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from dita import miniature, models
from dita.caching.attachment import attachment_of
from dita.caching.origin import target_facts, with_call
from dita.caching.transformer_attachment import TransformerAttachment
from dita.methods import MadeFor, saved_method, write_method


def save_method(
    source: Any,
    path: str | os.PathLike[str],
    *,
    steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    found: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a method into a file, which is taken wherever a method is: `dita.enable(pipe, path)`, say.

    Args:
        source: a pipeline or transformer that dita is enabled on; its method is written, with what it is made for:
            model, revision, scheduler, type, and steps and size of the last call. Or a method, which is written alone.
        path: a file that ends in `.json`, or a folder, which gets a `method.json`. In a model's own folder it is what
            `from_pretrained` of the accelerated classes enables.
        steps: denoising steps of the plain pipeline, in place of the last call's.
        height, width: pixels, in place of the last call's.
        found: what else is to be known of it, such as `{"speedup": 2.9}`; JSON-ready.

    Returns the file's path. Raises `RuntimeError` where dita is not enabled, `ValueError` for what is no method, no
    number and no JSON, and `OSError` where the file cannot be written; what it held before is then still there.
    """
    if not hasattr(source, "components") and not isinstance(source, nn.Module):
        method, made_for = saved_method(source)
    else:
        attachment = attachment_of(source)
        if attachment is None:
            raise RuntimeError(f"dita is not enabled on this {type(source).__name__}: there is no method to save")
        method, made_for = attachment.method, with_call(_of_this(source), attachment.origin.called)
        if isinstance(attachment, TransformerAttachment):
            made_for = replace(made_for, steps=attachment.requested_steps)
    given = {"steps": steps, "height": height, "width": width}
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        made_for = replace(made_for or MadeFor(), **given)  # type: ignore[arg-type]  # which checks them
    return write_method(path, method, made_for, found)


def _of_this(target: Any) -> MadeFor:
    """What `target` is, with its weights where they have a name."""
    here = target_facts(target)
    if here.model is None:
        return here
    if models.is_bundled(Path(here.model).name) and miniature.folder(Path(here.model).name) == Path(here.model):
        here = replace(here, model=Path(here.model).name)
    try:
        revision = models.revision(str(here.model))
    except (ValueError, OSError):  # a folder that is no longer there
        return here
    return here if revision == "unknown" else replace(here, revision=revision)
