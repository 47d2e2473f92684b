import sys

import numpy as np
import pytest

from dita.metrics import efficiency
from dita.metrics.efficiency import Meter


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
def test_the_peak_is_that_of_the_block_and_not_of_what_came_before():
    with Meter() as large:
        block = np.ones(24_000_000)  # 192 MB, touched
    held = large.peak_bytes
    del block
    with Meter() as small:
        pass
    assert held - small.peak_bytes > 150e6


def test_energy_is_the_counters_difference_in_joules(tmp_path, monkeypatch):
    monkeypatch.setattr(efficiency, "_RAPL", tmp_path)
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("1000000")
    with Meter() as meter:
        (zone / "energy_uj").write_text("3500000")
    assert meter.joules == 2.5
    with Meter() as wrapped:
        (zone / "energy_uj").write_text("100")
    assert wrapped.joules is None


def test_without_a_counter_there_is_no_energy(tmp_path, monkeypatch):
    monkeypatch.setattr(efficiency, "_RAPL", tmp_path)
    with Meter() as meter:
        pass
    assert meter.joules is None
