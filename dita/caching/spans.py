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
    """What is stored of one span. A block's state is one tensor, or FLUX's two streams.

    What is added between the blocks of a span, by the model (a ControlNet's residuals) or by hooks (PuLID), is no part
    of what the blocks made: it is taken out of what is stored, and a step that skips the blocks has its own.

    Attributes:
        entered: the state in front of the first block, in a step that needs it.
        behind: the state that the last block handed on.
        added: the sum of what was added behind blocks, None for nothing.
    """

    def __init__(self, span: Span, keeper: Keeper = AS_COMPUTED) -> None:
        super().__init__(keeper)
        self.span = span
        self.keep = False
        self.entered: Feature | None = None
        self.behind: Feature | None = None
        self.added: Feature | None = None

    def begin(self, state: Feature) -> None:
        """In front of the span's first block."""
        self.entered, self.behind, self.added = state, None, None

    def arrive(self, state: Feature) -> None:
        """In front of a later block: notes what was added since the one before."""
        if self.behind is None or _same(state, self.behind):
            return
        added = _sum(state, self.behind, -1)
        self.added = added if self.added is None else _sum(self.added, added, 1)

    def left(self, state: Feature) -> None:
        """Stores what the span's blocks made, where a later step needs it."""
        if self.span.delta:
            assert self.entered is not None
            state = _sum(state, self.entered, -1)
        self.put(state if self.added is None else _sum(state, self.added, -1))
        self.entered = self.behind = self.added = None

    def restored(self, state: Feature) -> Feature:
        """What leaves the span in a step that skips it, `state` being what arrives at its last block: what entered, and
        what was added between the blocks in this step."""
        out, entered, self.entered = self.output(), self.entered, None
        if self.span.delta:
            return _sum(state, out, self.span.delta)
        if entered is None or _same(state, entered):
            return out
        return _sum(out, _sum(state, entered, -1), 1)


class BlockSpans:
    """What one block does in this step.

    `opens`, `within`, `fills`: spans to store that begin with this block, those that go on with it, and those whose
    source it is. `skipped`: the block is passed by, and `opens` begins with it. `closes`: it is the last one of the
    span that is. `apart`: what is noted of states are copies, for hooks may write into the states themselves.
    """

    def __init__(self, apart: bool = False) -> None:
        self.opens: list[SpanStore] = []
        self.within: list[SpanStore] = []
        self.fills: list[SpanStore] = []
        self.apart = apart
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
    for store in spans.opens:
        store.begin(_noted(spans, state))
    return state if spans.closes is None else spans.closes.restored(state)


def _enter(spans: BlockSpans, state: Feature) -> None:
    for store in spans.opens:
        store.begin(_noted(spans, state))
    for store in spans.within:
        store.arrive(state)


def _leave(spans: BlockSpans, state: Feature) -> Feature:
    if spans.opens or spans.within:
        noted = _noted(spans, state)
        for store in (*spans.opens, *spans.within):
            store.behind = noted
        for store in spans.fills:
            store.left(noted)
    return state


def _noted(spans: BlockSpans, state: Feature) -> Feature:
    if not spans.apart:
        return state
    return tuple(part.clone() for part in state) if isinstance(state, tuple) else state.clone()


def _same(one: Feature, other: Feature) -> bool:
    """Whether these are the very same tensors."""
    if isinstance(one, tuple):
        return all(a is b for a, b in zip(one, other, strict=True))
    return one is other


def _sum(one: Feature, other: Feature, sign: int) -> Feature:
    if isinstance(one, tuple):
        return tuple(a + sign * b for a, b in zip(one, other, strict=True))
    assert isinstance(other, Tensor)
    return one + sign * other
