"""Whose call a call of a transformer, or of a scheduler, is: read from the frames that lead to it."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from enum import Enum
from types import CodeType, FrameType
from typing import Any

_PIPELINES = ("DiffusionPipeline", "ModularPipeline")
_OF_PIPELINES: weakref.WeakKeyDictionary[CodeType, bool] = weakref.WeakKeyDictionary()


class Caller:
    """One call of a pipeline, `pipe`, beneath `frame`, while it lasts.

    What `callbacks` call is not its own, and neither is what another pipeline calls, or another thread.
    """

    def __init__(self, pipe: Any, frame: FrameType, callbacks: Iterable[Any] = ()) -> None:
        self.pipe = pipe
        self.frame: FrameType | None = frame
        self.thread = threading.get_ident()
        self._callbacks = frozenset(code for callback in callbacks if (code := _code(callback)) is not None)

    def close(self) -> None:
        """Lets go of the frame."""
        self.frame = None

    def _whose(self, pipelines: list[FrameType], codes: set[CodeType]) -> Whose:
        # the outermost is the pipeline's own call, whose locals, tensors among them, are left alone
        if any(_self(frame) is not self.pipe for frame in pipelines[:-1]):
            return Whose.FOREIGN
        return Whose.OWN if self._callbacks.isdisjoint(codes) else Whose.ASIDE


class Whose(Enum):
    """What the present call is to a pipeline's call: its own, that of one of its callbacks, or neither, such as another
    pipeline's, be it inside of a callback, or another thread's."""

    OWN = "own"
    ASIDE = "aside"
    FOREIGN = "foreign"


def calling(callers: Sequence[Caller]) -> Caller | None:
    """Which of `callers` the present call belongs to; None for none, such as another pipeline's in a callback."""
    caller, whose = _nearest(callers)
    return caller if whose is Whose.OWN else None


def whose_call(caller: Caller) -> Whose:
    """What the present call is to `caller`."""
    return _nearest([caller])[1]


def _nearest(callers: Sequence[Caller]) -> tuple[Caller | None, Whose]:
    """The innermost of `callers` that the present call is beneath."""
    thread = threading.get_ident()
    frames = {id(caller.frame): caller for caller in callers if caller.thread == thread}
    pipelines: list[FrameType] = []
    codes: set[CodeType] = set()
    frame: FrameType | None = sys._getframe(1) if frames else None
    while frame is not None:
        caller = frames.get(id(frame))
        if caller is not None:
            return caller, caller._whose(pipelines, codes)
        codes.add(frame.f_code)
        if _is_pipeline_call(frame):
            pipelines.append(frame)
        frame = frame.f_back
    return None, Whose.FOREIGN


def innermost_pipeline_call() -> tuple[int | None, set[int]]:
    """The number of the frame of the pipeline call that is nearest to the present one, None for none, and those of all
    pipeline calls that are going on in this thread."""
    found: list[int] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_pipeline_call(frame):
            found.append(id(frame))
        frame = frame.f_back
    return (found[0] if found else None), set(found)


def _is_pipeline_call(frame: FrameType) -> bool:
    code = frame.f_code
    if code.co_name != "__call__" or not code.co_argcount:
        return False
    known = _OF_PIPELINES.get(code)
    if known is None:
        known = _OF_PIPELINES[code] = any(cls.__name__ in _PIPELINES for cls in type(_self(frame)).__mro__)
    return known


def _self(frame: FrameType) -> Any:
    return frame.f_locals.get(frame.f_code.co_varnames[0])


def _code(callback: Any) -> CodeType | None:
    """The code that runs first when `callback` is called."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    if not (inspect.isfunction(callback) or inspect.ismethod(callback)):
        callback = type(callback).__call__
    return getattr(callback, "__code__", None)
