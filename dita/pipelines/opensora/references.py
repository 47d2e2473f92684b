"""Reference images and videos: brought to the size of the video, encoded, and placed by a mask strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional as F
from diffusers.video_processor import VideoProcessor

from dita.pipelines.opensora import mask_strategy
from dita.pipelines.opensora.mask_strategy import Entry
from dita.pipelines.opensora.sizes import nearest_ratio

Reference = Any
"""A picture (PIL, `(H, W, 3)` array or `(3, H, W)` tensor) or a video (a list of PIL, `(T, H, W, 3)`, `(T, 3, H, W)`);
arrays and tensors are in [0, 1], or bytes. PIL pictures may be grey, have a palette, 16 bits, or alpha that is opaque
everywhere; they are turned as their EXIF data say."""

_SLACK = 1e-3
"""How far from [0, 1] rounding may bring a number."""

ASPECT_TOLERANCE = 0.05
"""How far the aspect of a reference may be from the video's: the sizes of the table are themselves rounded."""


@dataclass
class Conditions:
    """The references of one video as normalised latents `(C, T, H, W)`, and the entries that place them."""

    entries: list[Entry]
    latents: list[torch.Tensor]

    def in_loop(self, loop: int) -> bool:
        """Whether a reference stands in the clip of `loop`."""
        return any(entry.loop == loop for entry in self.entries)

    def add(self, latents: torch.Tensor, loop: int, length: int, edit: float) -> None:
        """The last `length` latent frames of an earlier clip begin the clip of `loop`."""
        self.latents.append(latents)
        self.entries.append(Entry(loop, len(self.latents) - 1, -length, 0, length, edit))


