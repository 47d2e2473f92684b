"""Clips: paired fidelity frame by frame, temporal flicker, and an export that VBench reads.

VBench (Huang et al. 2024, arXiv 2311.17982) itself needs an environment of its own; its temporal flickering needs no
weights and is here. Compare frames in memory: an encoded file measures the encoder too.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dita.metrics.fidelity import Pictures, Values, as_unit_range

VBENCH_MANIFEST = "manifest.json"


def per_frame(clip: Pictures, plain: Pictures, metric: Callable[[Pictures, Pictures], Values]) -> Values:
    """`metric` (such as `psnr` or `ssim`) of each frame with the plain pipeline's, (T,).

    Clips are (T, H, W, 3). The mean over frames is a clip's value, the mean over clips a method's. Raises
    `ValueError` for different shapes.
    """
    if clip.shape != plain.shape:
        raise ValueError(f"clips must have one shape, got {clip.shape} and {plain.shape}")
    if clip.ndim != 4:
        raise ValueError(f"clips are (T, H, W, C), got {clip.shape}")
    return np.asarray([float(metric(a, b)) for a, b in zip(clip, plain, strict=True)])


def temporal_flicker(clip: Pictures) -> float:
    """VBench's temporal flickering of a clip (T, H, W, 3): 1 - mean |f(t+1) - f(t)| in 0..1; 1 is a still picture.

    Larger is steadier, which is not better by itself: read it beside the plain pipeline's. VBench leaves still clips
    out (by optical flow) in its standard mode; this is the measure without that filter. Raises `ValueError` for fewer
    than two frames.

    >>> temporal_flicker(np.zeros((3, 2, 2, 3), np.uint8))
    1.0
    """
    if clip.ndim != 4 or len(clip) < 2:
        raise ValueError(f"a clip is (T, H, W, C) of at least 2 frames, got {clip.shape}")
    frames = as_unit_range(clip)
    return float(1 - np.mean([np.abs(b - a).mean() for a, b in itertools.pairwise(frames)]))


def export_for_vbench(
    clips: Sequence[NDArray[np.uint8]],
    prompts: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    fps: int = 8,
    samples: int = 1,
    write: Callable[[Path, NDArray[np.uint8], int], None] | None = None,
) -> list[Path]:
    """Writes clips (T, H, W, 3) as `prompt-i.mp4`, the names that VBench's standard mode expects, and a manifest.

    Clip number j is sample j % samples of prompt j // samples; VBench asks for five samples a prompt. The manifest
    maps each file to its prompt, for VBench's custom mode. `write(path, frames, fps)` encodes one clip; by default
    imageio's ffmpeg, which must be installed. Raises `ValueError` for counts that do not fit, prompts that differ only
    in characters that no file name holds, and `ImportError` without an encoder.
    """
    if len(clips) != len(prompts) * samples:
        raise ValueError(
            f"{len(prompts)} prompts of {samples} samples make {len(prompts) * samples} clips, got {len(clips)}"
        )
    names = [_file_name(prompt) for prompt in prompts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"prompts would share a file name: {twice[0]!r}")
    encode = write or _encoder()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, manifest = [], {}
    for j, clip in enumerate(clips):
        path = folder / f"{names[j // samples]}-{j % samples}.mp4"
        encode(path, clip, fps)
        paths.append(path)
        manifest[path.name] = prompts[j // samples]
    (folder / VBENCH_MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return paths


def _file_name(prompt: str) -> str:
    """The prompt without what file systems refuse, short enough for `-i.mp4` behind it."""
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", prompt).strip(" .") or "_"
    return name.encode()[:180].decode(errors="ignore")


def _encoder() -> Callable[[Path, NDArray[np.uint8], int], None]:
    try:
        import imageio.v3 as imageio

        importlib.import_module("imageio_ffmpeg")
    except ImportError:
        raise ImportError("writing mp4 needs an encoder: pip install imageio imageio-ffmpeg, or give `write`") from None

    def write(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
        options: dict[str, Any] = {"fps": fps, "codec": "libx264"}
        imageio.imwrite(path, frames, **options)

    return write
