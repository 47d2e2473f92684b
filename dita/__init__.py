"""dita: diffusion transformers faster without retraining, on Hugging Face diffusers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dita.methods import (
    FORA,
    PAB,
    CarriedOverWarning,
    Composition,
    DeltaDiT,
    DuCa,
    FewerSteps,
    LoweredOrderWarning,
    MadeForAnotherWarning,
    MergingRefusedWarning,
    Method,
    NothingToSkipWarning,
    Plain,
    TaylorSeer,
    TGate,
    ToCa,
    ToMe,
    WholeCall,
)
from dita.plan import Plan
from dita.stores import Store
from dita.version import __version__

if TYPE_CHECKING:
    from dita.caching.attachment import disable, enable, enabled, summary
    from dita.caching.broken import BrokenNumbersError, BrokenNumbersWarning
    from dita.caching.summary import Summary
    from dita.caching.token_record import TokenRecord
    from dita.generation.prompts import Prompt
    from dita.generation.sampling import generate
    from dita.plots.plan_map import plot_plan
    from dita.plots.token_map import plot_tokens
    from dita.saved_methods import save_method
    from dita.tuning.job import tune
    from dita.tuning.results import Tuning

__all__ = [
    "FORA",
    "PAB",
    "BrokenNumbersError",
    "BrokenNumbersWarning",
    "CarriedOverWarning",
    "Composition",
    "DeltaDiT",
    "DuCa",
    "FewerSteps",
    "LoweredOrderWarning",
    "MadeForAnotherWarning",
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
    "TokenRecord",
    "Tuning",
    "WholeCall",
    "__version__",
    "disable",
    "enable",
    "enabled",
    "generate",
    "plot_plan",
    "plot_tokens",
    "save_method",
    "summary",
    "tune",
]

_LATER = {
    "BrokenNumbersError": "dita.caching.broken",
    "BrokenNumbersWarning": "dita.caching.broken",
    "enable": "dita.caching.attachment",
    "disable": "dita.caching.attachment",
    "enabled": "dita.caching.attachment",
    "summary": "dita.caching.attachment",
    "Summary": "dita.caching.summary",
    "Prompt": "dita.generation.prompts",
    "generate": "dita.generation.sampling",
    "TokenRecord": "dita.caching.token_record",
    "plot_plan": "dita.plots.plan_map",
    "plot_tokens": "dita.plots.token_map",
    "save_method": "dita.saved_methods",
    "tune": "dita.tuning.job",
    "Tuning": "dita.tuning.results",
}


_MODULES = ("families", "methods", "metrics", "models", "pipelines", "plots", "shapes", "sharing")
"""Of which programs use more than what is in `__all__`."""

logging.getLogger(__name__).addHandler(logging.NullHandler())  # programs decide what is shown


def __getattr__(name: str) -> Any:  # torch, numpy and matplotlib are imported when first asked for: plans do without
    import importlib

    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"dita.{name}")
    from dita.values import nearest

    near = nearest(name, (*__all__, *_MODULES))
    raise AttributeError(f"module 'dita' has no attribute {name!r}" + (f"; did you mean {near!r}?" if near else ""))


def __dir__() -> list[str]:
    """What there is, loaded or not: completion offers it."""
    hidden = (name for name in globals() if name.startswith("__"))
    return sorted({*hidden, *__all__, *_MODULES})
