"""Weights that are drawn from their own names, as ../shared/golden/metrics/README.md says."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def inception_tensor(key: str, shape: list[int]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    x = _normal(key, shape)
    if key.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif key.endswith("bn.weight"):
        x = 1 + 0.1 * x
    elif key.endswith(("running_mean", "bias")):
        x = 0.1 * x
    else:
        x = x * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def lpips_tensor(key: str, shape: list[int]) -> torch.Tensor:
    x = _normal(key, shape)
    x = 0.05 * x if key.endswith("bias") else x * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def _normal(key: str, shape: list[int]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def inception_pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    pictures = {}
    for name, (h, w) in {"a": (256, 256), "b": (128, 192), "c": (512, 384)}.items():
        y, x = np.mgrid[:h, :w]
        waves = [127.5 + 100 * np.sin(x / 11 + y / 7), 127.5 + 100 * np.cos(x / 5), 200.0 * ((x // 16 + y // 16) % 2)]
        noisy = np.stack(waves) + rng.normal(0, 12, (3, h, w))
        pictures[name] = np.clip(noisy, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    return pictures
