"""The loss curves that the documents show."""

import pytest
from PIL import Image

from training import curves


def test_logs_become_one_picture(tmp_path):
    for name in ("a", "b"):
        lines = [f"{10 * i},{1 / i:.4f},1e-3,{i}" for i in range(1, 30)]
        (tmp_path / f"{name}.csv").write_text("step,loss,rate,seconds\n" + "\n".join(lines) + "\n")
    curves.plot([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == (640, 240)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="is no log of a training"):
        curves.read(tmp_path / "a.csv")
