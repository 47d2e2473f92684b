"""How the features that a method stores are kept: in which precision, where, and how many of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dita.values import shown, unknown, whole

DTYPES = {"bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
"""What features can be stored as, and the bytes of a number. float8 has a scale in float32 for every token besides."""
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp8": "float8_e4m3fn", "float8": "float8_e4m3fn"}
DEVICES = ("cpu",)
SCALE_BYTES = 4
_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TB": 10**12,
    "TIB": 2**40,
}
_LEAST_BYTES = 1000  # that are given without a unit


@dataclass(frozen=True)
class Store:
    """How stored features are kept. The default changes no bit of the output.

    Fields:
        dtype: `bfloat16`, `float16` or `float8_e4m3fn` (short: bf16, fp16, fp8), or the torch dtype; None is the
            model's own. float16 saturates at 65504; float8 has one scale for each token, its largest number / 448.
        device: `cpu` keeps features in the host's memory, from where they are fetched ahead of their use; None is the
            model's device.
        max_cache_bytes: what the store may hold at most; None is no bound. The sites that save the fewest FLOPs for
            their bytes are computed in full instead, and plan, FLOPs and summary say so. 0 stores nothing.

    Raises `ValueError` for anything else.
    """

    dtype: str | None = None
    device: str | None = None
    max_cache_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            name = str(self.dtype).removeprefix("torch.")
            name = _SHORT.get(name, name)
            if name not in DTYPES:
                raise _unknown_dtype(str(self.dtype))
            object.__setattr__(self, "dtype", name)
        if self.device is not None:
            if str(self.device) not in DEVICES:
                raise ValueError(
                    f"unknown store device {str(self.device)!r}; features are kept on the model's own device (None) or"
                    f" on {', '.join(map(repr, DEVICES))}"
                )
            object.__setattr__(self, "device", str(self.device))
        if self.max_cache_bytes is not None:
            try:
                limit = whole("max_cache_bytes", self.max_cache_bytes, 0)
            except ValueError:
                raise ValueError(
                    f"max_cache_bytes must be a whole number of bytes, at least 0, got {shown(self.max_cache_bytes)}"
                    f"{_size_hint(self.max_cache_bytes)}"
                ) from None
            object.__setattr__(self, "max_cache_bytes", limit)

    def bytes_of(self, size: int, width: int, element_bytes: int) -> int:
        """Bytes in the store of features that take `size` bytes in the model: numbers of `element_bytes` each, tokens
        of `width` numbers."""
        if self.dtype is None:
            return size
        numbers = size // element_bytes
        scales = numbers // width * SCALE_BYTES if self.dtype == "float8_e4m3fn" else 0
        return numbers * DTYPES[self.dtype] + scales

    def __str__(self) -> str:
        parts = [self.dtype or "", "on the cpu" if self.device else ""]
        return ", ".join(part for part in parts if part) or "as computed"


def parse_bytes(text: str) -> int:
    """A number of bytes from `3.2GB`, `512 MiB` or `1000000`. Raises `ValueError` for anything else.

    Without a unit these are bytes: whole ones, and none or at least a thousand, for fewer are a forgotten unit.
    """
    written = text.strip() if isinstance(text, str) else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)?", written, re.IGNORECASE)
    if found is None:
        raise ValueError(f"a size in bytes is a number such as 3.2GB, 512MiB or 1000000, got {text!r}")
    number, unit = float(found[1]), (found[2] or "").upper()
    if not unit and (0 < number < _LEAST_BYTES or "." in found[1]):
        raise ValueError(f"a size in bytes is a number such as 3.2GB, 512MiB or 1000000, got {text!r} without a unit")
    return int(number * _UNITS[unit])


def _unknown_dtype(name: str) -> ValueError:
    error = unknown("store dtype", name, [*DTYPES, *(short for short in _SHORT if short != "half")])
    return ValueError(f"{error}{_size_hint(name)}")


def _size_hint(value: object) -> str:
    """How to write a size that was given as a text."""
    try:
        return f"; a size is max_cache_bytes={parse_bytes(value)}" if isinstance(value, str) else ""
    except ValueError:
        return ""
