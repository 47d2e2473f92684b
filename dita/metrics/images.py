"""Pictures as the networks want them: reading files without guessing, and one PIL preparation for every network.

Never a processor of transformers: what those compute depends on whether torchvision is installed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

MISSING = "there is no such file"
"""Why a picture that is not there cannot be used."""

Fit = Literal["crop", "squash", "letterbox"]
Picture = NDArray[np.uint8]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""


class UnusablePicture(ValueError):
    """A file that cannot be compared as it is; the message names it and says what to do."""


def is_constant(picture: Picture) -> bool:
    """Whether a picture (H, W, C), or all of a clip (T, H, W, C), is of one colour, as what was made of NaN is."""
    pixels = picture.reshape(-1, picture.shape[-1])
    return bool(len(pixels)) and bool((pixels == pixels[0]).all())


def read(path: str | os.PathLike[str]) -> Picture:
    """The picture in a file as uint8 (H, W, 3), the right way up where its EXIF data say how the camera was held.

    Grey and palette pictures become RGB, and an alpha channel that is opaque everywhere is left out. Raises
    `UnusablePicture` for what has no single right reading: CMYK and Lab, more than 8 bits a channel, transparency,
    several frames, a damaged or missing file.
    """
    name = os.fspath(path)
    try:
        _refuse_deep_png(Path(path))
        with Image.open(path) as image:
            return _as_rgb(_upright(image, name), name)
    except FileNotFoundError:
        raise UnusablePicture(f"{name}: {MISSING}") from None
    except UnidentifiedImageError:
        raise UnusablePicture(f"{name}: is not a picture that Pillow knows") from None
    except UnusablePicture:
        raise
    except _UNREADABLE as error:
        raise UnusablePicture(f"{name}: is damaged or unreadable ({error})") from None


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of the picture that `read` gives, from the head of the file. Raises `UnusablePicture`."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow itself turns a TIFF, and says the size that it then has.
            return (height, width) if image.format != "TIFF" and _orientation(image) >= 5 else (width, height)
    except FileNotFoundError:
        raise UnusablePicture(MISSING) from None
    except _UNREADABLE:
        raise UnusablePicture("is damaged, or not a picture") from None


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes the input of a network: resized by PIL with antialiasing, scaled to 0..1, normalised.

    `fit` says what happens to pictures that are not square: `crop` scales the shorter side to `size` and cuts the
    middle out, as torchvision's `Resize` and `CenterCrop` do, bit for bit; `squash` stretches; `letterbox` scales the
    longer side and pads with black before normalising.
    """

    size: int
    fit: Fit = "crop"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def __str__(self) -> str:
        return f"{self.fit} {self.size} {self.resample.name.lower()}, PIL"

    def __call__(self, pictures: Sequence[Picture | Image.Image]) -> torch.Tensor:
        """uint8 pictures of any sizes, (H, W, 3) each, as float32 (B, 3, size, size)."""
        fitted = np.stack([self.fitted(_as_image(picture)) for picture in pictures])
        scaled = torch.from_numpy(fitted).permute(0, 3, 1, 2).to(torch.float32).div(255)
        return (scaled - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def fitted(self, image: Image.Image) -> Picture:
        """The picture at the network's size, uint8 (size, size, 3); the colour mode is changed after resizing."""
        width, height = image.size
        if self.fit == "squash":
            return np.asarray(resized(image, (self.size, self.size), self.resample).convert("RGB"))
        if self.fit == "letterbox":
            scale = self.size / max(width, height)
            small = resized(image, (max(1, round(width * scale)), max(1, round(height * scale))), self.resample)
            canvas = Image.new("RGB", (self.size, self.size))
            canvas.paste(small.convert("RGB"), ((self.size - small.width) // 2, (self.size - small.height) // 2))
            return np.asarray(canvas)
        longer = int(self.size * max(width, height) / min(width, height))
        sides = (longer, self.size) if width >= height else (self.size, longer)
        image = resized(image, sides, self.resample)
        left, top = (round((side - self.size) / 2.0) for side in sides)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)).convert("RGB"))


def resized(image: Image.Image, sides: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """`image` at (width, height) `sides`, the same with every release of Pillow.

    A resize is a pass over the width and one over the height, and rounds between them. Pillow 13 takes the height first
    where that loses more than twice as many pixels, releases before it never do; here the passes are apart, in the
    order of Pillow 13.
    """
    (width, height), (new_width, new_height) = image.size, sides
    if (width, height) == sides:
        return image
    if image.mode in ("RGBA", "LA"):  # resized with premultiplied colours
        return resized(image.convert(image.mode[:-1] + "a"), sides, resample).convert(image.mode)
    height_first = new_height < height and height - new_height > 2 * (width - new_width)
    return image.resize((width, new_height) if height_first else (new_width, height), resample).resize(sides, resample)


def _as_image(picture: Picture | Image.Image) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def _upright(image: Image.Image, name: str) -> Image.Image:
    """The image as it is to be seen. Raises `UnusablePicture` for several frames."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews of itself
        raise UnusablePicture(f"{name}: has {frames} frames; save the one that is meant as a picture first")
    image.load()
    return ImageOps.exif_transpose(image) if _orientation(image) > 1 else image


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1..8 as EXIF counts; 1 where the file does not say it, or not readably."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _UNREADABLE:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _as_rgb(image: Image.Image, name: str) -> Picture:
    if image.mode in ("CMYK", "LAB"):
        raise UnusablePicture(f"{name}: is {image.mode}, whose colours depend on a profile; convert it to RGB first")
    if image.mode.startswith(("I", "F")):
        raise UnusablePicture(f"{name}: has more than 8 bits a channel (mode {image.mode}); save it with 8 first")
    if "A" in image.mode or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            raise UnusablePicture(f"{name}: has transparent pixels; flatten it onto a background first")
        return rgba[..., :3].copy()
    return np.asarray(image.convert("RGB"))


def _refuse_deep_png(path: Path) -> None:
    """Pillow reads 16-bit colour PNG as 8 bits without a word: byte 24 of the file is the bit depth."""
    with path.open("rb") as file:
        head = file.read(25)
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 25 and head[24] == 16:
        raise UnusablePicture(f"{path}: has 16 bits a channel; save it with 8 first")
