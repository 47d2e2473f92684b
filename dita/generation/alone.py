"""Samples of a batch computed as if each were alone, so that no bit of a picture depends on what it was batched with.

Libraries choose another kernel, with another order of additions, for another number of rows: on a CPU the products of
single rows (modulation, time and pooled embeddings), convolutions, and the last few numbers of a vectorised function
come out differently in batches of 1, 2 and 4. The rest of a transformer works on each sample by itself anyway.
Here the modules concerned take the rows of a batch one after another, so that every product has the same sizes
whatever the batch: same sizes, same kernel, same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models import activations
from torch import Tensor, nn

from dita.caching.class_swap import Forward, restore, swap

SENSITIVE: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Tanh,
    activations.GELU,
    activations.GEGLU,
    activations.SwiGLU,
    activations.ApproximateGELU,
)
"""Modules whose results depend, in their last bits, on how many rows they are given at once."""


@contextmanager
def samples_alone(pipe: Any) -> Iterator[None]:
    """Within it, the networks of `pipe` compute each sample as if it were alone, at the cost of smaller products.

    Halves of a guided call are samples of their own. Modules are swapped by instance, beneath hooks, and put back.
    """
    swapped: list[nn.Module] = []
    try:
        for component in pipe.components.values():
            if not isinstance(component, nn.Module):
                continue
            for module in component.modules():
                if _is_sensitive(module) and not hasattr(type(module), "_dita_base"):
                    swap(module, _row_by_row)
                    swapped.append(module)
        yield
    finally:
        for module in swapped:
            restore(module)


def _is_sensitive(module: nn.Module) -> bool:
    return isinstance(module, SENSITIVE) or type(module).__module__ == "transformers.activations"


def _row_by_row(stock: Forward) -> Forward:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.shape[0] == 1:
            return stock(self, x, *args, **kwargs)
        return torch.cat([stock(self, row, *args, **kwargs) for row in x.split(1)])

    return forward
