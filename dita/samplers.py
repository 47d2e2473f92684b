"""Samplers as rivals of caches: diffusers' multistep ones, made from a pipeline's own scheduler. No torch import here.

A sampler is offered for a family only where runs with it were seen to converge: finite, and the nearer to its own run
of many steps the more steps it takes (`tests/caching/test_samplers.py`).
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args

from dita.values import unknown

Sampler = Literal["unipc", "dpm++", "deis"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
"""Every sampler that `steps:FRACTION:SAMPLER` knows."""

FAMILY_SAMPLERS: dict[str, tuple[Sampler, ...]] = {
    "flux": ("unipc", "dpm++"),
    "pixart": ("unipc", "dpm++", "deis"),
    "dit": ("unipc", "dpm++"),
    "opensora": (),
}
"""By family, the samplers that converge there. DEIS never reaches noise level 0 with flow sigmas, and Karras spacing,
where it is finite there, is not nearer with more steps; Open-Sora moves its times by the video's size, which none of
them does."""

_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
_DPM = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "use_lu_lambdas": False,
}
_UNIPC = {"solver_order": 2, "solver_type": "bh2", "predict_x0": True, "lower_order_final": True}
_PLAIN_SPACING = {
    "timestep_spacing": "linspace",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "final_sigmas_type": "zero",
}
_CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "unipc": ("UniPCMultistepScheduler", _UNIPC),
    "dpm++": ("DPMSolverMultistepScheduler", _DPM),
    "deis": ("DEISMultistepScheduler", {"algorithm_type": "deis", "solver_order": 2, "lower_order_final": True}),
}


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler samples flow matching: x = (1 - sigma) x0 + sigma noise, the model predicts noise - x0."""
    config = scheduler.config
    return (
        any(cls.__name__.startswith("FlowMatch") for cls in type(scheduler).__mro__)
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def why_stochastic(scheduler: Any) -> str | None:
    """Why a step of the scheduler draws noise; None where steps draw none."""
    name, config = type(scheduler).__name__, scheduler.config
    names = " ".join(cls.__name__ for cls in type(scheduler).__mro__)
    if any(part in names for part in ("Ancestral", "SDE", "DDPM", "LCM", "TCD", "SASolver", "UnCLIP", "RePaint")):
        return f"{name} draws noise in each step"
    if "sde" in str(config.get("algorithm_type", "")):
        return f"{name} with algorithm_type={config['algorithm_type']!r} draws noise in each step"
    if config.get("stochastic_sampling"):
        return f"{name} with stochastic_sampling draws noise in each step"
    return None


def build(name: str, scheduler: Any) -> Any:
    """A fresh scheduler of the sampler `name`, made from a pipeline's `scheduler`, which stays as it is.

    Every setting that a saved configuration could hand on is named: a loaded one counts all its values as passed.
    Raises `ValueError` for an unknown name, and where the configuration does not allow the sampler.
    """
    import diffusers

    if name not in _CHOICES:
        raise unknown("sampler", name, SAMPLERS)
    class_name, settings = _CHOICES[name]
    config, flow = scheduler.config, is_flow(scheduler)
    changes = {**_PLAIN_SPACING, **settings, **(_FLOW if flow else {})}
    if flow and class_name != "UniPCMultistepScheduler" and not config.get("use_dynamic_shifting"):
        raise ValueError(
            f"sampler {name!r} needs a scheduler with use_dynamic_shifting for flow matching, and this"
            f" {type(scheduler).__name__} has none; take 'unipc'"
        )
    if flow and not config.get("use_dynamic_shifting"):
        changes["flow_shift"] = config.get("shift") or config.get("flow_shift") or 1.0
    if not flow and config.get("timestep_spacing") and type(scheduler).__name__ == class_name:
        changes["timestep_spacing"] = config["timestep_spacing"]
    made = getattr(diffusers, class_name)
    takes = inspect.signature(made.__init__).parameters
    settings = {key: value for key, value in {**config, **changes}.items() if key in takes}
    built = made.from_config(settings)
    # What only pipelines read, such as FLUX's base_shift, stays; `from_config` would warn of each.
    built.register_to_config(**{key: value for key, value in config.items() if key not in takes and key[0] != "_"})
    return built
