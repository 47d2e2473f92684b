"""Projections of the text that no timestep enters: computed in full steps, and kept for the cached ones that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dita.caching.class_swap import Forward

Made = TypeVar("Made")


class TextMemo:
    """What modules have made of the text of one call of a step, such as its keys and values.

    They are computed anew in full steps, as all that is stored is, and where the call has another text.

    Attributes:
        keep: this step stores what the modules make of it.
        use: this step takes what is stored, where there is any.
    """

    def __init__(self) -> None:
        self.keep = False
        self.use = False
        self._stored: dict[nn.Module, Any] = {}
        self._text: Tensor | None = None  # held, so that no other one takes its place in memory
        self._identity: tuple[Any, ...] = ()

    def instruct(self, text: Tensor | None, *, keep: bool, use: bool) -> None:
        """For the coming call, whose text is `text`: whether what it stores is needed later, and whether it may take
        what is stored."""
        self.keep = keep and text is not None
        self.use = use and text is not None and _identity(text) == self._identity
        if self.keep:
            assert text is not None
            self._text, self._identity = text, _identity(text)

    @property
    def active(self) -> bool:
        """Whether this step stores anything, or takes what is stored."""
        return self.keep or self.use

    def made_by(self, module: nn.Module, compute: Callable[[], Made]) -> Made:
        """What `module` makes of the text, a tensor or several: `compute()`, or what that was in a full step."""
        if self.use and module in self._stored:
            return self._stored[module]
        made = compute()
        if self.keep:
            self._stored[module] = made
        return made

    def tensors(self) -> Iterator[Tensor]:
        """Everything that it holds in memory; the text itself is the caller's."""
        for made in self._stored.values():
            yield from (made,) if isinstance(made, Tensor) else made

    def forget(self) -> None:
        """Frees what is stored."""
        self._stored.clear()
        self._text, self._identity = None, ()


IDLE = TextMemo()
"""Of modules that keep nothing."""


def text_forward(stock: Forward) -> Forward:
    """The stock forward of a module that projects the text, which carries a `TextMemo`; plain in compiled graphs."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return stock(self, *args, **kwargs)
        return self._dita.made_by(self, lambda: stock(self, *args, **kwargs))

    return forward


def _identity(text: Tensor) -> tuple[Any, ...]:
    """What stays the same while nothing else is at the place of `text`, and nothing was written into it.

    Inference tensors do not count writes.
    """
    version = None if text.is_inference() else text._version
    return version, text.device, text.dtype, text.data_ptr(), text.shape, text.stride()
