"""The sizes and lengths that Open-Sora 1.2 was trained for (the values of its aspect.py, Apache-2.0)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dita.values import unknown

Size = tuple[int, int]
SizeTable = Mapping[str, Mapping[str, Size]]

_RATIOS = "3:8 9:21 12:25 1:2 9:17 27:50 9:16 5:8 2:3 3:4 1:1 4:3 3:2 16:9 17:9 2:1 50:27"
_ROWS = {
    "144p": "117x312 125x291 133x277 135x270 139x262 141x260 144x256 151x241 156x234 166x221 192x192 221x165 235x156"
    " 256x144 263x139 271x135 277x132",
    "240p": "196x522 210x490 222x462 226x452 232x438 236x436 240x426 252x404 262x393 276x368 320x320 370x278 392x262"
    " 426x240 440x232 452x226 462x222",
    "360p": "294x784 314x732 332x692 340x680 350x662 352x652 360x640 380x608 392x588 416x554 480x480 554x416 588x392"
    " 640x360 660x350 678x340 692x332",
    "480p": "392x1046 420x980 444x925 452x904 466x880 470x870 480x854 506x810 522x784 554x738 640x640 740x555 784x522"
    " 854x480 880x466 906x454 924x444",
    "720p": "588x1568 628x1466 666x1388 678x1356 698x1318 706x1306 720x1280 758x1212 784x1176 832x1110 960x960"
    " 1108x832 1176x784 1280x720 1320x698 1358x680 1386x666",
    "1080p": "882x2352 942x2198 998x2080 1018x2036 1048x1980 1058x1958 1080x1920 1138x1820 1176x1764 1248x1664"
    " 1440x1440 1662x1246 1764x1176 1920x1080 1980x1048 2036x1018 2078x998",
    "2k": "1176x3136 1256x2930 1330x2770 1358x2716 1398x2640 1412x2612 1440x2560 1518x2428 1568x2352 1662x2216"
    " 1920x1920 2218x1664 2352x1568 2560x1440 2638x1396 2716x1358 2772x1330",
    "4k": "1764x4704 1886x4400 1996x4158 2036x4072 2096x3960 2118x3918 2160x3840 2276x3642 2352x3528 2494x3326"
    " 2880x2880 3326x2494 3528x2352 3840x2160 3958x2096 4072x2036 4156x1994",
}


def _size(text: str) -> Size:
    height, width = text.split("x")
    return int(height), int(width)


SIZES: SizeTable = {
    resolution: dict(zip(_RATIOS.split(" "), map(_size, row.split()), strict=True)) for resolution, row in _ROWS.items()
}
"""(height, width) in nominal pixels, by resolution and aspect ratio height:width: "9:16" is a landscape picture."""

DURATIONS: Mapping[str, int] = {
    **{f"{seconds}s": 51 * seconds // 2 for seconds in (2, 4, 8, 16, 32)},
    **{f"{times}x": 51 * times for times in (1, 2, 4, 8, 16)},
}
"""Frames of named lengths, at 24 frames a second."""

MOST_FRAMES = 816

FRAME_COUNTS: tuple[int, ...] = (1, 4, 8, 12, 16, *range(17, MOST_FRAMES + 1, 17))
"""Lengths that the autoencoder and the time shift take without remainder: an image, short clips, and clips of 17."""


def frame_size(resolution: str, aspect_ratio: str, table: SizeTable = SIZES) -> Size:
    """(height, width) of a named size. Raises `ValueError` that names the known or nearest ones."""
    if resolution not in table:
        raise unknown("resolution", resolution, table)
    sizes = table[resolution]
    if aspect_ratio in sizes:
        return sizes[aspect_ratio]
    try:
        near = f"the nearest is {nearest_ratio(_ratio(aspect_ratio), sizes)!r}; "
    except (ValueError, ZeroDivisionError):
        near = ""
    raise ValueError(
        f"unknown aspect_ratio {aspect_ratio!r}, which is height:width ('9:16' is landscape); {near}known at"
        f" {resolution}: {', '.join(sizes)}"
    )


def check_size(height: int, width: int, table: SizeTable = SIZES) -> None:
    """Raises `ValueError`, with the nearest sizes, for one that the table does not have."""
    known = {size: f"{name} {ratio}" for name, sizes in table.items() for ratio, size in sizes.items()}
    if (height, width) in known:
        return
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive, got {height}x{width}")

    def distance(size: Size) -> float:
        return abs(math.log(size[0] / height)) + abs(math.log(size[1] / width))

    near = sorted(known, key=distance)[:3]
    names = ", ".join(f"{h}x{w} ({known[h, w]})" for h, w in near)
    raise ValueError(f"height x width {height}x{width} is not in the size table; the nearest are {names}")


def frame_count(num_frames: int | str) -> int:
    """The number of frames of a name such as `"2s"`, or the number itself.

    Raises `ValueError` that names the nearest allowed ones.
    """
    if isinstance(num_frames, str):
        if num_frames not in DURATIONS:
            raise ValueError(f"unknown num_frames {num_frames!r}; known: {', '.join(DURATIONS)}, or a whole number")
        return DURATIONS[num_frames]
    if num_frames in FRAME_COUNTS:
        return int(num_frames)
    near = sorted(sorted(FRAME_COUNTS, key=lambda count: abs(count - num_frames))[:2])
    raise ValueError(
        f"num_frames {num_frames} is not allowed; the nearest are {' and '.join(map(str, near))} (1, 4, 8, 12, 16,"
        f" or a multiple of 17 up to {MOST_FRAMES}; {', '.join(DURATIONS)} are names)"
    )


def nearest_ratio(height_over_width: float, ratios: Mapping[str, object]) -> str:
    """Of `ratios` ("height:width") the one that is nearest to a picture's."""
    return min(ratios, key=lambda ratio: abs(math.log(_ratio(ratio) / height_over_width)))


def _ratio(text: str) -> float:
    height, width = text.split(":")
    return float(height) / float(width)


@dataclass(frozen=True)
class VideoFormat:
    """Nominal size in pixels, length in frames and frame rate of a video."""

    height: int
    width: int
    num_frames: int
    fps: float

    @classmethod
    def choose(
        cls,
        *,
        resolution: str | None = None,
        aspect_ratio: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | str = "2s",
        fps: float = 24,
        table: SizeTable = SIZES,
    ) -> VideoFormat:
        """The format that names or numbers give; 240p and 9:16 by default, where the table has them.

        Otherwise the default is the table's largest resolution, and a square or else the widest picture.

        Raises `ValueError` for names and numbers outside of the tables, and for both at once.
        """
        if (height is None) != (width is None):
            raise ValueError(f"height and width must be given together, got height={height} and width={width}")
        if height is not None and width is not None:
            if resolution is not None or aspect_ratio is not None:
                raise ValueError("give either height and width, or resolution and aspect_ratio, not both")
            check_size(height, width, table)
        else:
            resolution = resolution or _default_resolution(table)
            height, width = frame_size(resolution, aspect_ratio or _default_ratio(table.get(resolution, {})), table)
        if not fps > 0:
            raise ValueError(f"fps must be above 0, got {fps}")
        return cls(height, width, frame_count(num_frames), fps)


def _default_resolution(table: SizeTable) -> str:
    if "240p" in table:
        return "240p"
    return max(sorted(table), key=lambda name: max(height * width for height, width in table[name].values()))


def _default_ratio(ratios: Mapping[str, Size]) -> str:
    known = [ratio for ratio in ("9:16", "1:1") if ratio in ratios]
    return known[0] if known else min(sorted(ratios), key=_ratio, default="9:16")
