"""Reference statistics as `.npz`: pytorch-fid's layout (`mu`, `sigma`) and ADM's (`arr_0`, `mu`, `sigma`).

Files of dita are in pytorch-fid's layout, with `n` and the identity of the network beside it, so that others read them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from dita.metrics.features import Identity
from dita.metrics.frechet import FeatureStatistics
from dita.metrics.images import Picture


@dataclass(frozen=True)
class Reference:
    """Statistics of reference pictures; `identity` is None in files of others, which do not say their network."""

    statistics: FeatureStatistics
    identity: Identity | None


def write_statistics(path: str | Path, statistics: FeatureStatistics, identity: Identity) -> None:
    """Writes `mu` (d,), `sigma` (d, d) unbiased, `n` and `provenance` (JSON). Raises `ValueError` below 2 pictures."""
    Path(path).write_bytes(statistics_bytes(statistics, identity))


def statistics_bytes(statistics: FeatureStatistics, identity: Identity) -> bytes:
    """The file that `write_statistics` writes. Raises as it does."""
    mean, covariance = statistics.mean.cpu().numpy(), statistics.covariance.cpu().numpy()
    provenance = np.array(json.dumps(asdict(identity)))
    file = io.BytesIO()
    np.savez(file, mu=mean, sigma=covariance, n=np.array(statistics.count or 0), provenance=provenance)
    return file.getvalue()


def read_statistics(path: str | Path) -> Reference | None:
    """The statistics in a file, or None where it holds pictures only (`arr_0`: see `read_pictures`).

    Raises `FileNotFoundError`, and `ValueError` for a damaged file, other contents, or sizes that do not fit.
    """
    with _open(path) as file:
        if not {"mu", "sigma"} <= set(file.files):
            if "arr_0" in file.files:
                return None
            raise ValueError(
                f"{str(path)!r} holds {', '.join(file.files) or 'nothing'}; expected mu and sigma, or arr_0"
            )
        mean, sigma = _array(file, "mu", path), _array(file, "sigma", path)
        count = int(_array(file, "n", path)) if "n" in file.files else 0
        provenance = json.loads(str(_array(file, "provenance", path))) if "provenance" in file.files else None
    if mean.ndim != 1 or sigma.shape != (len(mean), len(mean)):
        raise ValueError(f"{str(path)!r}: mu {mean.shape} and sigma {sigma.shape} do not fit each other")
    if not (np.isfinite(mean).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{str(path)!r}: mu or sigma hold NaN or infinity")
    covariance = torch.from_numpy(sigma.astype(np.float64))
    scatter = covariance * (count - 1) if count > 1 else covariance
    statistics = FeatureStatistics(count if count > 1 else None, torch.from_numpy(mean.astype(np.float64)), scatter)
    return Reference(statistics, Identity(**provenance) if provenance else None)


def write_pictures(path: str | Path, pictures: Iterable[Picture], count: int) -> None:
    """Writes `count` uint8 pictures of one size as ADM's sample batch, `arr_0` (N, H, W, 3), one at a time.

    ADM's evaluator reads this file as samples and as reference. Raises `ValueError` for another count or mixed sizes.
    """
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as f,
    ):
        shape: tuple[int, ...] | None = None
        written = 0
        for picture in pictures:
            written += 1
            if shape is None:
                shape = picture.shape
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                npy.write_array_header_2_0(f, header)
            if picture.shape != shape or picture.dtype != np.uint8:
                raise ValueError(f"pictures must be uint8 of one size, {shape}; got {picture.dtype} {picture.shape}")
            f.write(np.ascontiguousarray(picture).tobytes())
        if written != count:
            raise ValueError(f"there are {written} pictures, expected {count}")


def read_pictures(path: str | Path) -> Iterator[Picture]:
    """The pictures of ADM's `arr_0`, one at a time, without reading the whole file into memory.

    Raises `ValueError` where it is not uint8 (N, H, W, 3).
    """
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        shape = _picture_shape(file, path)
        size = int(np.prod(shape[1:]))
        for _ in range(shape[0]):
            data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{str(path)!r}: arr_0 ends too early")
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def count_pictures(path: str | Path) -> int:
    """How many pictures `read_pictures` gives. Raises `ValueError` as it does."""
    return _shape_of(path)[0]


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width of the pictures that `read_pictures` gives."""
    height, width = _shape_of(path)[1:3]
    return height, width


def _shape_of(path: str | Path) -> tuple[int, ...]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            return _picture_shape(file, path)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{str(path)!r} holds no pictures (arr_0), or is damaged: {error}") from None


def _picture_shape(file: Any, path: str | Path) -> tuple[int, ...]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or fortran:
        raise ValueError(f"{str(path)!r}: arr_0 must be uint8 (N, H, W, 3), got {dtype} {shape}")
    return shape


def _open(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no statistics file {str(path)!r}")
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} is no .npz file, or is damaged") from error
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError(f"{str(path)!r} holds a single array; expected an .npz with mu and sigma, or arr_0")
    return loaded


def _array(file: Any, key: str, path: str | Path) -> np.ndarray:
    try:
        return np.asarray(file[key])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r}: {key} is damaged or holds objects: {error}") from None
