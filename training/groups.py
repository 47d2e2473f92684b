"""Which weights of a transformer with text encoders learn by which optimiser, for all families alike."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from training import recipe
from training.loop import Group


def by_kind(
    transformer: nn.Module, others: Iterable[nn.Parameter] = (), text: Iterable[nn.Parameter] = ()
) -> list[Group]:
    """The matrices of the transformer's blocks by Muon; all else of it and `others` by AdamW; `text`, taught before,
    slowly."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, weight in transformer.named_parameters():
        modulation = ".norm" in name or name.endswith("scale_shift_table")
        (matrices if "_blocks." in name and weight.ndim == 2 and not modulation else rest).append(weight)
    groups = [Group(tuple(matrices), scale=recipe.MUON_SCALE, muon=True), Group((*rest, *others))]
    taught = tuple(text)
    return [*groups, Group(taught, scale=recipe.TEXT_SCALE)] if taught else groups
