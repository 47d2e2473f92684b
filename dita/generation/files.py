"""Pictures and videos as the bytes of files."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # bytes alone need no torch
    from dita.generation.sampling import Frames, Made


def encoded(made: Made, format: str, fps: float | None = None) -> bytes:
    """The bytes of the file: PNG, WebP without loss, or MP4 (H.264). Raises `ValueError` for the wrong kind."""
    if format == "mp4":
        if made.frames is None:
            raise ValueError("mp4 is for videos; this pipeline makes pictures: choose png or webp")
        return mp4(made.frames, fps or 24)
    if made.picture is None:
        raise ValueError(f"{format} is for pictures; this pipeline makes videos: choose mp4")
    buffer = io.BytesIO()
    if format == "png":
        made.picture.save(buffer, "PNG", compress_level=4)
    else:
        made.picture.save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def mp4(frames: Frames, fps: float) -> bytes:
    """The bytes of an MP4 file (H.264) with these frames. Raises `ImportError` without an encoder."""
    try:
        import imageio.v3 as imageio
        import imageio_ffmpeg  # noqa: F401 (imageio asks for it late, and says less)
    except ImportError:
        raise ImportError("writing mp4 needs an encoder: pip install imageio imageio-ffmpeg") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        imageio.imwrite(path, frames, fps=fps, codec="libx264", macro_block_size=2)
        return path.read_bytes()
