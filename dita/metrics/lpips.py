"""LPIPS in plain torch: distance of two pictures in the features of AlexNet or VGG16, without torchvision.

Zhang et al. 2018 (arXiv 1801.03924), equation 1, version 0.1. The linear weights are in `lpips_heads` (BSD-2-Clause);
the weights of the backbone are torchvision's files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file
from torch import nn

from dita.metrics.checkpoints import load_strictly, read_tensors
from dita.metrics.libraries import exact_float32
from dita.values import unknown

Backbone = Literal["alex", "vgg"]
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)
SMALLEST = {"alex": 31, "vgg": 16}  # pixels a side that leave a pixel in the last layer
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for pictures in -1..1
_EPSILON = 1e-10


def _alex() -> tuple[list[nn.Module], tuple[int, ...]]:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2)

    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), pool()]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool()]
    layers += [nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()]
    return layers, (1, 4, 7, 9, 11)


def _vgg() -> tuple[list[nn.Module], tuple[int, ...]]:
    layers: list[nn.Module] = []
    taps, channels = [], 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [nn.MaxPool2d(2, stride=2)] if layers else []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        taps.append(len(layers) - 1)
    return layers, tuple(taps)


class PairNetwork(nn.Module):
    """What `lpips` measures with: a module of two batches (B, 3, H, W) in 0..1 to their distances (B,)."""

    name: str
    smallest: int
    """Pixels a side that the pictures need."""


class LevelsNetwork(PairNetwork):
    """The distance of equation 1 in the features of any network, all channels weighing alike: a stand-in for LPIPS.

    `levels` gives the feature maps (B, C, H', W') of pictures in -1..1; `network` holds its parameters.
    """

    def __init__(self, network: nn.Module, levels: Callable[[torch.Tensor], Sequence[torch.Tensor]], smallest: int):
        super().__init__()
        self.network, self.levels, self.smallest, self.name = network, levels, smallest, "stand-in"

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances (B,) of pictures (B, 3, H, W) in 0..1, from 0 to the number of levels times 4."""
        distance = a.new_zeros(len(a))
        for x, y in zip(self.levels(2 * a - 1), self.levels(2 * b - 1), strict=True):
            distance = distance + (_unit(x) - _unit(y)).square().sum(dim=1).mean(dim=(1, 2))
        return distance


class LPIPSNetwork(PairNetwork):
    """The backbone up to its last tapped layer, and a non-negative weight for each channel of five layers."""

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        layers, self.taps = _alex() if backbone == "alex" else _vgg()
        self.features = nn.Sequential(*layers)
        self.name, self.smallest = backbone, SMALLEST[backbone]
        with as_file(files("dita.metrics") / "lpips_heads" / f"{backbone}.safetensors") as path:
            heads = load_file(path)
        for i in range(len(self.taps)):
            self.register_buffer(f"head{i}", heads[str(i)], persistent=False)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances (B,) of pictures (B, 3, H, W) in 0..1."""
        distance = a.new_zeros(len(a))
        x, y = ((2 * pictures - 1 - self.shift) / self.scale for pictures in (a, b))
        for i, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if i in self.taps:
                weights = getattr(self, f"head{self.taps.index(i)}")
                squared = (_unit(x) - _unit(y)).square()  # (B, C, H', W')
                distance = distance + torch.einsum("bchw,c->bhw", squared, weights).mean(dim=(1, 2))
        return distance


def load_lpips(backbone: Backbone, weights: str | Path) -> LPIPSNetwork:
    """LPIPS with the backbone weights of a file: torchvision's `alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth`.

    The file may hold the classifier too. Raises `ValueError` for another backbone and for tensors that do not fit,
    `FileNotFoundError` for a missing file.
    """
    if backbone not in BACKBONES:
        raise unknown("LPIPS backbone", backbone, BACKBONES)
    network = LPIPSNetwork(backbone)
    tensors = {key: t for key, t in read_tensors(weights).items() if not key.startswith("classifier.")}
    load_strictly(network, tensors, weights)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def lpips(a: torch.Tensor, b: torch.Tensor, network: PairNetwork) -> torch.Tensor:
    """LPIPS of each pair of pictures (B, 3, H, W), floating point in 0..1: (B,), at least 0, 0 for equal pictures.

    Raises `ValueError` for different shapes, values outside 0..1, and pictures too small for the backbone.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
        raise ValueError(f"pictures are (B, 3, H, W) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    for pictures in (a, b):
        if not pictures.is_floating_point() or not (pictures.min() >= 0 and pictures.max() <= 1):
            found = f"{pictures.dtype} from {pictures.min()} to {pictures.max()}"
            raise ValueError(f"pictures must be floating point in 0..1, got {found}")
    smallest = network.smallest
    if min(a.shape[2:]) < smallest:
        size = f"{a.shape[2]}x{a.shape[3]}"
        raise ValueError(f"LPIPS ({network.name}) needs at least {smallest}x{smallest} pixels, got {size}")
    device = next(network.parameters()).device
    with exact_float32():
        return network(a.to(device, torch.float32), b.to(device, torch.float32)).cpu()


def _unit(features: torch.Tensor) -> torch.Tensor:
    length = features.square().sum(dim=1, keepdim=True).sqrt()
    return features / (length + _EPSILON)
