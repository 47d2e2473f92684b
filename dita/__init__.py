"""dita: diffusion transformers faster without retraining, on Hugging Face diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dita.methods import (
    FORA,
    PAB,
    Composition,
    DeltaDiT,
    DuCa,
    FewerSteps,
    LoweredOrderWarning,
    MergingRefusedWarning,
    Method,
    NothingToSkipWarning,
    Plain,
    TaylorSeer,
    TGate,
    ToCa,
    ToMe,
)
from dita.plan import Plan
from dita.stores import Store

if TYPE_CHECKING:
    from dita.caching.attachment import disable, enable, summary
    from dita.caching.summary import Summary
    from dita.generation.prompts import Prompt
    from dita.generation.sampling import generate

__all__ = [
    "FORA",
    "PAB",
    "Composition",
    "DeltaDiT",
    "DuCa",
    "FewerSteps",
    "LoweredOrderWarning",
    "MergingRefusedWarning",
    "Method",
    "NothingToSkipWarning",
    "Plain",
    "Plan",
    "Prompt",
    "Store",
    "Summary",
    "TGate",
    "TaylorSeer",
    "ToCa",
    "ToMe",
    "disable",
    "enable",
    "generate",
    "summary",
]

_ENGINE = {
    "enable": "dita.caching.attachment",
    "disable": "dita.caching.attachment",
    "summary": "dita.caching.attachment",
    "Summary": "dita.caching.summary",
    "Prompt": "dita.generation.prompts",
    "generate": "dita.generation.sampling",
}


def __getattr__(name: str) -> Any:  # torch is imported when the engine is first asked for: plans do without it
    if name not in _ENGINE:
        raise AttributeError(f"module 'dita' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_ENGINE[name]), name)
