"""Spans of blocks that a step passes by as one: what a block does at their ends."""

from __future__ import annotations

import functools
import types
from typing import Any

from torch import Tensor

from dita.caching.class_swap import Forward, MakeForward
from dita.caching.forecast import AS_COMPUTED, Feature, Stored
from dita.caching.keeping import Keeper
from dita.plan import Span


class SpanStore(Stored):
    """What is stored of one span. A block's state is one tensor, or FLUX's two streams."""

    def __init__(self, span: Span, keeper: Keeper = AS_COMPUTED) -> None:
        super().__init__(keeper)
        self.span = span
        self.keep = False
        self.entered: Feature | None = None

    def left(self, state: Feature) -> None:
        """Stores what the span's blocks made, where a later step needs it."""
        if not self.span.delta:
            self.put(state)
            return
        assert self.entered is not None
        self.put(_sum(state, self.entered, -1))
        self.entered = None

    def restored(self, state: Feature) -> Feature:
        """What leaves the span in a step that skips it, `state` being what enters."""
        out = self.output()
        return _sum(state, out, self.span.delta) if self.span.delta else out


class BlockSpans:
    """What one block does in this step.

    `opens`, `fills`: spans to store that begin with this block, and those whose source it is. `skipped`: the block is
    passed by. `closes`: it is the last one of the span that is.
    """

    def __init__(self) -> None:
        self.opens: list[SpanStore] = []
        self.fills: list[SpanStore] = []
        self.skipped = False
        self.closes: SpanStore | None = None


def in_spans(make_forward: MakeForward) -> MakeForward:
    """A block's forward of one stream, (hidden states, ...) -> hidden states, as part of spans."""

    @functools.wraps(make_forward)
    def spanning(stock: Forward) -> Forward:
        inner = make_forward(stock)

        def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            spans: BlockSpans | None = self._dita.spans
            if spans is None:
                return inner(self, hidden_states, *args, **kwargs)
            if spans.skipped:
                return _passed(spans, hidden_states)
            _enter(spans, hidden_states)
            return _leave(spans, inner(self, hidden_states, *args, **kwargs))

        return _with_code_of_its_own(forward, make_forward.__name__)

    return spanning


def in_spans_of_two_streams(make_forward: MakeForward) -> MakeForward:
    """As `in_spans` for (hidden states, text, ...) -> (text, hidden states)."""

    @functools.wraps(make_forward)
    def spanning(stock: Forward) -> Forward:
        inner = make_forward(stock)

        def forward(self: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            spans: BlockSpans | None = self._dita.spans
            if spans is None:
                return inner(self, hidden_states, encoder_hidden_states, *args, **kwargs)
            state = (encoder_hidden_states, hidden_states)
            if spans.skipped:
                return _passed(spans, state)
            _enter(spans, state)
            return _leave(spans, inner(self, hidden_states, encoder_hidden_states, *args, **kwargs))

        return _with_code_of_its_own(forward, make_forward.__name__)

    return spanning


def _with_code_of_its_own(forward: Forward, name: str) -> Forward:
    """`forward` with a copy of its code: torch.compile counts the graphs of a code object, whatever class runs it, and
    gives up after a few."""
    assert isinstance(forward, types.FunctionType)
    code = forward.__code__.replace(co_name=name)
    return types.FunctionType(code, forward.__globals__, name, forward.__defaults__, forward.__closure__)


def _passed(spans: BlockSpans, state: Feature) -> Feature:
    return state if spans.closes is None else spans.closes.restored(state)


def _enter(spans: BlockSpans, state: Feature) -> None:
    for store in spans.opens:
        store.entered = state


def _leave(spans: BlockSpans, state: Feature) -> Feature:
    for store in spans.fills:
        store.left(state)
    return state


def _sum(one: Feature, other: Feature, sign: int) -> Feature:
    if isinstance(one, tuple):
        return tuple(a + sign * b for a, b in zip(one, other, strict=True))
    assert isinstance(other, Tensor)
    return one + sign * other
