"""Linear layers of few rows, as partial steps have them, spread over the cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dita.caching.linear_parts import by_parts

FEW = 1024
"""Rows below which a product is taken in parts."""

LARGE = 2**20
"""Numbers of a weight from which on this is worth its while."""


class FewRows(TorchFunctionMode):
    """Inside of it, a linear layer of few rows on a CPU is several products, each with a part of the weights.

    The CPU's library shares a product of few rows badly among the cores, and of several it gives each core its own.
    What comes out may differ in the last digits, as it may with another number of rows.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.linear and not kwargs and _worth(args[0], args[1]):
            return in_parts(*args)
        return func(*args, **(kwargs or {}))


def in_parts(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K) times weight (N, K) and plus bias (N), (..., N), by parts of the weights."""
    width, depth = weight.shape
    out = by_parts(x.reshape(-1, depth), weight, bias, _parts(weight))
    return out.transpose(0, 1).reshape(*x.shape[:-1], width)


def _worth(x: Tensor, weight: Tensor) -> bool:
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter) and weight.is_contiguous()
    large = weight.numel() >= LARGE and x.numel() < FEW * weight.shape[1] and weight.device.type == "cpu"
    return plain and large and weight.dtype == x.dtype == torch.float32 and _parts(weight) > 1


def _parts(weight: Tensor) -> int:
    """Two for each core, fewer where the weights do not divide; one for a single core."""
    cores = torch.get_num_threads()
    parts = 2 * cores if cores > 1 else 1
    while weight.shape[0] % parts:
        parts -= 1
    return parts
