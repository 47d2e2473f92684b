"""What a piece of work costs beside time: peak memory, and energy where the device reports it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RAPL = Path("/sys/class/powercap")


class Meter:
    """Measures the work inside a `with` block on one device.

    `peak_bytes` is the most memory held at once: of torch's allocator on CUDA, of the whole process on a Linux CPU.
    `joules` is the device's own counter: NVML's on CUDA (with nvidia-ml-py), RAPL's of all packages on a CPU that lets
    one read it; it counts everything that ran meanwhile. Both are None where nothing reports them.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.peak_bytes: int | None = None
        self.joules: float | None = None
        self._start: float | None = None

    def __enter__(self) -> Meter:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _forget_peak()
        self._start = self._energy()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        end = self._energy()
        if self._start is not None and end is not None and end >= self._start:  # RAPL's counter starts again at times
            self.joules = end - self._start
        self.peak_bytes = (
            torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else peak_of_process()
        )

    def _energy(self) -> float | None:
        return _nvml_joules(self.device) if self.device.type == "cuda" else _rapl_joules()


def peak_of_process() -> int | None:
    """The most memory in bytes that the process held since it started, or since the last `Meter` began; Linux only."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def _forget_peak() -> None:
    try:
        _CLEAR.write_text("5")  # Linux: sets the peak back to what is held now
    except OSError:
        return


def _rapl_joules() -> float | None:
    try:
        counters = [int((zone / "energy_uj").read_text()) for zone in sorted(_RAPL.glob("*-rapl:?"))]
    except (OSError, ValueError):
        return None
    return sum(counters) / 1e6 if counters else None


def _nvml_joules(device: torch.device) -> float | None:
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        index = device.index if device.index is not None else torch.cuda.current_device()
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except Exception:  # not installed, not supported by this device, or not allowed: all mean "not reported"
        return None
