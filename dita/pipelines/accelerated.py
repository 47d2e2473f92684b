"""What turns a diffusers pipeline class into its accelerated twin: one mixin for all families."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from dita.caching.attachment import disable, enable
from dita.caching.origin import Origin, target_facts
from dita.caching.pipeline_attachment import attachment_of
from dita.methods import METHOD_FILE, MethodLike, Plain, SavedMethod, saved_method

_AS_ENABLED: Any = object()
_AS_FILED: Any = object()


class Accelerated:
    """Mixin in front of a diffusers pipeline class: `method=` when loading, and for one call.

    `from_pretrained(..., method=ToCa())` and `from_pipe(pipe, method=ToCa())` enable the method; the latter shares the
    weights of `pipe`, which goes on plain. A local folder that holds a `method.json` (`dita.save_method(pipe, folder)`)
    is loaded with that method where none is given. A call takes `method=` for itself alone, `None` for plain.
    `dita.enable`, `dita.disable` and `dita.summary` work as on any pipeline. Saved, it is an ordinary folder of the
    stock class.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Accelerated not in cls.__bases__:
            return
        stock = cls.__mro__[cls.__mro__.index(Accelerated) + 1]
        stock_call = stock.__call__

        @functools.wraps(stock_call)
        def __call__(self: Any, *args: Any, method: MethodLike | None = _AS_ENABLED, **call_kwargs: Any) -> Any:
            return self._call_with(method, stock_call, *args, **call_kwargs)

        cls.__call__ = __call__  # type: ignore[method-assign]
        cls._stock_class = stock  # type: ignore[attr-defined]
        cls._dita_calls_attachment = True  # type: ignore[attr-defined]  # `enable` need not swap this class

    @classmethod
    def from_pretrained(cls, *args: Any, method: MethodLike | None = _AS_FILED, **kwargs: Any) -> Any:
        """As the stock class; `method` (None: plain) is enabled on the loaded pipeline.

        Without `method`, that of a `method.json` in the model's local folder is; nothing of a hub is read for it.
        """
        if method is _AS_FILED:
            method = _filed(args[0] if args else kwargs.get("pretrained_model_name_or_path"))
        chosen = None if method is None else saved_method(method)  # refused before anything is loaded
        return _enabled(super().from_pretrained(*args, **kwargs), chosen)  # type: ignore[misc]

    @classmethod
    def from_pipe(cls, pipeline: Any, method: MethodLike | None = None, **kwargs: Any) -> Any:
        """A pipeline of this class that shares all components of `pipeline`, but those that `kwargs` names.

        No weight is copied or cast (diffusers' own `from_pipe` casts them, those of `pipeline` too).
        """
        expected, settings = cls._get_signature_keys(cls)  # type: ignore[attr-defined]
        given = {**{name: pipeline.config.get(name) for name in settings if name in pipeline.config}, **kwargs}
        arguments = {**pipeline.components, **given}
        pipe = cls(**{name: value for name, value in arguments.items() if name in expected or name in settings})
        pipe.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))  # type: ignore[attr-defined]
        if hasattr(pipeline, "default_sample_size"):
            pipe.default_sample_size = pipeline.default_sample_size  # type: ignore[attr-defined]
        return _enabled(pipe, method)

    def to_json_string(self) -> str:
        """The saved configuration, which names the stock class: everyone can load what this pipeline saves."""
        config = json.loads(super().to_json_string())  # type: ignore[misc]
        config["_class_name"] = self._stock_class.__name__  # type: ignore[attr-defined]
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def _call_with(self, method: MethodLike | None, stock_call: Any, *args: Any, **kwargs: Any) -> Any:
        attachment = attachment_of(self)
        if method is _AS_ENABLED:
            return attachment.call(stock_call, *args, **kwargs) if attachment else stock_call(self, *args, **kwargs)
        chosen = SavedMethod(Plain()) if method is None else saved_method(method)
        if attachment is None:
            enable(self, chosen)
            try:
                return attachment_of(self).call(stock_call, *args, **kwargs)  # type: ignore[union-attr]
            finally:
                disable(self)
        origin = Origin(chosen.made_for)
        origin.compare(chosen.method, target_facts(self), stacklevel=3)
        enabled = attachment.method, attachment.origin
        attachment.method, attachment.origin = chosen.method, origin
        try:
            return attachment.call(stock_call, *args, **kwargs)
        finally:
            attachment.method, attachment.origin = enabled


def _filed(source: Any) -> SavedMethod | None:
    """The method in a model's local folder, if there is one. The folder is the model, whatever it was called."""
    if not source or not isinstance(source, (str, os.PathLike)):
        return None
    file = Path(source) / METHOD_FILE
    if not file.is_file():
        return None
    method, made_for = saved_method(file)
    return SavedMethod(method, made_for and replace(made_for, model=None))


def _enabled(pipe: Any, method: MethodLike | None) -> Any:
    return pipe if method is None else enable(pipe, method)
