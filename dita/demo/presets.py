"""Ready-made methods under names that say what they are good for, the honest rivals among them."""

from __future__ import annotations

from pathlib import Path

from dita import miniature
from dita.methods import (
    FORA,
    METHOD_FILE,
    PAB,
    DeltaDiT,
    DuCa,
    FewerSteps,
    Method,
    TaylorSeer,
    TGate,
    ToCa,
    ToMe,
    as_method,
    names_a_file,
    read_method,
)

PRESETS: dict[str, Method] = {
    "Balanced: ToCa, a tenth of the tokens": ToCa(4, 0.9),
    "Close to plain: ToCa, two fifths of the tokens": ToCa(3, 0.6),
    "Fast: DuCa": DuCa(5, 0.9),
    "Forecast instead of reuse: TaylorSeer": TaylorSeer(4, 1),
    "Simplest cache: FORA, whole steps": FORA(3),
    "Blocks instead of steps: Delta-DiT": DeltaDiT(2),
    "Attention only: PAB": PAB(2),
    "No guidance in late steps: T-GATE": TGate(),
    "Merged tokens: ToMe": ToMe(0.5, force=True),
    "Merged and cached tokens: ToMe with ToCa": as_method([ToMe(0.5, force=True), ToCa(4, 0.9)]),
    "Rival: half of the steps": FewerSteps(0.5),
    "Rival: a third of the steps": FewerSteps(0.35),
    "Rival: a third of the steps, UniPC": FewerSteps(0.35, "unipc"),
    "Rival: a third of the steps, DPM++ 2M": FewerSteps(0.35, "dpm++"),
    "Rival: ToCa with random tokens": ToCa(4, 0.9, "random"),
}
"""By name; those with merging force it, so that it shows also where it does not pay."""


TUNED = "Tuned for this model"
"""The name of the plan that `dita tune` found for a bundled model."""


def presets(family: str, model: str | None = None) -> dict[str, Method]:
    """The presets that run on a family; before them what was tuned for the bundled `model`, if that has a plan."""
    plan = miniature.tuned(model) if model in miniature.MINIATURES else None
    found = {} if plan is None else {TUNED: read_method(plan).method}
    others = {name: method for name, method in PRESETS.items() if method not in found.values()}
    return found | {name: method for name, method in others.items() if _runs(method, family)}


def preset_name(given: str) -> str:
    """What a method of the server's owner is called: the name of its folder or file, without the path; or itself."""
    text = given.strip()
    if not names_a_file(text):
        return f"Chosen: {text}"
    path = Path(text).expanduser().resolve()
    named = path.parent if path.name == METHOD_FILE else path
    return f"From a file: {named.stem if named.suffix.lower() == '.json' else named.name}"


def _runs(method: Method, family: str) -> bool:
    try:
        method.check_family(family)
    except ValueError:
        return False
    return True
