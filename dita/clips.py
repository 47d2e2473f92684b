"""What is shown of a clip: its frames side by side, and an animation."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

PREVIEW_FPS = 8
PREVIEW_SIDE = 256  # pixels a side of an animation, at most; larger clips are scaled down


def is_clip(picture: np.ndarray) -> bool:
    """Whether this is a clip (T, H, W, 3), and not a picture (H, W, 3)."""
    return picture.ndim == 4


def film_strip(clip: np.ndarray) -> np.ndarray:
    """The frames of a clip (T, H, W, 3) from left to right: (H, T * W, 3)."""
    return np.concatenate(list(clip), axis=1)


def animation(clip: np.ndarray, fps: int = PREVIEW_FPS) -> bytes:
    """A GIF of a uint8 clip (T, H, W, 3) that repeats for ever; every frame has its own palette of 256 colours."""
    frames = [Image.fromarray(frame) for frame in clip]
    for frame in frames:
        frame.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    paletted = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    rest = {"append_images": paletted[1:], "duration": round(1000 / fps), "loop": 0, "disposal": 1}
    paletted[0].save(buffer, "GIF", save_all=True, optimize=False, **rest)
    return buffer.getvalue()
