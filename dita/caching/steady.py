"""What no timestep enters, such as keys and values of the text: computed in full steps, kept for the cached ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dita.caching.class_swap import Forward
from dita.caching.linear_parts import may_change_by_itself

Made = TypeVar("Made")


class SteadyMemo:
    """What modules have made of the steady inputs of one call of a step, those that stay the same: the text, and the
    places of tokens.

    They are computed anew in full steps, as all that is stored is, where the call has other inputs, where gradients are
    recorded, and by modules that may change by themselves, such as those with a LoRA, whose scale is a setting.

    Attributes:
        keep: this step stores what the modules make of them.
        use: this step takes what is stored, where there is any.
    """

    def __init__(self) -> None:
        self.keep = False
        self.use = False
        self._stored: dict[nn.Module, Any] = {}
        self._inputs: tuple[Tensor, ...] = ()  # held, so that no others take their places in memory
        self._identity: tuple[Any, ...] = ()

    def instruct(self, inputs: tuple[Tensor, ...], *, keep: bool, use: bool) -> None:
        """For the coming call, whose steady inputs are `inputs`: whether what it stores is needed later, and whether it
        may take what is stored. No inputs: neither."""
        identity = tuple(map(_identity, inputs))
        self.keep = keep and bool(inputs)
        self.use = use and bool(inputs) and identity == self._identity
        if self.keep:
            self._inputs, self._identity = inputs, identity

    @property
    def active(self) -> bool:
        """Whether this step stores anything, or takes what is stored."""
        return self.keep or self.use

    def made_by(self, module: nn.Module, compute: Callable[[], Made]) -> Made:
        """What `module` makes of the inputs, a tensor or several: `compute()`, or what that was in a full step."""
        if self.active and (self._recorded(module) or may_change_by_itself(module)):
            self._stored.pop(module, None)
            return compute()
        if self.use and module in self._stored:
            return self._stored[module]
        made = compute()
        if self.keep:
            self._stored[module] = made
        return made

    def _recorded(self, module: nn.Module) -> bool:
        """Whether gradients flow to the inputs, or to what the module holds."""
        held = (*self._inputs, *module.parameters()) if torch.is_grad_enabled() else ()
        return any(tensor.requires_grad for tensor in held)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that it holds in memory; the inputs themselves are the caller's."""
        for made in self._stored.values():
            yield from (made,) if isinstance(made, Tensor) else made

    def forget(self) -> None:
        """Frees what is stored."""
        self._stored.clear()
        self._inputs, self._identity = (), ()


IDLE = SteadyMemo()
"""Of modules that keep nothing."""


def steady_forward(stock: Forward) -> Forward:
    """The stock forward of a module that sees steady inputs alone, and carries a `SteadyMemo`; plain in compiled
    graphs."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return stock(self, *args, **kwargs)
        return self._dita.made_by(self, lambda: stock(self, *args, **kwargs))

    return forward


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """What stays the same while nothing else is at the place of `tensor`, and nothing was written into it.

    Inference tensors do not count writes.
    """
    version = None if tensor.is_inference() else tensor._version
    return version, tensor.requires_grad, tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride()
