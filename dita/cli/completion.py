"""What a shell completes: names of models, methods, scores and metrics. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from dita import miniature
from dita.methods import METHODS, SCORES
from dita.metrics.catalogue import METRICS
from dita.model_names import HUB_IDS
from dita.shapes import NAMED_SHAPES
from dita.studies import STUDIES
from dita.tables import TABLES

METRIC_NAMES = ", ".join(METRICS)


def models(incomplete: str) -> list[str]:
    """Bundled and published names; hub ids of the published ones once a `/` is near."""
    return _beginning(incomplete, (*miniature.MINIATURES, *NAMED_SHAPES, *HUB_IDS.values()))


def bundled_models(incomplete: str) -> list[str]:
    """Bundled names."""
    return _beginning(incomplete, miniature.MINIATURES)


def method(incomplete: str) -> list[str]:
    """Names of methods; the scores where a short form has come to its score."""
    name, *values = incomplete.split(":")
    place = len(values) - 1
    positional = METHODS[name].positional if name in METHODS else ()
    if 0 <= place < len(positional) and positional[place] == "score":
        given = ":".join((name, *values[:-1]))
        return _beginning(incomplete, (f"{given}:{score}" for score in SCORES))
    return _beginning(incomplete, METHODS)


def methods(incomplete: str) -> list[str]:
    """A list of methods with commas between, of which the last is completed."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{one}" for one in method(last)]


def method_names(incomplete: str) -> list[str]:
    """Names of methods."""
    return _beginning(incomplete, METHODS)


def metrics(incomplete: str) -> list[str]:
    """A list of metrics with commas between, of which the last is completed."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(last, METRICS)]


def scores(incomplete: str) -> list[str]:
    """Names of token scores."""
    return _beginning(incomplete, SCORES)


def tables(incomplete: str) -> list[str]:
    """Names of the published tables."""
    return _beginning(incomplete, TABLES)


def studies(incomplete: str) -> list[str]:
    """Names of the studies."""
    return _beginning(incomplete, STUDIES)


def shapes(incomplete: str) -> list[str]:
    """Of `dita bench`: small shapes and published names."""
    return _beginning(incomplete, itertools.chain(("cpu-flux", "cpu-pixart", "cpu-opensora"), NAMED_SHAPES))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().startswith(incomplete.lower())]
