"""What the judge's eyes should say of drawings, and the loss of what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dita.miniature.judge.marks import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    GRID,
    LAYERS,
    SLOTS,
    SPREAD,
    Mark,
)
from dita.miniature.judge.network import Answer, LayerAnswer


@dataclass(frozen=True)
class LayerTarget:
    """What a network should say of one layer, for N pictures and each cell of the grid.

    presence: (N, GRID, GRID), 1 in the cell that is nearest to a mark's centre, less around it.
    kind, colour: (N, GRID, GRID), class numbers of the nearest mark.
    geometry: (N, 3, GRID, GRID), from the cell's middle to the mark's centre in cells (x, y), and the logarithm of the
        radius.
    """

    presence: Tensor
    kind: Tensor
    colour: Tensor
    geometry: Tensor


def layer_target(layer: str, seen: Sequence[Sequence[Mark]]) -> LayerTarget:
    """The target of `layer` for the marks of each picture.

    Raises:
        ValueError: a picture has more than SLOTS marks of the layer.
    """
    mine = [[mark for mark in picture if mark.layer == layer] for picture in seen]
    most = max(map(len, mine), default=0)
    if most > SLOTS:
        raise ValueError(f"a picture has {most} marks of the layer {layer!r}, at most {SLOTS} are allowed")
    kinds = LAYERS[layer]
    empty = (-1e3, -1e3, 0.0, 0.0, 0.0)
    rows = [
        [(m.x * GRID - 0.5, m.y * GRID - 0.5, math.log(m.radius), kinds.index(m.kind), _colour(m)) for m in picture]
        + [empty] * (SLOTS - len(picture))
        for picture in mine
    ]
    table = torch.tensor(rows, dtype=torch.float32).view(len(mine), SLOTS, 5)
    cells = torch.arange(GRID, dtype=torch.float32)
    dx = table[:, :, 0, None, None] - cells  # (N, SLOTS, 1, GRID)
    dy = table[:, :, 1, None, None] - cells[:, None]  # (N, SLOTS, GRID, 1)
    nearest = (dx.square() + dy.square()).min(dim=1)
    slot = nearest.indices[:, None]  # (N, 1, GRID, GRID)
    pick = [torch.gather(part.expand(-1, -1, GRID, GRID), 1, slot)[:, 0] for part in (dx, dy)]
    flat = slot.flatten(1)
    log_radius, kind, colour = (torch.gather(table[:, :, i], 1, flat).view(-1, GRID, GRID) for i in (2, 3, 4))
    centre_dx, centre_dy = (table[:, :, i] - table[:, :, i].round() for i in (0, 1))
    # The cell nearest to the centre counts as the centre itself: its presence is exactly 1.
    own = torch.gather(centre_dx.square() + centre_dy.square(), 1, flat).view(-1, GRID, GRID)
    presence = torch.exp((own - nearest.values) / (2 * SPREAD**2)).clamp(max=1)
    return LayerTarget(presence, kind.long(), colour.long(), torch.stack([*pick, log_radius], dim=1))


def _colour(mark: Mark) -> int:
    return COLOURS.index(mark.colour) if mark.layer != "glyph" else 0


def background_target(backgrounds: Sequence[tuple[str, ...]]) -> Tensor:
    """Class numbers (N, 3) of the kind and the two colours of backgrounds, given as (kind, colour, ...)."""
    rows = []
    for kind, *colours in backgrounds:
        first, second = (*colours, "-", "-")[:2]
        rows.append([BACKGROUND_KINDS.index(kind), BACKGROUND_COLOURS.index(first), BACKGROUND_COLOURS.index(second)])
    return torch.tensor(rows, dtype=torch.int64).view(-1, 3)


def loss(said: Answer, targets: Mapping[str, LayerTarget], background: Tensor) -> Tensor:
    """The sum of all parts: presence, then kind, colour and geometry near the marks, and the background."""
    total = torch.stack([_layer_loss(said.layers[layer], target) for layer, target in targets.items()]).sum()
    return total + _background_loss(said.background, background)


def _layer_loss(said: LayerAnswer, true: LayerTarget) -> Tensor:
    """Penalty-reduced focal loss for the presence (Law and Deng, CornerNet, arXiv 1808.01244, equation 1)."""
    centre = (true.presence > 0.999).float()
    count = centre.sum().clamp(min=1)
    chance = said.presence.sigmoid()
    hit = functional.logsigmoid(said.presence) * (1 - chance).square() * centre
    miss = functional.logsigmoid(-said.presence) * chance.square() * (1 - true.presence) ** 4 * (1 - centre)
    presence = -(hit + miss).sum() / count
    near = true.presence * (true.presence > 0.3)
    weight = near / near.sum().clamp(min=1)
    kind = functional.cross_entropy(said.kind, true.kind, reduction="none")
    colour = functional.cross_entropy(said.colour, true.colour, reduction="none")
    geometry = functional.smooth_l1_loss(said.geometry, true.geometry, reduction="none", beta=0.1).sum(dim=1)
    return presence + ((kind + 0.5 * colour + geometry) * weight).sum()


def _background_loss(said: Sequence[Tensor], true: Tensor) -> Tensor:
    return torch.stack([functional.cross_entropy(part, true[:, i]) for i, part in enumerate(said)]).sum()
