"""The Inception network of FID in plain torch, without torchvision: the one of 2015-12-05, not torchvision's.

Szegedy et al. 2015 (arXiv 1512.00567), with the three departures of the TensorFlow graph that FID was defined on:
average pooling leaves the padding out of the count, the last block pools by maximum, and there are 1008 classes.
The names of its 566 tensors are those of both weight files in circulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from dita.metrics.checkpoints import load_strictly, read_tensors
from dita.metrics.images import Picture, resized
from dita.values import unknown

Resize = Literal["tensorflow", "pytorch-fid", "clean"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
SIDE = 299
WIDTH = 2048


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU; `pad` keeps the size where the kernel is odd."""

    def __init__(
        self, channels: int, out: int, kernel: int | tuple[int, int], stride: int = 1, pad: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, out, H', W')."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _mean3(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """Figure 5 of the paper: 1x1, 5x5, double 3x3 and pooling side by side, at 35x35."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(channels, 64, 1)
        self.branch5x5_1 = Convolution(channels, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, pad=2)
        self.branch3x3dbl_1 = Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, pad=1)
        self.branch_pool = Convolution(channels, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, 35, 35) to (B, 224 + pooled, 35, 35)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_mean3(x))], dim=1)


class BlockB(nn.Module):
    """Figure 10: from 35x35 to 17x17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, pad=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 288, 35, 35) to (B, 768, 17, 17)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """Figure 6: 7x7 factored into 1x7 and 7x1, at 17x17; `middle` channels between."""

    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        across, down = partial(Convolution, kernel=(1, 7), pad=(0, 3)), partial(Convolution, kernel=(7, 1), pad=(3, 0))
        self.branch1x1 = Convolution(channels, 192, 1)
        self.branch7x7_1 = Convolution(channels, middle, 1)
        self.branch7x7_2 = across(middle, middle)
        self.branch7x7_3 = down(middle, 192)
        self.branch7x7dbl_1 = Convolution(channels, middle, 1)
        self.branch7x7dbl_2 = down(middle, middle)
        self.branch7x7dbl_3 = across(middle, middle)
        self.branch7x7dbl_4 = down(middle, middle)
        self.branch7x7dbl_5 = across(middle, 192)
        self.branch_pool = Convolution(channels, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 768, 17, 17) to (B, 768, 17, 17)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean3(x))], dim=1)


class BlockD(nn.Module):
    """From 17x17 to 8x8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(channels, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(channels, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), pad=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), pad=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 768, 17, 17) to (B, 1280, 8, 8)."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    """Figure 7: 3x3 spread out into 1x3 and 3x1, at 8x8; the pooling is a mean in the first block, a maximum in the
    second."""

    def __init__(self, channels: int, pool: Literal["mean", "max"]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Convolution(channels, 320, 1)
        self.branch3x3_1 = Convolution(channels, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), pad=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), pad=(1, 0))
        self.branch3x3dbl_1 = Convolution(channels, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, pad=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), pad=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), pad=(1, 0))
        self.branch_pool = Convolution(channels, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, 8, 8) to (B, 2048, 8, 8)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _mean3(x) if self.pool == "mean" else F.max_pool2d(x, 3, stride=1, padding=1)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(parts, dim=1)


class Inception(nn.Module):
    """The network of FID; `forward` gives the 2048 pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, pad=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = BlockA(192, pooled=32)
        self.Mixed_5c = BlockA(256, pooled=64)
        self.Mixed_5d = BlockA(288, pooled=64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, middle=128)
        self.Mixed_6c = BlockC(768, middle=160)
        self.Mixed_6d = BlockC(768, middle=160)
        self.Mixed_6e = BlockC(768, middle=192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, pool="mean")
        self.Mixed_7c = BlockE(2048, pool="max")
        self.fc = nn.Linear(2048, 1008)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, 299, 299) scaled to about -1..1, to (B, 64, 73, 73)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        return F.max_pool2d(x, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, 299, 299) scaled to about -1..1, to features (B, 2048)."""
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.stem(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean(dim=(2, 3))


def load_inception(path: str | Path) -> Inception:
    """The network with the weights of a file: pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, torch-fidelity's
    `weights-inception-2015-12-05-6726825d.pth`, or the same tensors as safetensors.

    Raises `FileNotFoundError`, and `ValueError` that names missing, surplus or misshapen tensors.
    """
    with torch.device("meta"):
        network = Inception()
    load_strictly(network, read_tensors(path), path)
    return network.eval().requires_grad_(False)


def prepare(pictures: Sequence[Picture], resize: Resize = "tensorflow") -> torch.Tensor:
    """uint8 pictures (H, W, 3) of any sizes as (B, 3, 299, 299), scaled for the network.

    `tensorflow` is the resize of the original graph and of torch-fidelity, `pytorch-fid` bilinear without
    antialiasing, `clean` the antialiased bicubic of clean-fid (Parmar et al. 2022, arXiv 2104.11222). FIDs of
    different modes differ by percents: name the mode beside the value. Raises `ValueError` for another mode.
    """
    if resize not in RESIZES:
        raise unknown("resize", resize, RESIZES)
    if resize == "clean":
        return (torch.stack([_clean(picture) for picture in pictures]) - 128) / 128
    tensors = [torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1)[None].float() for p in pictures]
    if resize == "pytorch-fid":
        sized = [F.interpolate(t / 255, (SIDE, SIDE), mode="bilinear", align_corners=False) for t in tensors]
        return 2 * torch.cat(sized) - 1
    return (torch.cat([_tensorflow_bilinear(t) for t in tensors]) - 128) / 128


def _tensorflow_bilinear(picture: torch.Tensor) -> torch.Tensor:
    """(1, C, H, W) to (1, C, 299, 299): output pixel i samples at i * size / 299, not at pixel centres."""
    for axis in (2, 3):
        size = picture.shape[axis]
        place = torch.arange(SIDE, dtype=torch.float32) * (size / SIDE)
        low = place.floor().long()
        high = (low + 1).clamp(max=size - 1)
        share = (place - low).view(-1, 1) if axis == 2 else place - low
        left, right = picture.index_select(axis, low), picture.index_select(axis, high)
        picture = left + (right - left) * share
    return picture


def _clean(picture: Picture) -> torch.Tensor:
    """(H, W, 3) to (3, 299, 299): each channel resized in floating point and clipped, not rounded to 8 bits."""
    channels = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(3)]
    sized = [np.asarray(resized(channel, (SIDE, SIDE), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(sized).clip(0, 255))
