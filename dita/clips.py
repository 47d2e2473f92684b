"""What is shown of a clip: its frames side by side, and an animation."""

from __future__ import annotations

import io
from typing import Any

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
    frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in _previews(clip)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", optimize=False, disposal=1, **_moving(frames, fps))
    return buffer.getvalue()


def light_animation(clip: np.ndarray, fps: int = PREVIEW_FPS) -> bytes:
    """The same as WebP, a tenth of the bytes and not exact: for pages that hold many."""
    frames, buffer = _previews(clip), io.BytesIO()
    frames[0].save(buffer, "WEBP", quality=90, **_moving(frames, fps))
    return buffer.getvalue()


def _previews(clip: np.ndarray) -> list[Image.Image]:
    frames = [Image.fromarray(frame) for frame in clip]
    for frame in frames:
        frame.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    return frames


def _moving(frames: list[Image.Image], fps: int) -> dict[str, Any]:
    return {"save_all": True, "append_images": frames[1:], "duration": round(1000 / fps), "loop": 0}
