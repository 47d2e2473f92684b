"""The metrics as streaming classes on `torchmetrics.Metric`: update, compute, reset; they compose and synchronise.

Each is a thin shell round the pure function of its name. Pictures are a sequence of uint8 (H, W, 3) arrays of any
sizes, or a tensor (B, 3, H, W), uint8 or floating point in 0..1. Needs torchmetrics (`pip install 'dita[metrics]'`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dita.metrics import fidelity, kernels, video
from dita.metrics import lpips as lpips_network
from dita.metrics.clip import ClipScorer, clip_score
from dita.metrics.features import FeatureNetwork
from dita.metrics.frechet import FeatureStatistics, frechet_distance
from dita.metrics.image_reward import RewardScorer
from dita.metrics.images import Picture
from dita.metrics.libraries import torchmetrics_metric

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    Metric = torchmetrics_metric()

Batch = Sequence[Picture] | torch.Tensor
Pixels = Sequence[NDArray[Any]] | torch.Tensor


class _Apart(Metric):
    """A metric whose state is its own.

    A `MetricCollection` lets metrics share one state for good whose states have equal names and, after the first
    batch, equal values: two CLIP scores of 0, say, of different networks. One state here is a random mark, which no
    two metrics have in common, nor a metric and its copy.
    """

    full_state_update = False
    is_differentiable = False
    mark: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("mark", _new_mark(), dist_reduce_fx=_last)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copied or unpickled metric, under a mark of its own."""
        super().__setstate__(state)
        self.mark = _new_mark().to(self.device)
        self._defaults["mark"] = self.mark.clone()

    @property
    def metric_state(self) -> dict[str, list[torch.Tensor] | torch.Tensor]:
        """What was taken in so far, by name; without the mark."""
        return {name: state for name, state in super().metric_state.items() if name != "mark"}

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Takes in what another metric of the class has taken in, or its `metric_state`; errors as torchmetrics'."""
        if isinstance(incoming_state, type(self)):
            incoming_state = incoming_state.metric_state
        if isinstance(incoming_state, dict):
            incoming_state = {"mark": self.mark, **incoming_state}
        super().merge_state(incoming_state)

    def persistent(self, mode: bool = False) -> None:
        """Whether `state_dict` holds the state; the mark is never in it."""
        super().persistent(mode)
        self._persistent["mark"] = False


class _Mean(_Apart):
    """The mean of one value a picture, as a sum and a count in float64; values that are infinite are left out."""

    total: torch.Tensor
    count: torch.Tensor
    infinite: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("total", "count", "infinite"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, values: NDArray[np.float64] | torch.Tensor | Sequence[float]) -> None:
        numbers = torch.as_tensor(values, dtype=torch.float64).reshape(-1).to(self.device)
        if numbers.isnan().any():
            raise ValueError(f"{type(self).__name__} gave NaN for a picture")
        finite = numbers[numbers.isfinite()]
        self.total = self.total + finite.sum()
        self.count = self.count + len(finite)
        self.infinite = self.infinite + (len(numbers) - len(finite))

    def compute(self) -> torch.Tensor:
        """The mean over all pictures so far, in float64; infinite where every value was, NaN without any."""
        if not self.count and self.infinite:
            return torch.full_like(self.total, torch.inf)
        return self.total / self.count


class PSNR(_Mean):
    """Mean of each picture's PSNR to the plain one in dB, identical pairs left out (see `IdenticalPairs`).

    Range 0 and up; higher is closer. Data range 1. Not pooled over a batch: pooling moves it by many dB.
    """

    higher_is_better = True

    def update(self, pictures: Pixels, plain: Pixels) -> None:
        """Takes pairs of one size in."""
        self._add([float(fidelity.psnr(a, b)) for a, b in _pairs(pictures, plain)])


class SSIM(_Mean):
    """Mean structural similarity to the plain pictures. Range -1 to 1; higher is closer. Wang et al. 2004."""

    higher_is_better = True

    def update(self, pictures: Pixels, plain: Pixels) -> None:
        """Takes pairs of one size, at least 11x11 pixels, in."""
        self._add([float(fidelity.ssim(a, b)) for a, b in _pairs(pictures, plain)])


class IdenticalPairs(_Apart):
    """How many pictures are equal to the plain ones, bit for bit: those whose PSNR is infinite."""

    higher_is_better = True
    identical: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("identical", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pictures: Pixels, plain: Pixels) -> None:
        """Takes pairs of one size in."""
        self.identical += sum(float(fidelity.largest_difference(a, b)) == 0 for a, b in _pairs(pictures, plain))

    def compute(self) -> torch.Tensor:
        """The count so far."""
        return self.identical


