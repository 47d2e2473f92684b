"""What a device can do at best, measured, and how long counted operations would take then (Williams et al., 2009)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from dita.shapes import AnyShape

LARGE = 2**26  # bytes: beyond the caches of most processors
ROUNDS = 5
SECONDS = 0.05
"""How long a round repeats what it measures, at least."""


@dataclass(frozen=True)
class Peak:
    """The best that was measured: FLOPs a second of a matrix product, bytes a second of reading and writing."""

    flops: float
    bytes: float

    def seconds(self, operations: Iterable[tuple[float, float]]) -> float:
        """Of (FLOPs, bytes), one after another: each takes what its FLOPs or its bytes take, whichever is longer."""
        return sum(max(flops / self.flops, moved / self.bytes) for flops, moved in operations)


def measured_peak(shape: AnyShape, dtype: torch.dtype, device: torch.device) -> Peak:
    """Measures products of the sizes of the model's MLP, and additions of tensors small and large."""
    tokens = shape.rows * shape.image_tokens
    x = torch.randn(tokens, shape.width, device=device).to(dtype)
    weight = torch.randn(shape.width, shape.mlp_width, device=device).to(dtype)
    out = x @ weight
    flops = 2.0 * tokens * shape.width * shape.mlp_width / _best(lambda: torch.mm(x, weight, out=out), device)
    bandwidth = 0.0
    for numbers in (tokens * shape.width, LARGE // dtype.itemsize):
        a, b = (torch.zeros(numbers, dtype=dtype, device=device) for _ in range(2))
        total = torch.empty_like(a)
        moved = 3.0 * numbers * dtype.itemsize
        bandwidth = max(bandwidth, moved / _best(lambda a=a, b=b, out=total: torch.add(a, b, out=out), device))
    return Peak(flops, bandwidth)


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one `run`, of the fastest round."""
    run()
    repeats, best = 1, float("inf")
    for _ in range(ROUNDS):
        while True:
            _wait(device)
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            _wait(device)
            passed = time.perf_counter() - start
            if passed >= SECONDS:
                break
            repeats *= 2
        best = min(best, passed / repeats)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
