"""Reading weight files without running what they hold, and loading them without letting a tensor go by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors` or `.pt` / `.pth` file by name, on the CPU; those under `state_dict` if there.

    Raises `FileNotFoundError`, and `ValueError` for a file that is damaged or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way there is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weight file {str(path)!r} is damaged, or holds more than tensors: {reason}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ValueError(f"weight file {str(path)!r} holds no table of tensors")
    return {str(key): value for key, value in loaded.items()}


def load_strictly(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Puts `tensors` into `network` (which may be on the meta device) as float32; every name and shape must fit.

    Raises `ValueError` that counts and names what is missing, surplus or of another shape.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    surplus = [key for key in tensors if key not in wanted]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("not known", surplus), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ValueError(f"weights {str(source)!r} do not fit {type(network).__name__}: tensors {'; '.join(faults)}")
    placed = {
        key: tensors[key].to(torch.float32 if value.is_floating_point() else value.dtype)
        if key in tensors
        else torch.zeros((), dtype=value.dtype)
        for key, value in wanted.items()
    }
    network.load_state_dict(placed, strict=True, assign=True)


def sha256(path: str | Path) -> str:
    """The hash of a file, or of all `.safetensors` files of a folder, in hexadecimal."""
    path = Path(path)
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
