"""Pictures and videos as bytes, and files that are there whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # files alone need no torch
    from dita.generation.sampling import Frames, Made

PARTIAL = ".partial"
"""What ends the name of a file that is being written."""


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


def write_whole(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds all of it or what it held before, also when the power fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes new names in `folder` survive a power failure, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path, *names: str) -> None:
    """Removes what writers that were killed have left: of all files, or of those of these names."""
    for name in names or ("",):
        for path in folder.glob(f".{name}*{PARTIAL}"):
            path.unlink(missing_ok=True)


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