class LPIPS(_Mean):
    """Mean LPIPS to the plain pictures. Range 0 and up; lower is closer. Zhang et al. 2018, arXiv 1801.03924."""

    higher_is_better = False

    def __init__(self, network: lpips_network.LPIPSNetwork, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def update(self, pictures: Pixels, plain: Pixels) -> None:
        """Takes pairs of one size in."""
        for a, b in _pairs(pictures, plain):
            x, y = (torch.from_numpy(fidelity.as_unit_range(p)).permute(2, 0, 1)[None].float() for p in (a, b))
            self._add(lpips_network.lpips(x, y, self.network))


class ImageSimilarity(_Mean):
    """Mean cosine of the features of a picture and of the plain one. Range -1 to 1; higher is closer.

    With CLIP (`dita.metrics.features.clip_features(scorer, antialias=True)`) or DINOv2 as the network.
    """

    higher_is_better = True

    def __init__(self, network: FeatureNetwork, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def update(self, pictures: Batch, plain: Batch) -> None:
        """Takes as many plain pictures as pictures in."""
        x, y = self.network(_uint8(pictures)), self.network(_uint8(plain))
        self._add(torch.nn.functional.cosine_similarity(x.double(), y.double()))


class TemporalFlicker(_Mean):
    """Mean temporal flickering of clips, as VBench's. Range 0 to 1; higher is steadier."""

    higher_is_better = True

    def update(self, clips: Sequence[NDArray[Any]]) -> None:
        """Takes clips (T, H, W, 3) in."""
        self._add([video.temporal_flicker(clip) for clip in clips])


class _Prompted(_Mean):
    """A mean over pictures with their prompts; also counts prompts that were cut."""

    higher_is_better = True
    truncated: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("truncated", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")


class CLIPScore(_Prompted):
    """Mean CLIP score, 100 max(cosine, 0) of each picture and its prompt. Range 0 to 100; higher fits better.

    Hessel et al. 2021, arXiv 2104.08718. `truncated` counts prompts of more than 77 tokens.
    """

    def __init__(self, scorer: ClipScorer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scorer = scorer

    def update(self, pictures: Batch, prompts: Sequence[str]) -> None:
        """Takes pictures with their prompts in."""
        cosine, cut = self.scorer.cosines(_uint8(pictures), prompts)
        self._add(self._score(cosine))
        self.truncated += cut

    def _score(self, cosine: torch.Tensor) -> torch.Tensor:
        return clip_score(cosine)


class PickScore(CLIPScore):
    """Mean PickScore: the cosine times the network's scale. Higher is preferred. Kirstain et al. 2023."""

    def _score(self, cosine: torch.Tensor) -> torch.Tensor:
        return self.scorer.pick_score(cosine)


class HPSv2(CLIPScore):
    """Mean HPSv2 or HPSv2.1, a cosine. Range -1 to 1; higher is preferred. Wu et al. 2023, arXiv 2306.09341."""

    def _score(self, cosine: torch.Tensor) -> torch.Tensor:
        return cosine


class ImageRewardScore(_Prompted):
    """Mean ImageReward, about -2.3 to 2; higher is preferred. Xu et al. 2023, arXiv 2304.05977.

    `truncated` counts prompts of more than 35 tokens.
    """

    def __init__(self, scorer: RewardScorer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scorer = scorer

    def update(self, pictures: Batch, prompts: Sequence[str]) -> None:
        """Takes pictures with their prompts in."""
        rewards, cut = self.scorer.rewards(_uint8(pictures), prompts)
        self._add(rewards)
        self.truncated += cut


class FrechetDistance(_Apart):
    """Frechet distance between the features of two sets of pictures: FID with Inception, FD-DINOv2 with DINOv2.

    Range 0 and up; lower is closer. Memory does not depend on the number of pictures: count, mean and scatter of each
    side are one matrix of (width + 1)^2 numbers in float64, merged exactly across batches and processes.
    """

    higher_is_better = False
    real: torch.Tensor
    made: torch.Tensor

    def __init__(self, network: FeatureNetwork, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        empty = torch.zeros(network.width + 1, network.width + 1, dtype=torch.float64)
        for name in ("real", "made"):
            self.add_state(name, empty.clone(), dist_reduce_fx=_merged)

    def update(self, pictures: Batch, real: bool) -> None:
        """Takes pictures in: of the reference, or made."""
        statistics = FeatureStatistics.of(self.network(_uint8(pictures)))
        name = "real" if real else "made"
        setattr(self, name, _merged(torch.stack([getattr(self, name), _packed(statistics).to(self.device)])))

    def compute(self) -> torch.Tensor:
        """The distance so far, in float64. Raises `ValueError` for fewer than two pictures on a side."""
        return torch.tensor(frechet_distance(_unpacked(self.made), _unpacked(self.real)), dtype=torch.float64)


class _Kernel(_Apart):
    """Keeps all features: 4 bytes times width for each picture."""

    higher_is_better = False
    real: list[torch.Tensor]
    made: list[torch.Tensor]

    def __init__(self, network: FeatureNetwork, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        for name in ("real", "made"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, pictures: Batch, real: bool) -> None:
        """Takes pictures in: of the reference, or made."""
        (self.real if real else self.made).append(self.network(_uint8(pictures)).to(self.device))

    def _sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        nothing = torch.zeros(0, self.network.width)
        sides = [torch.cat(x) if isinstance(x, list) and x else x for x in (self.made, self.real)]
        made, real = (nothing if isinstance(x, list) else x.cpu() for x in sides)
        return made, real


class KID(_Kernel):
    """Kernel inception distance, unbiased, over the full sets. About 0 and up; lower is closer. arXiv 1801.01401."""

    def compute(self) -> torch.Tensor:
        """The distance so far. Raises `ValueError` for fewer than two pictures on a side."""
        return torch.tensor(kernels.kid(*self._sides()), dtype=torch.float64)


class CMMD(_Kernel):
    """CLIP maximum mean discrepancy times 1000, biased as published. Range 0 and up; lower is closer. arXiv 2401.09603.

    `network` is `dita.metrics.features.clip_features(scorer)`. `biased=False` gives the unbiased estimate.
    """

    def __init__(self, network: FeatureNetwork, *, biased: bool = True, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        self.biased = biased

    def compute(self) -> torch.Tensor:
        """The distance so far. Raises `ValueError` for fewer than two pictures on a side."""
        return torch.tensor(kernels.cmmd(*self._sides(), biased=self.biased), dtype=torch.float64)


def _new_mark() -> torch.Tensor:
    return torch.tensor(list(uuid.uuid4().bytes), dtype=torch.uint8)


def _last(stacked: torch.Tensor) -> torch.Tensor:
    """The last of several marks: a metric's own, where another's state is merged into it."""
    return stacked[-1]


def _pairs(pictures: Pixels, plain: Pixels) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    a, b = _arrays(pictures), _arrays(plain)
    if len(a) != len(b):
        raise ValueError(f"there must be one plain picture for each picture, got {len(b)} for {len(a)}")
    return list(zip(a, b, strict=True))


def _arrays(pictures: Pixels) -> list[NDArray[Any]]:
    """Pictures as arrays (H, W, 3) of their own type."""
    if not isinstance(pictures, torch.Tensor):
        return [np.asarray(picture) for picture in pictures]
    if pictures.ndim != 4:
        raise ValueError(f"a tensor of pictures is (B, 3, H, W), got {tuple(pictures.shape)}")
    wide = pictures.detach().cpu()
    wide = wide.double() if wide.is_floating_point() else wide
    return list(wide.permute(0, 2, 3, 1).numpy())


def _uint8(pictures: Batch) -> list[Picture]:
    """Pictures as uint8 (H, W, 3): floating point is rounded to the 256 levels that a saved picture has."""
    arrays = _arrays(pictures)
    return [a if a.dtype == np.uint8 else np.rint(fidelity.as_unit_range(a) * 255).astype(np.uint8) for a in arrays]


def _packed(statistics: FeatureStatistics) -> torch.Tensor:
    """Count, mean and scatter as one matrix: a state that a single function merges."""
    width = statistics.width
    matrix = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    matrix[0, 0] = statistics.count or 0
    matrix[0, 1:] = statistics.mean
    matrix[1:, 1:] = statistics.scatter
    return matrix


def _unpacked(matrix: torch.Tensor) -> FeatureStatistics:
    return FeatureStatistics(int(matrix[0, 0]), matrix[0, 1:], matrix[1:, 1:])


def _merged(stacked: torch.Tensor) -> torch.Tensor:
    """The matrix of all sides' pictures together, from those of each (sides, width + 1, width + 1)."""
    whole = _unpacked(stacked[0])
    for matrix in stacked[1:]:
        whole = whole + _unpacked(matrix)
    return _packed(whole).to(stacked.device)
