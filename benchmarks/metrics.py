"""What the evaluators cost: seconds and peak memory of FID over many pictures, and of a 2048-wide Frechet distance.

FID is measured on files, as `dita evaluate` does it: reading, resizing, features, statistics. The features are those of
the bundled `shapes-features`; where that is not there, of a random network of its kind, which the output says. Peak
memory is that of the whole process (Linux), for a tenth of the pictures too: it must not grow with their number. Beside
the seconds that passed stand those of the processors, which a busy machine does not lengthen as much.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from dita import networks
from dita.evaluate import evaluate
from dita.metrics.catalogue import parse
from dita.metrics.efficiency import Meter
from dita.metrics.features import FeatureNetwork, transformers_features
from dita.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_of_features
from dita.metrics.kernels import kid
from dita.metrics.picture_sets import PictureSet, open_pictures
from dita.miniature import world
from dita.networks import Found, Networks

CHUNK = 500  # pictures drawn at once


def draw(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    for start in range(0, count, CHUNK):
        pictures, _ = world.pictures(min(CHUNK, count - start), seed + start)
        for i, picture in enumerate(pictures, start):
            Image.fromarray(picture).save(folder / f"{i:05d}.png", compress_level=1)


def feature_network() -> tuple[FeatureNetwork, str]:
    try:
        return networks.bundled_features("shapes-features"), "bundled shapes-features"
    except (ValueError, FileNotFoundError):
        from transformers import Dinov2Config, Dinov2Model

        torch.manual_seed(0)

        config = Dinov2Config(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8)
        with tempfile.TemporaryDirectory() as folder:
            Dinov2Model(config).save_pretrained(folder)
            size = {"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
            (Path(folder) / "preprocessor_config.json").write_text(json.dumps(size))
            return transformers_features(folder), "a random vision transformer, 4 layers of width 128, patches of 8"


class OneNetwork(Networks):
    """Networks of which Inception is the one to be measured."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self._network = network

    def find(self, need: str) -> Found:
        return Found(self._network.identity.network, "given")

    def features(self, need: str) -> FeatureNetwork:
        return self._network


def first(pictures: PictureSet, count: int) -> PictureSet:
    return PictureSet(pictures.name, pictures.entries[:count])


def fid(count: int, metrics: str) -> dict[str, object]:
    network, name = feature_network()
    result: dict[str, object] = {"pictures": count, "metrics": metrics, "features": name, "width": network.width}
    with tempfile.TemporaryDirectory() as place:
        made, real = Path(place) / "made", Path(place) / "real"
        draw(made, count, seed=0)
        draw(real, count, seed=10 * count)
        mades, reals = open_pictures(made), open_pictures(real)
        reals = PictureSet(reals.name, tuple(replace(entry, id=f"real {entry.id}") for entry in reals.entries))
        for part in (count // 10, count):
            with Meter() as meter:
                start, work = time.perf_counter(), time.process_time()
                found = evaluate(
                    first(mades, part),
                    parse(metrics),
                    OneNetwork(network),
                    reference=first(reals, part),
                    console=Console(quiet=True),
                )
                seconds, work = time.perf_counter() - start, time.process_time() - work
            values = {r.metric: r.value.mean for r in found.results}
            peak = None if meter.peak_bytes is None else round(meter.peak_bytes / 1e6)
            result[f"of {part} and {part}"] = {
                "seconds": round(seconds, 2),
                "of processors": round(work, 2),
                "peak MB": peak,
                **values,
            }
    return result


def frechet(width: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(width + 1000, width, generator=generator)
    y = torch.randn(width + 1000, width, generator=generator) * torch.linspace(0.2, 2, width)
    many = [FeatureStatistics.of(z) for z in (x, y)]
    few = [FeatureStatistics.of(z[:500]) for z in (x, y)]
    return {
        "width": width,
        "seconds, more pictures than features": _seconds(lambda: frechet_distance(*many)),
        "seconds, 500 pictures, from statistics": _seconds(lambda: frechet_distance(*few)),
        "seconds, 500 pictures, from features": _seconds(lambda: frechet_distance_of_features(x[:500], y[:500])),
        "seconds, KID of 2000 pictures": _seconds(lambda: kid(x[:2000], y[:2000])),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--metrics", default="fid", help="fid, or fid,kid, whose features are kept")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = {
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "frechet": frechet(arguments.width),
        "fid": fid(arguments.pictures, arguments.metrics),
    }
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
