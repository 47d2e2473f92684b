"""Ray, connected to the cluster of the environment or to a local one, and quiet."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any


def connected(actors: tuple[int, int]) -> Any:
    """The module `ray` with `ray.data`, connected to the cluster of `RAY_ADDRESS`, else to a local one.

    `actors` are the fewest and the most that will be asked for; a local cluster has room for them.
    Raises `ValueError` where Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 'dita[ray]'") from None
    if not ray.is_initialized():
        alone = "RAY_ADDRESS" not in os.environ
        cpus = max(os.cpu_count() or 1, actors[1] + 1)
        local = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="warning", **(local if alone else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Ray's own settings, which it reads here
        ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return ray


def mapping(actors: tuple[int, int], *, cuda: bool) -> dict[str, Any]:
    """How a dataset is mapped over actors: their numbers, and a GPU each where `cuda`, else a CPU."""
    import ray.data

    strategy = ray.data.ActorPoolStrategy(min_size=actors[0], max_size=actors[1], max_tasks_in_flight_per_actor=2)
    return {"compute": strategy, "num_cpus": 1, "num_gpus": 1 if cuda else 0}
