"""Calls of which only one half is computed: guidance by two halves of a batch has ended (T-GATE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def first_half(inputs: Any, rows: int) -> Any:
    """A call's arguments with those tensors halved that hold its `rows` samples, in dictionaries too."""
    if isinstance(inputs, Mapping):
        return {name: first_half(value, rows) for name, value in inputs.items()}
    if isinstance(inputs, Tensor) and inputs.ndim and len(inputs) == rows:
        return inputs[: rows // 2]
    return inputs


def twice(output: Any) -> Any:
    """A transformer's output, a tuple or diffusers' own, for both halves: guidance between equals changes nothing."""
    if isinstance(output, Tensor):
        return torch.cat([output, output])
    if isinstance(output, Mapping):  # diffusers' outputs are
        return type(output)(**{name: twice(value) for name, value in output.items()})
    return tuple(twice(value) for value in output) if isinstance(output, tuple) else output
