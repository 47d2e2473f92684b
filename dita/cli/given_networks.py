"""Metrics, their networks, devices and workers, as options give them."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dita.values import choice

if TYPE_CHECKING:
    from dita.sharing import Workers


def metrics_of(metrics: str | None) -> list[Any]:
    """The metrics that `--metrics` names."""
    from dita.metrics import catalogue

    return catalogue.parse(metrics) if metrics is not None else []


def networks_named(network: list[str] | None) -> list[str]:
    """The names of `--network NAME=SOURCE`."""
    return [entry.partition("=")[0].lower() for entry in network or ()]


def networks_of(
    weights: Path | None, given: list[str], *, device: str, resize: str = "tensorflow", download: bool = False
) -> Any:
    """Where the evaluators' networks come from, as `dita.networks.Networks`."""
    from dita.metrics.inception import RESIZES
    from dita.networks import Networks

    chosen = {name.lower(): source for name, _, source in (entry.partition("=") for entry in given)}
    if not all(chosen.values()):
        raise ValueError(f"--network takes NAME=PATH or NAME=HUB_ID, got {', '.join(given)}")
    mode = choice("resize", resize, RESIZES)
    return Networks(weights, chosen=chosen, device=checked_device(device), resize=mode, download=download)


def checked_device(name: str) -> str:
    """The name of a device that is there; raises `ValueError` for another."""
    from dita import models

    models.check_device(name)
    return name


def workers_of(text: str) -> tuple[int, int]:
    """The fewest and the most, from `4` or `1..8`."""
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high:
        raise ValueError(f"--workers must be a number from 1 on, or a range such as 1..8, got {text!r}")
    return low, high


def opened_workers(engine: str, actors: str) -> AbstractContextManager[Workers | None]:
    """Those who share the work, as `dita.sharing.opened`."""
    from dita import sharing

    return sharing.opened(engine, workers_of(actors))
