"""The sampling loop round a bare tiny transformer."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

Change = Callable[[int, dict[str, torch.Tensor]], None]
"""What is done with a step's number and its inputs in front of it."""


def sample(
    family: ModuleType, model: Any, inputs: dict[str, torch.Tensor], steps: int, change: Change | None = None
) -> torch.Tensor:
    """The latents at the end. `family`: `tests.tiny_flux` or another; `inputs` end with these latents."""
    for step in range(steps):
        if change is not None:
            change(step, inputs)
        out = family.forward(model, inputs, step / steps)
        inputs["hidden_states"] = inputs["hidden_states"] - out / steps
    return inputs["hidden_states"]
