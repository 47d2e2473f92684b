"""Distances between two sets of pictures as results: value, numbers of pictures, identity, and what to distrust.

FID is biased upwards in small samples, by an amount that depends on the network and on N: values of different N or
resize modes do not compare. The comparison of two methods is the paired one: the difference of their FIDs to one
reference, from the same prompts and seeds, in which the bias cancels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dita.metrics.bootstrap import RESAMPLES, Average, interval
from dita.metrics.features import FeatureNetwork, Identity
from dita.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_of_features
from dita.metrics.images import Picture
from dita.metrics.kernels import cmmd, kid

BLOCK = 1024  # pictures whose features a collector has room for at first
TRUSTED_RATIO = 10  # pictures for each feature, below which FID's bias drowns it
BOOTSTRAP_WIDTH = 256  # features up to which a difference of FIDs is bootstrapped: beyond, it takes minutes
BOOTSTRAP_RESAMPLES = 200
BOOTSTRAP_PAIRS = 4000  # pairs up to which a difference of KIDs is: it holds a matrix of pairs by pairs


@dataclass(frozen=True)
class Sample:
    """The features of one set of pictures: streamed statistics, and the vectors themselves where they were kept."""

    identity: Identity | None
    statistics: FeatureStatistics
    features: torch.Tensor | None = None

    @property
    def count(self) -> int | None:
        """Pictures, or None where a file of others does not say."""
        return self.statistics.count


class Collector:
    """Gathers a `Sample` batch by batch. `keep` keeps the features too, as kernel distances need: 4 bytes a number."""

    def __init__(self, network: FeatureNetwork, *, keep: bool) -> None:
        self.network, self.keep = network, keep
        self._statistics = FeatureStatistics.empty(network.width)
        # One block that doubles: many small ones between a network's activations would keep the heap from shrinking.
        self._kept = torch.empty(BLOCK, network.width)

    def add(self, pictures: Sequence[Picture]) -> None:
        """Takes uint8 pictures (H, W, 3) in."""
        features = self.network(pictures)
        if self.keep:
            self._hold(features)
        self._statistics = self._statistics + FeatureStatistics.of(features)

    def sample(self) -> Sample:
        """What was gathered so far."""
        kept = self._kept[: self._count].clone() if self.keep else None  # a view would travel with all of the block
        return Sample(self.network.identity, self._statistics, kept)

    @property
    def _count(self) -> int:
        return self._statistics.count or 0

    def _hold(self, features: torch.Tensor) -> None:
        end = self._count + len(features)
        if end > len(self._kept):
            larger = torch.empty(max(end, 2 * len(self._kept)), features.shape[1])
            larger[: self._count] = self._kept[: self._count]
            self._kept = larger
        self._kept[self._count : end] = features


def collect(network: FeatureNetwork, batches: Iterable[Sequence[Picture]], *, keep: bool = False) -> Sample:
    """The sample of all batches of pictures."""
    collector = Collector(network, keep=keep)
    for batch in batches:
        collector.add(batch)
    return collector.sample()


def joined(samples: Sequence[Sample]) -> Sample:
    """The sample of all pictures of `samples`, which are of one network, in their order.

    Statistics are added (Chan, Golub and LeVeque 1983): to rounding in float64 what one collector would have gathered.
    """
    first, *rest = samples
    features = [sample.features for sample in samples if sample.features is not None]
    return Sample(
        first.identity,
        sum((sample.statistics for sample in rest), start=first.statistics),
        torch.cat(features) if len(features) == len(samples) else None,
    )


@dataclass(frozen=True)
class Distance:
    """One distance between two samples: `value` over `count` and `reference_count` pictures (None: not known).

    `unbiased` is a second estimate where the published one is biased. `warnings` say in words what to distrust.
    """

    metric: str
    value: float
    count: int | None
    reference_count: int | None
    identity: Identity | None
    unbiased: float | None = None
    warnings: tuple[str, ...] = field(default=())


def fid(sample: Sample, reference: Sample, *, metric: str = "fid") -> Distance:
    """Frechet distance between two samples; with few kept features by their nuclear norm.

    `warnings` names differing identities, and too few pictures. Raises `ValueError` for different widths, and for
    fewer than 2 pictures.
    """
    check_width(sample, reference)
    few = max(sample.count or 0, reference.count or 0) <= sample.statistics.width
    if few and sample.features is not None and reference.features is not None:
        value = frechet_distance_of_features(sample.features, reference.features)
    else:
        value = frechet_distance(sample.statistics, reference.statistics)
    remarks = (*incomparable(sample, reference), *bias_remarks(sample, reference))
    return Distance(metric, value, sample.count, reference.count, sample.identity, warnings=remarks)


def kernel_distance(sample: Sample, reference: Sample) -> Distance:
    """KID between two samples whose features were kept. Raises `ValueError` where they were not."""
    x, y = _kept(sample, reference, "KID")
    return Distance("kid", kid(x, y), len(x), len(y), sample.identity, warnings=incomparable(sample, reference))


def clip_distance(sample: Sample, reference: Sample) -> Distance:
    """CMMD, biased as published and unbiased. Raises `ValueError` where features were not kept."""
    x, y = _kept(sample, reference, "CMMD")
    remarks = incomparable(sample, reference)
    return Distance("cmmd", cmmd(x, y), len(x), len(y), sample.identity, cmmd(x, y, biased=False), remarks)


def paired_difference(
    sample: Sample, plain: Sample, reference: Sample, *, metric: str = "fid", seed: int = 0
) -> Average:
    """distance(sample, reference) - distance(plain, reference), negative where `sample` is closer.

    Row i of `sample` and of `plain` must come from the same prompt and seed. Where the
    features were kept, with the interval of a bootstrap over the pairs: for `fid` up to 256 features, for `kid` up to
    4000 pairs. Raises `ValueError` for different numbers of pictures, and as `fid` does.
    """
    if sample.count != plain.count:
        raise ValueError(f"paired samples have one number of pictures, got {sample.count} and {plain.count}")
    distance = kernel_distance if metric == "kid" else fid
    mean = distance(sample, reference).value - distance(plain, reference).value
    x, y, z = sample.features, plain.features, reference.features
    count = sample.count or 0
    too_large = count > BOOTSTRAP_PAIRS if metric == "kid" else sample.statistics.width > BOOTSTRAP_WIDTH
    if x is None or y is None or too_large:
        return Average(mean, None, None, count)
    if metric == "kid":
        low, high = interval(_kid_differences(x, y, _kept(sample, reference, "KID")[1], seed))
    else:
        fixed = Sample(reference.identity, reference.statistics, z)
        low, high = interval(_fid_differences(x, y, fixed, seed))
    return Average(mean, low, high, count)


def incomparable(a: Sample, b: Sample) -> tuple[str, ...]:
    """What keeps two samples from being compared, in words; empty where nothing is known to."""
    if a.identity is None or b.identity is None:
        return ("the statistics file does not say its network and resize mode: make sure that they are the same",)
    names = (("network", "networks"), ("weights", "weights"), ("resize", "resize modes"))
    found = []
    for name, words in names:
        one, other = (str(getattr(sample.identity, name)) for sample in (a, b))
        if one != other:
            short = (one[:12], other[:12]) if name == "weights" else (one, other)
            found.append(f"different {words}, {short[0]!r} and {short[1]!r}: the value means nothing")
    return tuple(found)


def bias_remarks(sample: Sample, reference: Sample) -> tuple[str, ...]:
    """A sentence where there are fewer than ten pictures a feature."""
    width = sample.statistics.width
    counts = [count for count in (sample.count, reference.count) if count is not None]
    if not counts or min(counts) >= TRUSTED_RATIO * width:
        return ()
    return (
        f"FID is biased here: {min(counts)} pictures for {width} features, fewer than {TRUSTED_RATIO} a feature;"
        " it is too large by an unknown amount and compares only with FIDs of the same N. Look at KID first.",
    )


def check_same_measure(a: Distance, b: Distance) -> tuple[str, ...]:
    """What keeps two finished values from being compared: resize mode, network, weights, or number of pictures."""
    found = list(incomparable(*(Sample(d.identity, FeatureStatistics.empty(0)) for d in (a, b))))
    if a.count != b.count:
        found.append(f"different numbers of pictures, {a.count} and {b.count}")
    if a.reference_count != b.reference_count:
        found.append(f"different numbers of reference pictures, {a.reference_count} and {b.reference_count}")
    return tuple(found)


def check_width(sample: Sample, reference: Sample) -> None:
    """Raises `ValueError` for samples of different feature widths."""
    if sample.statistics.width != reference.statistics.width:
        raise ValueError(
            f"the reference has {reference.statistics.width} features a picture, but the network"
            f" {sample.identity.network if sample.identity else '(unknown)'} gives {sample.statistics.width}:"
            " the statistics are of another network"
        )


def _kept(sample: Sample, reference: Sample, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    check_width(sample, reference)
    if sample.features is None or reference.features is None:
        raise ValueError(
            f"{name} needs the features of all pictures; a file with mu and sigma alone does not hold them"
        )
    return sample.features, reference.features


def _fid_differences(x: torch.Tensor, y: torch.Tensor, reference: Sample, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)

    def distance(features: torch.Tensor) -> float:
        if reference.features is not None and max(len(features), len(reference.features)) <= features.shape[1]:
            return frechet_distance_of_features(features, reference.features)
        return frechet_distance(FeatureStatistics.of(features), reference.statistics)

    draws = (rng.integers(len(x), size=len(x)) for _ in range(BOOTSTRAP_RESAMPLES))
    return np.array([distance(x[rows]) - distance(y[rows]) for rows in draws])


def _kid_differences(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, seed: int) -> np.ndarray:
    """KID(x, z) - KID(y, z) of resampled pairs, as quadratic forms in how often each pair was drawn.

    A pair drawn twice must not meet itself: only products of different pairs count, as in the unbiased estimate.
    """
    n, width = x.shape
    gram = torch.zeros(n, n, dtype=torch.float64)
    cross = torch.zeros(n, dtype=torch.float64)
    for features, sign in ((x.double(), 1.0), (y.double(), -1.0)):
        gram += sign * (features @ features.T / width + 1) ** 3
        for block in z.double().split(1024):
            cross += sign * ((features @ block.T / width + 1) ** 3).sum(dim=1) / len(z)
    gram.fill_diagonal_(0)
    rng = np.random.default_rng(seed)
    times = torch.from_numpy(rng.multinomial(n, [1 / n] * n, size=RESAMPLES).astype(np.float64))
    pairs = n**2 - times.square().sum(dim=1)  # of draws that are not the same picture
    times, pairs = times[pairs > 0], pairs[pairs > 0]  # of very few pictures, one may be drawn every time
    return ((times @ gram * times).sum(dim=1) / pairs - 2 * times @ cross / n).numpy()
