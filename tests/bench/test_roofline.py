"""The roofline: the longer of computing and moving, operation by operation, at what was measured."""

from __future__ import annotations

import torch

from dita.bench import roofline
from dita.bench.roofline import Peak, measured_peak
from dita.bench.workloads import workload


def test_an_operation_takes_what_its_flops_or_its_bytes_take() -> None:
    peak = Peak(flops=100.0, bytes=10.0)
    assert peak.seconds([(200.0, 1.0)]) == 2.0
    assert peak.seconds([(1.0, 30.0)]) == 3.0
    assert peak.seconds([(200.0, 1.0), (1.0, 30.0)]) == 5.0
    assert peak.seconds([]) == 0.0


def test_what_is_measured_is_measured(monkeypatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 1e-4)
    monkeypatch.setattr(roofline, "LARGE", 2**12)
    peak = measured_peak(workload("cpu-flux", scale=0.05).shape, torch.float32, torch.device("cpu"))
    assert 1e6 < peak.flops < 1e15 and 1e6 < peak.bytes < 1e15
