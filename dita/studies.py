"""Ready-made comparisons: the methods that answer one question, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dita.methods import (
    FORA,
    PAB,
    SCORES,
    DeltaDiT,
    DuCa,
    FewerSteps,
    Method,
    Plain,
    Score,
    TaylorSeer,
    TGate,
    ToCa,
    ToMe,
    WholeCall,
)
from dita.samplers import FAMILY_SAMPLERS


def every_method(family: str) -> list[Method]:
    """One or two settings of every method that runs on a family, plain first; the honest rivals among them."""
    methods: list[Method] = [
        Plain(),
        FewerSteps(0.5),
        FewerSteps(0.35),
        *(FewerSteps(0.35, sampler) for sampler in FAMILY_SAMPLERS[family]),
        FORA(3),
        ToCa(4, 0.9),
        ToCa(4, 0.9, "random"),
        ToCa(4, 0.9, forecast=1),
        DuCa(5, 0.9),
        TaylorSeer(4, 1),
        TaylorSeer(4, 2),
        TaylorSeer(4, 2, basis="hermite"),
        TaylorSeer(4, 2, lite=True),
        TaylorSeer(5, 1, ramp=True),
        TaylorSeer(4, 1, modules="attention"),
        WholeCall(3),
        DeltaDiT(2),
        TGate(),
        PAB(2),
        ToMe(0.5, force=True),  # a comparison shows what it costs also where the cost model would refuse
    ]
    return [method for method in methods if family in method.families]


def selection(family: str, cycle: int = 4, ratio: float = 0.9) -> list[Method]:
    """ToCa with every score that a family has (the question of the survey's figure 3(d)).

    Beside them stand the plain pipeline, no selection at all (`fora`), and fewer steps of about the same FLOPs.
    """
    first: tuple[Score, ...] = ("attention", "k-norm", "v-norm", "similarity", "random")
    scores = (*first, *(score for score in SCORES if score not in first))
    return [
        Plain(),
        FewerSteps(0.4),
        FORA(cycle),
        *(ToCa(cycle, ratio, score) for score in scores if score != "frame-uniqueness" or family == "opensora"),
    ]


STUDIES: Mapping[str, Callable[..., list[Method]]] = {"selection": selection}
"""Every study by name: family, cycle and ratio -> its methods."""
