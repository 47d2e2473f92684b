"""Numbers per token that say how much each wants to be computed again (ToCa section 3.2).

They choose tokens, and no gradient flows through a choice: what they are made of is detached.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dita.shapes import CLUSTER_ROUNDS, CLUSTERS, PIVOTS

QUERY_CHUNK = 256
"""Queries whose attention is held at once: of some heads of a sample on a CPU, (B, H, 256, N) elsewhere."""

CACHED_NUMBERS = 2**22
"""Numbers of an attention map that are held at once on a CPU: few enough for the last level of its cache."""

Number = TypeVar("Number", int, Tensor)

TEXT_QUERY_CHUNK = 256
"""Queries whose attention to the text is held at once, on any device: a text is short."""


def received_attention(query: Tensor, key: Tensor) -> Tensor:
    """Mean attention that each key receives, over heads and queries: s1, (B, N).

    query: (B, M, H, D), key: (B, N, H, D), both as they enter the attention product. The map is never held: queries
    go through in chunks. With M < N sampled queries this estimates the mean over all.
    """
    query, key = query.detach(), key.detach()
    query, key = (query * query.shape[-1] ** -0.5).transpose(1, 2), key.transpose(1, 2)  # (B, H, M or N, D)
    total = torch.zeros(key.shape[0], key.shape[2], device=key.device, dtype=torch.float32)
    if key.device.type == "cpu":  # some heads at a time: the part of the map that is held stays in the cache
        heads = max(1, CACHED_NUMBERS // (min(QUERY_CHUNK, query.shape[2]) * key.shape[2]))
        for sums, queries, keys in zip(total, query.contiguous(), key, strict=True):
            for some, others in zip(queries.split(heads), keys.split(heads), strict=True):
                for chunk in some.split(QUERY_CHUNK, dim=1):
                    sums += torch.softmax(chunk @ others.mT, dim=-1, dtype=torch.float32).sum((0, 1))
    else:
        for chunk in query.split(QUERY_CHUNK, dim=2):
            total += torch.softmax(chunk @ key.mT, dim=-1, dtype=torch.float32).sum(dim=(1, 2))
    return total / (query.shape[1] * query.shape[2])


def evenly_spaced(count: int, tokens: int, device: torch.device) -> Tensor:
    """`count` token numbers at even distances over `tokens`."""
    count = min(count, tokens)
    return torch.arange(count, device=device) * tokens // count


def staggered(count: int, tokens: int, device: torch.device) -> Tensor:
    """`count` token numbers, one of each of so many equal parts of `tokens`, each elsewhere in its part.

    Numbers at even distances fall into the same columns of a picture row after row, where the distance and the width
    have a common divisor; these do not, as places in the parts follow the golden ratio, here that of two numbers of
    Fibonacci.
    """
    count = min(count, tokens)
    return staggered_place(torch.arange(count, device=device), count, tokens)


def staggered_place(number: Number, count: int, tokens: int) -> Number:
    """The token in the `number`-th of the parts, or those in several."""
    start, stop = number * tokens // max(1, count), (number + 1) * tokens // max(1, count)
    return start + (stop - start) * (number * 610 % 987) // 987


def mean_length(vectors: Tensor) -> Tensor:
    """Mean over heads of the Euclidean length of keys or values (B, N, H, D) -> (B, N)."""
    return vectors.detach().float().norm(dim=-1).mean(dim=-1)


def attention_entropy(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """-sum_j p_j/2 ln(p_j/2 + 1e-7) of each token's attention p to the text, the mean over heads: (B, N).

    query: (B, N, H, D), key: (B, T, H, D), as they enter the attention product; bias: added to the scores, broadcast
    to (B, H, N, T). Halved, because s2 of the reference is the entropy of the mean of a guided pair's two maps, which
    share no column: `entropy_score` adds the pair up.
    """
    query, key = query.detach(), key.detach()
    queries = (query * query.shape[-1] ** -0.5).transpose(1, 2)  # (B, H, N, D)
    keys = key.permute(0, 2, 3, 1)  # (B, H, D, T)
    entropies = []
    for chunk in queries.split(TEXT_QUERY_CHUNK, dim=2):
        logits = chunk @ keys
        if bias is not None:
            logits = logits + bias
        half = torch.softmax(logits, dim=-1, dtype=torch.float32).mean(dim=1) / 2  # (B, chunk, T)
        entropies.append(-(half * (half + 1e-7).log()).sum(dim=-1))
    return torch.cat(entropies, dim=1)


def entropy_score(entropies: Tensor, halves: bool, parts: int = 2) -> Tensor:
    """s2, normalised: of what `attention_entropy` returned for a call's samples, (..., B, N).

    With guidance (`halves`) the two halves of the samples, or its `parts`, make one score, (..., B / parts, N).
    Without, a sample stands for both: the score is that of a pair with the same text.
    """
    pair = sum_of_parts(entropies, parts) * (2 / parts) if halves else 2 * entropies
    return normalise(1 + pair)


def combined(scores: Tensor, shared: bool, alike: bool = True, parts: int = 2) -> Tensor:
    """Normalised scores, (..., B, N); where two halves of the samples, or `parts`, share them, those of all,
    (..., B / parts, N).

    All weigh alike, unless `alike` is False: then they are added as they are (DuCa's code).
    """
    if not shared:
        return normalise(scores)
    return normalise(sum_of_parts(normalise(scores) if alike else scores, parts))


def sum_of_parts(scores: Tensor, parts: int) -> Tensor:
    """(..., parts * B, N) -> (..., B, N)."""
    first, *others = scores.chunk(parts, dim=-2)
    for one in others:
        first = first + one
    return first


def live(score: str, tokens: Tensor, stored: Tensor) -> Tensor:
    """Scores that need the tokens of the cached step itself, (B, N), not yet normalised.

    tokens: (B, N, C), what enters the module's norm; stored: the module's stored output.
    `norm`: length of a token. `similarity`: 1 - cosine between the token and its stored output.
    """
    tokens, stored = tokens.detach(), stored.detach()
    if score == "norm":
        return tokens.float().norm(dim=-1)
    return 1 - F.cosine_similarity(tokens.float(), stored.float(), dim=-1)


def of_features(score: str, features: Tensor, grid: tuple[int, ...] | None) -> Tensor:
    """One of the scores of a module's output, (B, N, C) -> (B, N), not yet normalised.

    grid: (frames, height, width) of a video's tokens, for `frame-uniqueness`.
    """
    features = features.detach().float()
    if score == "cluster":
        return cluster_score(features)
    if score == "duplication":
        return novelty(features)
    assert grid is not None and len(grid) == 3
    return frame_uniqueness(features, grid[0])


def cluster_score(features: Tensor, clusters: int = CLUSTERS, rounds: int = CLUSTER_ROUNDS) -> Tensor:
    """1 for one token of each cluster, 1/2 for a second one of each, then 1/3 ...: (B, N).

    So the first tokens chosen are one of each cluster, as in ClusCa (arXiv 2509.10312), which draws them; here those of
    a cluster follow each other in an order that spreads them over the picture. k-means from evenly spaced tokens; a
    cluster that loses all tokens keeps its centre.
    """
    tokens = features.shape[1]
    clusters = min(clusters, tokens)
    features = features - features.mean(dim=1, keepdim=True)  # distances stay, and lose fewer digits
    centres = features[:, evenly_spaced(clusters, tokens, features.device)]
    for _ in range(rounds):
        members = F.one_hot(_nearest(features, centres), clusters).to(features.dtype).mT  # (B, K, N)
        count = members.sum(dim=-1, keepdim=True)
        centres = torch.where(count > 0, members @ features / count.clamp(min=1), centres)
    nearest = _nearest(features, centres)
    # Sorted by the spread order and then, stably, by cluster, the tokens of a cluster follow each other.
    order = spread(tokens, None, features.device).argsort().expand_as(nearest)
    order = order.gather(-1, nearest.gather(-1, order).argsort(dim=-1, stable=True))
    sizes = F.one_hot(nearest, clusters).sum(dim=1)  # (B, K)
    starts = (sizes.cumsum(dim=-1) - sizes).gather(-1, nearest.gather(-1, order))
    rank = torch.arange(tokens, device=features.device) - starts
    return torch.zeros_like(features[..., 0]).scatter_(-1, order, 1 / (1 + rank.to(features.dtype)))


def _nearest(features: Tensor, centres: Tensor) -> Tensor:
    """Which centre (B, K, C) each token (B, N, C) is nearest to: (B, N)."""
    # |f - c|^2 = |f|^2 - 2 f c + |c|^2, whose first term is the same for all centres
    return (centres.square().sum(dim=-1)[:, None] - 2 * features @ centres.mT).argmin(dim=-1)


def novelty(features: Tensor, pivots: int = PIVOTS) -> Tensor:
    """1 - the largest cosine to any of `pivots` evenly spaced tokens, which themselves score highest: (B, N).

    The idea of DART (arXiv 2502.11494): what is unlike the pivots is kept, what they stand for already is not.
    """
    unit = F.normalize(features, dim=-1)
    index = evenly_spaced(pivots, features.shape[1], features.device)
    scores = _coarse(1 - (unit @ unit[:, index].mT).amax(dim=-1))
    return scores.index_fill(-1, index, 2.0)


def frame_uniqueness(features: Tensor, frames: int) -> Tensor:
    """2 - cosine to the mean of a token's frame - cosine to the mean of the video, (B, frames * S, C) -> (B, N).

    The idea of VidCom2 (arXiv 2505.14454): what is unlike its frame, and unlike the whole, tells most.
    """
    unit = F.normalize(features, dim=-1).unflatten(1, (frames, -1))  # (B, T, S, C)
    frame = F.normalize(unit.mean(dim=2, keepdim=True), dim=-1)
    video = F.normalize(unit.mean(dim=(1, 2), keepdim=True), dim=-1)
    return _coarse(2 - (unit * frame).sum(-1) - (unit * video).sum(-1)).flatten(1)


def _coarse(distances: Tensor) -> Tensor:
    """In steps of 2^-12: where all tokens are alike, the lowest number comes first, and not what rounding favours."""
    return (distances * 4096).round() / 4096


def normalise(scores: Tensor) -> Tensor:
    """Scores of length 1 over the tokens (the last dimension), so that ages weigh alike whatever the score."""
    return F.normalize(scores, dim=-1)


def random_scores(tokens: int, seed: tuple[int, ...], device: torch.device) -> Tensor:
    """U(0, 1) per token, (N,). The same for all samples of a batch, so that a sample does not depend on its batch."""
    generator = torch.Generator("cpu").manual_seed(_mix(seed))
    return torch.rand(tokens, generator=generator).to(device)


STRIDES = {
    1: (0.6180339887498949,),
    2: (0.7548776662466927, 0.5698402909980532),
    3: (0.8191725133961645, 0.6710436067037893, 0.5497004779019703),
}
"""Powers of 1 / g, g the root of g^(d+1) = g + 1: those of the golden ratio, and of the R2 and R3 sequences."""


def spread(tokens: int, grid: tuple[int, ...] | None, device: torch.device) -> Tensor:
    """A value in [0, 1) per token such that tokens of nearby values lie far apart: (N,).

    `grid` is (height, width), or (frames, height, width), in tokens; None is a line. Any interval of values of length
    p holds about p * N tokens, spread evenly in space and time: a low-discrepancy sequence along every axis.
    """
    sides = grid or (tokens,)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for side, stride in zip(sides, STRIDES[len(sides)], strict=True):
        total = total[..., None] + torch.arange(side, device=device, dtype=torch.float64) * stride
    return total.frac().reshape(-1).float()


def _mix(parts: tuple[int, ...]) -> int:
    state = 0x9E3779B97F4A7C15
    for part in parts:  # splitmix64: neighbouring numbers give unrelated seeds
        state = (state + part * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state
