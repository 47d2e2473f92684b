"""Gradients through an accelerated transformer: what would break them without a word."""

from __future__ import annotations

from typing import Any

import torch


def check_gradients(model: Any) -> None:
    """Raises `ValueError` where blocks would be run a second time in the backward pass: what they take from the store
    is gone by then."""
    if torch.is_grad_enabled() and getattr(model, "gradient_checkpointing", False):
        raise ValueError(
            "gradient checkpointing runs blocks again in the backward pass, when dita's stored features are gone: call"
            " transformer.disable_gradient_checkpointing(), or sample within torch.no_grad()"
        )
