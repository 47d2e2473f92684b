"""The registry of model families: an adapter is the only code that knows one transformer's modules and geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from dita.caching.class_swap import MakeForward
from dita.caching.guidance import Parts
from dita.caching.state import BlockState
from dita.shapes import Shape


class UnsupportedModelError(TypeError):
    """No adapter knows this transformer."""


class Adapter(Protocol):
    """What the engine asks of a family."""

    family: str
    context_parallel: bool
    """Whether processes may share the tokens of its blocks."""
    halves: bool
    """Whether its pipelines put both halves of guidance into one call."""

    def handles(self, model: nn.Module) -> bool:
        """Whether `model` is a transformer of this family."""
        ...

    def shape(self, model: Any, inputs: dict[str, Any]) -> Shape:
        """The shape of one transformer call, all its samples counted as a batch. `inputs`: its arguments by name."""
        ...

    def parted(self, shape: Any, parts: Parts) -> Shape:
        """`shape`, whose batch counts all rows of a call, where these are the parts of guidance."""
        ...

    def tokens_in(self, inputs: dict[str, Any]) -> Tensor:
        """The latents of a transformer call."""
        ...

    def blocks(self, model: Any) -> list[tuple[str, int, nn.Module]]:
        """(stack, layer, block) in the order of execution."""
        ...

    def modules(self, stack: str) -> tuple[str, ...]:
        """Module names of the sites of a block of `stack`."""
        ...

    def forwards(self, stack: str, block: Any) -> list[tuple[nn.Module, MakeForward]]:
        """The modules of a block whose forward is replaced, and by what."""
        ...

    def bind(self, stack: str, block: Any, state: BlockState) -> None:
        """Gives `state`, or parts of it, to the modules that `forwards` names, as their attribute `_dita`."""
        ...

    def steady_modules(self, model: Any) -> list[nn.Module]:
        """What sees the steady inputs alone, and works for all blocks; no linear layers."""
        ...

    def steady_inputs(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Of a call's arguments, those that usually stay the same in all steps: the text, or the places of tokens."""
        ...

    def foreseen(self, model: Any, inputs: dict[str, Any], timesteps: Sequence[float]) -> Tensor | None:
        """What the modulations of all blocks are made of in steps at `timesteps`, 1000 to 0, where nothing else of the
        call's arguments changes: (S, B, C). None where blocks have no modulations to foresee, or none that can be."""
        ...

    def probed_score(self, score: str) -> str:
        """What the probes of this family's blocks are told to collect for a method's `score`."""
        ...

    def module_scores(self, stack: str, module: str, shape: Any, scores: Tensor) -> Tensor:
        """Of the scores (..., N) that a block's probe collected, those of the tokens of one of its modules."""
        ...

    def grid(self, model: Any, inputs: dict[str, Any]) -> tuple[int, ...] | None:
        """(height, width), of a video (frames, height, width), in image tokens; None where they form no grid.

        May wait for the device.
        """
        ...

    def image_start(self, module: str, shape: Any) -> int | None:
        """Where the image tokens begin among those of a module; None if it has no image tokens."""
        ...

    def attention_backend(self, model: nn.Module) -> Any:
        """The backend that the user chose and dita must make effective; None where the model's own code does.

        Raises `ValueError` for a choice that could take no effect.
        """
        ...


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of `model`. Raises `UnsupportedModelError` that lists the supported families."""
    from dita.caching.adapters.dit import DiTAdapter
    from dita.caching.adapters.flux import FluxAdapter
    from dita.caching.adapters.opensora import OpenSoraAdapter
    from dita.caching.adapters.pixart import PixArtAdapter

    adapters: tuple[Adapter, ...] = (FluxAdapter(), PixArtAdapter(), DiTAdapter(), OpenSoraAdapter())
    for adapter in adapters:
        if adapter.handles(model):
            return adapter
    supported = ", ".join(adapter.family for adapter in adapters)
    inner = ((name, one) for name, one in model.named_modules() if any(adapter.handles(one) for adapter in adapters))
    name, wrapped = next(inner, ("", None))
    hint = "" if wrapped is None else f"; it wraps a {type(wrapped).__name__}, which works in its place: .{name}"
    raise UnsupportedModelError(f"dita does not support {type(model).__name__}{hint}; supported families: {supported}")