def place(
    noise: torch.Tensor, conditions: Sequence[Conditions], loop: int, align: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latents `(B, C, T, H, W)` with the references of `loop`, and the mask `(B, T)` on the CPU, None without any."""
    if not any(own.in_loop(loop) for own in conditions):
        return noise, None
    placed = [
        mask_strategy.apply(own.entries, sample, own.latents, loop, align)
        for sample, own in zip(noise, conditions, strict=True)
    ]
    return torch.stack([sample for sample, _ in placed]), torch.stack([mask for _, mask in placed])


def arrange(
    image: Reference | None,
    references: Sequence[Any] | None,
    strategy: str | Sequence[str] | None,
    count: int,
    loops: int,
) -> list[tuple[list[Reference], list[Entry]]]:
    """For each of `count` prompts its references and the entries that place them; both may be empty.

    Raises `ValueError` for arguments that contradict each other, and for entries of a loop or a reference that there
    is none of.
    """
    if image is not None:
        if references is not None or strategy is not None:
            raise ValueError("image stands for references=[image] and mask_strategy='0': give it, or those two")
        return [([image], [Entry()]) for _ in range(count)]
    if (references is None) != (strategy is None):
        given, absent = ("references", "mask_strategy") if strategy is None else ("mask_strategy", "references")
        raise ValueError(f"{given} were given without {absent}: the one says what stands in the video, the other where")
    if references is None or strategy is None:
        return [([], []) for _ in range(count)]
    if not isinstance(references, (list, tuple)):
        raise ValueError(f"references must be a list, got {type(references).__name__}; give [reference]")
    strategies = [strategy] * count if isinstance(strategy, str) else list(strategy)
    of_prompt = [list(references)] if count == 1 else [list(own) for own in references]
    for name, values in (("mask_strategy", strategies), ("references", of_prompt)):
        if len(values) != count:
            raise ValueError(f"{name} must have one value for each of {count} prompts, got {len(values)}")
    arranged = []
    for own, text in zip(of_prompt, strategies, strict=True):
        entries = mask_strategy.parse(text)
        if own and not entries:
            raise ValueError(f"{len(own)} references were given, but the mask strategy {text!r} places none")
        for entry in entries:
            if entry.reference >= len(own):
                raise ValueError(
                    f"mask strategy {text!r} asks for reference {entry.reference}, but {len(own)} were given"
                )
            if entry.loop >= loops:
                raise ValueError(f"mask strategy {text!r} asks for loop {entry.loop}, but loop={loops}")
        arranged.append((own, entries))
    return arranged


def reference_video(
    reference: Reference, height: int, width: int, ratios: Mapping[str, object], *, crop: bool = False
) -> torch.Tensor:
    """The reference as a video `(1, 3, T, height, width)` in [-1, 1].

    `ratios` are the aspect ratios to name in an error. Raises `ValueError` for an aspect more than 5 % from the
    video's, unless `crop` allows to cut it about its centre, and for what is neither a picture nor a video.
    """
    frames = _frames(reference)  # (T, 3, H, W)
    rows, columns = frames.shape[-2:]
    stretch = (rows / columns) / (height / width)
    if not crop and not 1 / (1 + ASPECT_TOLERANCE) <= stretch <= 1 + ASPECT_TOLERANCE:
        raise ValueError(
            f"the reference of {rows}x{columns} pixels (height x width) has another aspect than the video of"
            f" {height}x{width}; cut it, choose aspect_ratio={nearest_ratio(rows / columns, ratios)!r}, or pass"
            " crop_references=True"
        )
    kept_rows = min(rows, max(1, round(columns * height / width)))
    kept_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    frames = frames[..., top : top + kept_rows, left : left + kept_columns]
    frames = F.interpolate(frames, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
    return frames.transpose(0, 1)[None]


def _frames(reference: Reference) -> torch.Tensor:
    """`(T, 3, H, W)` in [-1, 1]."""
    if isinstance(reference, PIL.Image.Image):
        reference = [reference]
    if isinstance(reference, (list, tuple)) and reference and all(isinstance(r, PIL.Image.Image) for r in reference):
        pictures = [_rgb(picture) for picture in reference]
        sizes = sorted({picture.shape[:2] for picture in pictures})
        if len(sizes) > 1:
            raise ValueError(f"the frames of a reference must have one size, got {_sizes(sizes)} (height x width)")
        reference = np.stack(pictures)
    elif isinstance(reference, (np.ndarray, torch.Tensor)):
        reference = _unit(reference)
        reference = reference[None] if reference.ndim == 3 else reference
    if not reference_is_array(reference):
        shape = f" of shape {tuple(reference.shape)}" if isinstance(reference, (np.ndarray, torch.Tensor)) else ""
        raise ValueError(
            "a reference must be a picture or a video as PIL images, a numpy array ([T,] H, W, 3) or a torch tensor"
            f" ([T,] 3, H, W), got {type(reference).__name__}{shape}"
        )
    video = VideoProcessor(do_resize=False).preprocess_video(reference[None])
    return video[0].transpose(0, 1).float()


def _rgb(picture: PIL.Image.Image) -> np.ndarray:
    """A picture of any mode as `(H, W, 3)` in [0, 1], turned as its EXIF data say.

    Raises `ValueError` that names the mode where its colours are not told without a profile, its range is unknown, or
    parts of it are transparent.
    """
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # a camera's JPEG with previews of itself
        raise ValueError(f"a reference file has {frames} frames; pass a list of those that are meant, each a picture")
    picture = PIL.ImageOps.exif_transpose(picture)
    mode = picture.mode
    if mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32) / 65535
        return np.repeat(grey[..., None], 3, axis=-1)
    if mode in ("I", "F"):
        raise ValueError(f"a reference of mode {mode} has numbers of unknown range; convert it to RGB or L first")
    if mode in ("CMYK", "LAB"):
        raise ValueError(f"a reference of mode {mode} has colours that depend on a profile; convert it to RGB first")
    if mode in ("La", "RGBa"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    if "A" in picture.mode or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            raise ValueError(
                f"a reference of mode {mode} is transparent in places, and a video has no transparency; put it on a"
                " background first"
            )
        return rgba[..., :3].astype(np.float32) / 255
    return np.asarray(picture.convert("RGB")).astype(np.float32) / 255


def _unit(values: Any) -> Any:
    """An array or a tensor of bytes, or of numbers in [0, 1], as the latter. Raises `ValueError` for others."""
    if values.dtype in (np.uint8, torch.uint8):
        return values / 255
    floating = values.is_floating_point() if isinstance(values, torch.Tensor) else values.dtype.kind == "f"
    if not floating:
        raise ValueError(f"a reference must be bytes (uint8), or numbers in [0, 1], got {values.dtype}")
    # written so that NaN is outside, too
    count = values.numel() if isinstance(values, torch.Tensor) else values.size
    if count and not (float(values.min()) >= -_SLACK and float(values.max()) <= 1 + _SLACK):
        least, most = float(values.min()), float(values.max())
        raise ValueError(f"a reference of {values.dtype} must be in [0, 1], got numbers from {least:g} to {most:g}")
    return values


def _sizes(sizes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)


def reference_is_array(reference: Reference) -> bool:
    """Whether it is a `(T, H, W, 3)` array or a `(T, 3, H, W)` tensor."""
    if isinstance(reference, torch.Tensor):
        return reference.ndim == 4 and reference.shape[1] == 3 and reference.numel() > 0
    return isinstance(reference, np.ndarray) and reference.ndim == 4 and reference.shape[-1] == 3 and reference.size > 0
