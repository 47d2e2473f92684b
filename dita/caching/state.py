"""What the sites of one sampling run remember: stored features, selected rows, collected scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dita.caching.forecast import AS_COMPUTED, Stored
from dita.caching.keeping import Keeper, Kept, near, parts, rows_of, tensor_of, with_each
from dita.caching.modulations import COMPUTED
from dita.caching.probe import Probe
from dita.caching.rows import gather_rows
from dita.caching.steady import IDLE
from dita.shapes import Kind

if TYPE_CHECKING:
    from dita.caching.live import LiveSelection
    from dita.caching.spans import BlockSpans
    from dita.merging.merger import Merger


class Slot(Stored):
    """One site's instruction for the current step, and its part of the feature store.

    Attributes:
        kind: what to do in this step.
        keep: in a full step, store the output `out`: before the gate, (B, N, C); FLUX's attention has one a stream.
        attention_alone: what is stored as `out` is the attention, or its share, as of `inner`: cached steps compute all
            else of the site, for all tokens (`Plan.attention_alone`).
        needed: a later step uses what is stored.
        keep_gate: store the gate on the output, too; `gate`: then applied to the stored output, in place of today's.
        tokens: how many tokens of a sample a partial step computes; `room`, (tokens, 0), says the same to compiled
            blocks, which take numbers for constants and sizes not.
        inner: stored attention output in front of the output projection or, where this is `folded`, what it adds to
            that projection, (B, N, C): FLUX single-stream blocks only, and only if `keep_inner`, where a later step
            computes tokens. Once it is `cut`, of the rows of this step alone, (B, k, C), and `later` holds those of the
            cached steps to come.
        rows: the rows to compute in this step, numbered over the flattened (B * N), ascending within a sample.
        ragged: ranks share the tokens, and this one may hold more of one sample's chosen tokens than of another's, or
            none: `rows` are then (K), those of all samples. `all_rows`: all ranks' rows, (B * k).
        live: what selects the tokens of a partial step inside that step, where they cannot be known before.
        merger: in a full step, what merges the tokens that the site computes; None computes them all.
        merged_modules: what of `attn` and `mlp` a site that holds both computes on merged tokens.
    """

    def __init__(self, keeper: Keeper = AS_COMPUTED) -> None:
        super().__init__(keeper)
        self.kind: Kind = Kind.FULL
        self.keep = False
        self.attention_alone = False
        self.needed = False
        self.keep_gate = False
        self.gate: Tensor | None = None
        self.tokens = 0
        self.room: Tensor | None = None
        self.inner: Kept | None = None
        self.later: list[Kept | None] = []
        self.cut = False
        self.folded = False
        self.keep_inner = False
        self.rows: Tensor | None = None
        self.all_rows: Tensor | None = None
        self.ragged = False
        self.live: LiveSelection | None = None
        self.merger: Merger | None = None
        self.merged_modules: frozenset[str] = frozenset()

    def count(self) -> int:
        """How many tokens of a sample this step computes."""
        return self.tokens if self.room is None else self.room.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """Everything that the slot holds in memory."""
        yield from super().tensors()
        for kept in (self.inner, *self.later, self.gate, self.live.age if self.live is not None else None):
            if kept is not None:
                yield from parts(kept)

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        super().replace(change)
        self.inner = None if self.inner is None else with_each(self.inner, change)
        self.later = [None if kept is None else with_each(kept, change) for kept in self.later]
        self.gate = None if self.gate is None else change(self.gate)
        if self.live is not None:
            self.live.age = None if self.live.age is None else change(self.live.age)
            self.rows = None if self.rows is None else change(self.rows)

    def used(self) -> Iterator[Tensor]:
        yield from super().used()
        if self.kind is Kind.PARTIAL and self.inner is not None:
            yield from parts(self.inner)

    def forget(self) -> None:
        super().forget()
        self.gate = None
        self.forget_inner()

    def forget_inner(self) -> None:
        """Frees what is stored of the attention."""
        self.inner = None
        self.later = []
        self.cut = False

    @property
    def keeps_attention(self) -> bool:
        """Whether a full step stores the attention, beside the output or in its place."""
        return self.keep and (self.keep_inner or self.attention_alone)

    def put_inner(self, attended: Tensor) -> None:
        """Stores what later steps need of the attention, (B, N, C), where one does."""
        self.inner = self.keeper.pack(attended) if self.keep_inner else None

    def cut_inner(self, coming: Sequence[Tensor | None]) -> None:
        """Frees what is stored of it but the rows of each cached step to come."""
        whole = self.inner
        assert whole is not None
        self.later = [None if rows is None else self.keeper.stow(rows_of(whole, rows, self.ragged)) for rows in coming]
        self.inner, self.cut = None, True

    def chosen(self, x: Tensor, rows: Tensor) -> Tensor:
        """The rows (B * k) of `x` (B, N, C): (B, k, C), or (1, K, C) where they are ragged."""
        return gather_rows(x, rows, self.ragged)

    def of_chosen(self, values: Tensor, rows: Tensor | None, x: Tensor) -> Tensor:
        """Of `values` (B, 1, C), one for each sample of `x` (B, N, C), what serves `chosen(x, rows)`; or all of `x`."""
        if rows is None or not self.ragged or values.shape[0] == 1:
            return values
        return gather_rows(values, rows // x.shape[1], True)

    def inner_rows(self, rows: Tensor | None) -> Tensor:
        """What stands for the attention of the rows (B * k) of this step, as `chosen` gives rows; or of all tokens."""
        if rows is None:
            attended = self.output()
            assert isinstance(attended, Tensor)
            return attended
        assert self.inner is not None
        inner = near(self.inner)
        return tensor_of(inner if self.cut else rows_of(inner, rows, self.ragged))


class BlockState:
    """The slots of one block by module name, and its probe.

    `cached`: some site of the block is not full now. `backend`: the attention backend of diffusers' dispatcher that
    dita makes effective here, None where the model's own code does. `spans`: what the block does for spans of blocks
    that are skipped, None for nothing. `matcher`: what matches the tokens that enter the block in this step, for itself
    and others; None where nothing is to be matched. `steady`: keeps keys and values of the text. `modulations`:
    those of cached steps. `settle`: selects tokens for the blocks before this one, and frees what they have stored for
    others; None where nothing is due. `entered`: how often the block ran in the present call, compiled graphs that hold
    more than it left out.
    """

    def __init__(self, modules: tuple[str, ...], backend: Any = None, keeper: Keeper = AS_COMPUTED) -> None:
        self.slots = {module: Slot(keeper) for module in modules}
        self.probe = Probe()
        self.cached = False
        self.backend = backend
        self.spans: BlockSpans | None = None
        self.matcher: Merger | None = None
        self.steady = IDLE
        self.modulations = COMPUTED
        self.settle: Callable[[], None] | None = None
        self.entered = 0

    def enter(self, tokens: Tensor) -> None:
        """At the head of the block: settles what the blocks before have stored, where this is due, and where asked to
        matches the image tokens that enter, (B, N, C), for merging. Around compiled blocks `AroundCall` settles; what
        is inside of a larger graph waits until the call has ended."""
        if not torch.compiler.is_compiling():
            self.entered += 1
            self.settle_before()
        if self.matcher is not None:
            self.matcher.match(tokens)

    def settle_before(self) -> None:
        """Settles what the blocks before have stored, where this is due."""
        if self.settle is not None:
            self.settle()

    def tensors(self) -> Iterator[Tensor]:
        """Everything that the block holds in memory, but the collected scores."""
        for slot in self.slots.values():
            yield from slot.tensors()

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Puts `change` of each tensor that the block holds, collected scores too, in its place."""
        for slot in self.slots.values():
            slot.replace(change)
        if self.probe.scores is not None:
            self.probe.scores = change(self.probe.scores)


def held_bytes(tensors: Iterator[Tensor]) -> int:
    """Bytes of memory that `tensors` keep alive, shared storage counted once."""
    storages: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
