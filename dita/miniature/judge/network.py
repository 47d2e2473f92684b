"""The judge's eyes: a small convolutional network that says what lies where, and the loss that it learns by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dita.miniature.judge.marks import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    GRID,
    LAYERS,
)

SIDE = 4 * GRID
"""Side of the pictures that the network reads, in pixels."""


@dataclass(frozen=True)
class Widths:
    """Channels at a half, a quarter and an eighth of the picture's side, and the residual blocks of each."""

    half: int = 32
    quarter: int = 96
    eighth: int = 128
    blocks: tuple[int, int, int] = (1, 3, 2)

    def as_json(self) -> dict[str, Any]:
        """The widths as plain data; `Widths(**data)` takes it back."""
        return asdict(self)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, normalised first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(inner)))


class Trunk(nn.Module):
    """Pictures (N, 3, 64, 64) in [-1, 1] to features (N, quarter, 16, 16): fine ones, and coarse ones over them."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths.half, 5, stride=2, padding=2)
        self.fine = nn.Sequential(*(_Block(widths.half) for _ in range(widths.blocks[0])))
        self.down1 = nn.Conv2d(widths.half, widths.quarter, 3, stride=2, padding=1)
        self.middle = nn.Sequential(*(_Block(widths.quarter) for _ in range(widths.blocks[1])))
        self.down2 = nn.Conv2d(widths.quarter, widths.eighth, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(_Block(widths.eighth) for _ in range(widths.blocks[2])))
        self.up = nn.Conv2d(widths.eighth, widths.quarter, 1)
        self.norm = nn.GroupNorm(8, widths.quarter)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.levels(pictures)[1]

    def levels(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The finest features (N, half, 32, 32), and the last ones (N, quarter, 16, 16)."""
        fine = functional.silu(self.fine(self.stem(pictures)))
        middle = self.middle(self.down1(fine))
        coarse = functional.interpolate(self.up(self.coarse(self.down2(functional.silu(middle)))), scale_factor=2.0)
        return fine, functional.silu(self.norm(middle + coarse))


@dataclass(frozen=True)
class LayerAnswer:
    """Logits for one layer: presence (N, G, G), kind (N, K, G, G), colour (N, C, G, G); geometry as LayerTarget's."""

    presence: Tensor
    kind: Tensor
    colour: Tensor
    geometry: Tensor


@dataclass(frozen=True)
class Answer:
    """What the network says: each layer by name, and the background's logits: (N, kinds), (N, colours) twice."""

    layers: dict[str, LayerAnswer]
    background: tuple[Tensor, Tensor, Tensor]


CELL_PARTS = [part for kinds in LAYERS.values() for part in (1, len(kinds), len(COLOURS), 3)]
"""Channels of what is said about a cell: of each layer the presence, the kinds, the colours and the geometry."""

BACKGROUND_PARTS = [len(BACKGROUND_KINDS), len(BACKGROUND_COLOURS), len(BACKGROUND_COLOURS)]
"""Channels of what is said about the background: its kinds, and twice its colours."""


def answer(cells: Tensor, background: Tensor) -> Answer:
    """The answer in the channels of CELL_PARTS (N, C, GRID, GRID) and of BACKGROUND_PARTS (N, C)."""
    parts = iter(cells.float().split(CELL_PARTS, dim=1))
    layers = {}
    for layer in LAYERS:
        presence, kind, colour, geometry = (next(parts) for _ in range(4))
        layers[layer] = LayerAnswer(presence[:, 0], kind, colour, geometry)
    kind, first, second = background.float().split(BACKGROUND_PARTS, dim=1)
    return Answer(layers, (kind, first, second))


@torch.no_grad()
def expect_nothing(bias: Tensor) -> None:
    """Lets the presences in a bias of CELL_PARTS begin near the rate of marks: emptiness need not be learned."""
    for i in range(0, len(CELL_PARTS), 4):
        bias[sum(CELL_PARTS[:i])] = -4.0


class Eyes(nn.Module):
    """The trunk, a head over every cell for the layers, and one over the whole picture for the background."""

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        self.widths = widths or Widths()
        width = self.widths.quarter
        self.trunk = Trunk(self.widths)
        self.cell = nn.Sequential(nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, sum(CELL_PARTS), 1))
        self.whole = nn.Sequential(nn.Linear(16 * width, width), nn.SiLU(), nn.Linear(width, sum(BACKGROUND_PARTS)))
        last = self.cell[-1].bias
        assert isinstance(last, nn.Parameter)
        expect_nothing(last)

    def forward(self, pictures: Tensor) -> Answer:
        features = self.trunk(pictures)
        return answer(self.cell(features), self.whole(functional.adaptive_avg_pool2d(features, 4).flatten(1)))
