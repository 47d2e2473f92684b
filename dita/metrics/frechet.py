"""Frechet distance between two sets of features: their means and covariances, streamed in float64.

Dowson and Landau 1982, equation 4; used on Inception features as FID by Heusel et al. 2017 (arXiv 1706.08500).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (d,) and scatter (d, d), the sum of outer products about the mean, of `count` feature vectors, in float64.

    `count` is None for statistics of unknown origin, whose scatter is the covariance itself. Adding two gives the
    statistics of both sets together (Chan, Golub and LeVeque 1983): exact for any split into batches, and safe where
    the mean is large beside the spread.
    """

    count: int | None
    mean: torch.Tensor
    scatter: torch.Tensor

    @property
    def width(self) -> int:
        """Features of one picture."""
        return len(self.mean)

    @property
    def covariance(self) -> torch.Tensor:
        """The unbiased covariance (d, d). Raises `ValueError` for fewer than two feature vectors."""
        if self.count is None:
            return self.scatter
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 pictures, got {self.count}")
        return self.scatter / (self.count - 1)

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> FeatureStatistics:
        """Of no pictures at all."""
        zeros = torch.zeros(width + 1, width, dtype=torch.float64, device=device)
        return cls(0, zeros[0], zeros[1:])

    @classmethod
    def of(cls, features: torch.Tensor) -> FeatureStatistics:
        """Of feature vectors (n, d). Raises `ValueError` for another rank and for NaN or infinity."""
        if features.ndim != 2:
            raise ValueError(f"features are (pictures, width), got {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError("features hold NaN or infinity: the network or its input is broken")
        wide = features.to(torch.float64)
        mean = wide.mean(dim=0) if len(wide) else wide.new_zeros(wide.shape[1])
        centred = wide - mean
        return cls(len(wide), mean, centred.T @ centred)

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        if self.width != other.width:
            raise ValueError(f"features must have one width, got {self.width} and {other.width}")
        if self.count is None or other.count is None:
            raise ValueError("statistics of an unknown number of pictures cannot be added to")
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / max(count, 1))
        scatter = self.scatter + other.scatter
        scatter.addr_(step, step, alpha=self.count * other.count / max(count, 1))
        return FeatureStatistics(count, mean, scatter)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), at least 0; smaller is closer.

    With more pictures than features by the symmetric form: the eigenvalues of L' S_b L, where S_a = L L'. With fewer
    by the nuclear norm of A' B, where A and B span only the directions that the pictures have, so that no square root
    of a rounding error is summed. Raises `ValueError` for different widths, and for fewer than two pictures.

    >>> a = FeatureStatistics(None, torch.zeros(1), torch.tensor([[1.0]]))
    >>> b = FeatureStatistics(None, torch.tensor([2.0]), torch.tensor([[9.0]]))
    >>> frechet_distance(a, b)  # 2^2 + (1 - 3)^2
    8.0
    """
    if a.width != b.width:
        raise ValueError(f"features must have one width, got {a.width} and {b.width}")
    cov_a, cov_b = (s.covariance.to("cpu", torch.float64) for s in (a, b))
    few = any(s.count is not None and s.count <= s.width for s in (a, b))
    cross = _nuclear_norm(a, cov_a, b, cov_b) if few else _trace_of_root(cov_a, cov_b)
    step = (a.mean - b.mean).to("cpu", torch.float64)
    return max(0.0, float(step @ step + cov_a.trace() + cov_b.trace() - 2 * cross))


def frechet_distance_of_features(x: torch.Tensor, y: torch.Tensor) -> float:
    """`frechet_distance` of two small sets of features, (n, d) and (m, d), without a d x d matrix.

    tr (S_x S_y)^(1/2) is the nuclear norm of X Y' / sqrt((n-1)(m-1)), X and Y centred: n x m numbers only, and exact
    also where n or m is smaller than d. Raises `ValueError` as `frechet_distance` does.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features are (pictures, width) of one width, got {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 pictures, got {min(len(x), len(y))}")
    x, y = x.to(torch.float64), y.to(torch.float64)
    step = x.mean(dim=0) - y.mean(dim=0)
    x = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    y = (y - y.mean(dim=0)) / (len(y) - 1) ** 0.5
    cross = torch.linalg.svdvals(x @ y.T).sum()
    return max(0.0, float(step @ step + x.square().sum() + y.square().sum() - 2 * cross))


def _trace_of_root(cov_a: torch.Tensor, cov_b: torch.Tensor) -> torch.Tensor:
    """tr (S_a S_b)^(1/2) from the eigenvalues of the symmetric L' S_b L; L is Cholesky's, or V sqrt(lambda) where
    S_a is singular."""
    lower, failed = torch.linalg.cholesky_ex(cov_a)
    if failed:
        values, vectors = torch.linalg.eigh(cov_a)
        lower = vectors * values.clamp(min=0).sqrt()
    product = lower.T @ cov_b @ lower
    return torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()


def _nuclear_norm(a: FeatureStatistics, cov_a: torch.Tensor, b: FeatureStatistics, cov_b: torch.Tensor) -> torch.Tensor:
    """tr (S_a S_b)^(1/2) from factors of no more columns than the pictures span."""
    return torch.linalg.svdvals(_factor(a, cov_a).T @ _factor(b, cov_b)).sum()


def _factor(statistics: FeatureStatistics, covariance: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(covariance)  # in ascending order
    rank = statistics.width if statistics.count is None else min(statistics.count - 1, statistics.width)
    return vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()
