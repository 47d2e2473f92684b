"""Every example runs as it is written, on the bundled models and in few steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
CLIP = "a small red circle moving right on a white background"
EXAMPLES = {
    "flux_toca.py": (["--model", "shapes-flux", "--steps", "6"], ["00000.png", "00001.png", "00002.png"]),
    "own_method.py": ([], ["own_method.png"]),
    "opensora_video.py": (["shapes-opensora", CLIP, "clip.mp4", "--steps", "4"], ["clip.mp4"]),
    "pixart_batch.sh": (
        ["prompts.txt", "out"],
        ["out/manifest.jsonl", "out/images/00000-s0.png", "out/images/00001-s1.png"],
    ),
    "evaluate_folder.sh": (["folders"], ["folders/report/report.html", "folders/toca-4-0.9/manifest.jsonl"]),
}
SHORT = {"MODEL": "shapes-pixart", "STEPS": "5", "SEEDS": "0..1", "WORKERS": "1"}


def run(example: str, arguments: list[str], folder: Path, **environment: str) -> str:
    """What an example prints, run in `folder` with this Python and its `dita`."""
    program = ["sh"] if example.endswith(".sh") else [sys.executable]
    here = Path(sys.executable).parent
    variables = {
        **os.environ,
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    command = [*program, str(ROOT / "examples" / example), *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    there = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".sh")}
    assert there == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_and_writes_what_it_says(example: str, tmp_path: Path) -> None:
    if example == "opensora_video.py":
        pytest.importorskip("imageio_ffmpeg", reason="videos are written with dita[opensora]")
    (tmp_path / "prompts.txt").write_text("a large red circle on a white background\na small blue square\n")
    arguments, written = EXAMPLES[example]
    run(example, arguments, tmp_path, **SHORT)
    for name in written:
        assert (tmp_path / name).is_file(), sorted(str(path) for path in tmp_path.rglob("*"))
    for picture in tmp_path.rglob("*.png"):
        Image.open(picture).verify()


@pytest.mark.slow
def test_the_batch_without_a_gpu_needs_nothing_but_the_model(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a large red circle on a white background\n")
    variables = {**SHORT, "STEPS": "3", "SEEDS": "0", "CUDA_VISIBLE_DEVICES": "", "WORKERS": ""}
    assert "made 1 of 1" in run("pixart_batch.sh", ["prompts.txt", "out"], tmp_path, **variables)
