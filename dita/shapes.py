"""Sizes of a model and its input: enough for FLOPs and cache bytes, without weights and without torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import ClassVar, Literal, NamedTuple, Protocol

from dita.merges import Cells, joined
from dita.values import unknown, whole

Accounting = Literal["post-projection", "pre-projection"]
ACCOUNTINGS: tuple[Accounting, ...] = ("post-projection", "pre-projection")


class Kind(str, Enum):
    """What is done at one site of one step."""

    FULL = "full"  # compute all tokens
    PARTIAL = "partial"  # compute k tokens, take the stored output for the rest
    REUSE = "reuse"  # take the stored output for all tokens
    FORECAST = "forecast"  # continue the stored outputs of earlier steps to this one, for all tokens
    SKIP = "skip"  # the whole block is passed by: see `plan.Span`
    CALL = "call"  # the whole transformer call is passed by: see `plan.CallForecast`


COMPUTED = (Kind.FULL, Kind.PARTIAL)
STORED = frozenset((Kind.PARTIAL, Kind.REUSE, Kind.FORECAST))
"""What needs the stored output of its site."""


class Site(NamedTuple):
    """One place where an action is executed: module `module` of layer `layer` in the stack of blocks `stack`.

    The layer number starts at 0 in each stack.
    """

    stack: str
    layer: int
    module: str

    def __str__(self) -> str:
        return f"{self.stack}.{self.layer}.{self.module}"


CLUSTERS, CLUSTER_ROUNDS = 16, 4
"""Of the score `cluster`: centres, as in ClusCa (arXiv 2509.10312), and how often they are moved."""
PIVOTS = 8
"""Of the score `duplication`: tokens that all others are compared with."""

KEPT_TEXT = 1 / 50
"""Text tokens for each image token from which on projections of the text are kept: of fewer, they cost little."""
FLOAT32_BYTES = 4


@cache
def _sites(layers: int, stacks: tuple[str, ...], modules: tuple[str, ...]) -> tuple[Site, ...]:
    """The sites of `layers` layers, each of a block in every stack, in the order of execution."""
    return tuple(Site(stack, layer, module) for layer in range(layers) for stack in stacks for module in modules)


def feature_score_flops(score: str, tokens: int, width: int) -> int:
    """FLOPs of one of the scores of a module's output, (N, C), of one sample."""
    per_number = {
        "cluster": 2 * min(CLUSTERS, tokens) * (CLUSTER_ROUNDS + 1) + 2 * CLUSTER_ROUNDS,
        "duplication": 2 * min(PIVOTS, tokens) + 3,
        "frame-uniqueness": 9,
    }
    return per_number.get(score, 0) * tokens * width


class Shape(Protocol):
    """What a plan must know of a model: one dataclass per family implements it.

    FLOPs count a multiply-add as two; they are those of a whole batch and of all transformer calls of one step.
    """

    family: ClassVar[str]
    stacks: ClassVar[tuple[str, ...]]
    whole_blocks: ClassVar[bool]
    """Whether all sites of a block are cached in a step, or none."""

    @property
    def name(self) -> str:
        """What the model is called."""
        ...

    @property
    def width(self) -> int:
        """Channels of a token."""
        ...

    @property
    def element_bytes(self) -> int:
        """Bytes of a number."""
        ...

    @property
    def batch(self) -> int:
        """Samples that go through the sampler together."""
        ...

    @property
    def rows(self) -> int:
        """Samples in one transformer call: twice the batch where guidance puts two halves into it."""
        ...

    @property
    def branches(self) -> int:
        """Transformer calls of one step: two with true classifier-free guidance in calls of their own."""
        ...

    def depth(self, stack: str) -> int:
        """Number of layers of `stack`."""
        ...

    def sites(self) -> tuple[Site, ...]:
        """All sites in the order of execution."""
        ...

    def tokens(self, module: str) -> int:
        """Number of tokens of one sample that a module of this name works on."""
        ...

    def selects(self, module: str) -> bool:
        """Whether tokens can be computed apart from each other in this module (an MLP, unlike self-attention)."""
        ...

    def flops(self, site: Site, kind: Kind, tokens: int, accounting: Accounting = "post-projection") -> float:
        """FLOPs of one site when `tokens` tokens are computed."""
        ...

    def step_flops(self) -> float:
        """FLOPs of one step outside the sites: embeddings, modulation, output layer."""
        ...

    def score_source(self, stack: str, score: str) -> str:
        """The module whose computation in full yields the scores of a block's tokens."""
        ...

    def score_flops(self, site: Site, score: str, tokens: int | None = None) -> float:
        """Extra FLOPs of scoring at `site`, for all its tokens unless `tokens` of a sample are said.

        A score that serves several modules of a block is booked at one of them.
        """
        ...

    def shares_projection(self, site: Site) -> bool:
        """Whether a partial step of `site` needs stored attention, in front of a projection that an MLP has part in."""
        ...

    def feature_bytes(self, site: Site, kinds: frozenset[Kind]) -> int:
        """Bytes of the stored features of `site` when the cached steps of a plan do `kinds` there."""
        ...

    def cells(self, stack: str, stride: tuple[int, ...]) -> Cells:
        """How the image tokens of a sample are matched for merging in the blocks of `stack`.

        `stride` is (height, width) of a cell, of a video also (frames, height, width). Raises `ValueError` where the
        tokens form no such grid, or one smaller than a cell.
        """
        ...

    def mergeable(self, site: Site, stride: tuple[int, ...]) -> frozenset[str]:
        """Of `attn`, `cross_attn` and `mlp`, what `site` computes and can compute on merged tokens."""
        ...

    def merged_flops(self, site: Site, modules: frozenset[str], removed: int) -> float:
        """FLOPs of one site in full when its `modules` go without `removed` image tokens of a sample."""
        ...

    def hidden_bytes(self) -> int:
        """Bytes of what one block hands to the next."""
        ...

    def latent_bytes(self) -> int:
        """Bytes of what the scheduler gets in a step in place of the transformer's output: one latent a sample."""
        ...

    def gate_bytes(self, site: Site) -> int:
        """Bytes of the gate on the output of `site`; 0 where it has none."""
        ...

    def steady_bytes(self, blocks: int) -> int:
        """Bytes of what no timestep enters: on FLUX, the rotary embedding; on PixArt and Open-Sora, the text as all
        blocks take it, and its keys and values in `blocks` of them, 0 where these are not worth keeping."""
        ...

    def modulation_chunks(self, site: Site, kind: Kind) -> int:
        """How many shifts, scales and gates, each as wide as the model, a block that is cached makes of the timestep
        for `site`; 0 where that is not done for all steps at once."""
        ...


@dataclass(frozen=True)
class FluxShape:
    """FLUX: a stack of double-stream blocks, then one of single-stream blocks.

    `grid` is (height, width) in image tokens where the image tokens form one; `branches` counts the transformer calls
    of a step (two with true classifier-free guidance). FLOPs as in the ToCa repository: multiply-adds of the linear
    layers and of both attention products, counted twice; norms, softmax and activations are left out.
    """

    family: ClassVar[str] = "flux"
    stacks: ClassVar[tuple[str, ...]] = ("double", "single")
    whole_blocks: ClassVar[bool] = True

    name: str = "flux-dev"
    double_layers: int = 19
    single_layers: int = 38
    width: int = 3072
    mlp_width: int = 12288
    text_tokens: int = 512
    image_tokens: int = 4096
    grid: tuple[int, int] | None = (64, 64)
    batch: int = 1
    branches: int = 1
    in_channels: int = 64
    text_width: int = 4096
    pooled_width: int = 768
    guidance: bool = True
    head_dim: int = 128
    element_bytes: int = 2

    @property
    def rows(self) -> int:
        return self.batch

    def depth(self, stack: str) -> int:
        return self.double_layers if stack == "double" else self.single_layers

    def sites(self) -> tuple[Site, ...]:
        double = _sites(self.double_layers, ("double",), ("attn", "mlp", "text_mlp"))
        return double + _sites(self.single_layers, ("single",), ("single",))

    def tokens(self, module: str) -> int:
        if module == "mlp":
            return self.image_tokens
        return self.text_tokens if module == "text_mlp" else self.text_tokens + self.image_tokens

    def selects(self, module: str) -> bool:
        return module != "attn"

    def flops(self, site: Site, kind: Kind, tokens: int, accounting: Accounting = "post-projection") -> float:
        c, joint = self.width, self.tokens("attn")
        attention = 4 * joint * joint * c
        projection = 2 * joint * c * c
        if site.module == "attn":
            if kind is Kind.FULL:
                per_sample = 3 * projection + attention + projection
            else:  # the ToCa repository caches what comes before the output projection, and projects again each step
                projected = accounting == "pre-projection" and kind is Kind.REUSE
                per_sample = projection if projected else 0
        elif site.module == "single":
            outer = 2 * c * self.mlp_width + 2 * (c + self.mlp_width) * c
            per_sample = tokens * outer + (3 * projection + attention if kind is Kind.FULL else 0)
        else:
            per_sample = tokens * 4 * c * self.mlp_width
        return float(per_sample * self.batch * self.branches)

    def step_flops(self) -> float:
        c = self.width
        modulation = self.double_layers * 2 * 2 * c * 6 * c + self.single_layers * 2 * c * 3 * c + 2 * c * 2 * c
        embedders = 2 + self.guidance  # timestep, pooled text and, distilled, guidance
        conditioning = 2 * (256 * (embedders - 1) + self.pooled_width) * c + embedders * 2 * c * c
        text_in = 2 * self.text_tokens * self.text_width * c
        image_in_out = 4 * self.image_tokens * self.in_channels * c
        return float((modulation + conditioning + text_in + image_in_out) * self.batch * self.branches)

    def score_source(self, stack: str, score: str) -> str:
        return "attn" if stack == "double" else "single"

    def score_flops(self, site: Site, score: str, tokens: int | None = None) -> float:
        # The two MLPs of a double block share one pass over its attention; it is booked at the image MLP.
        if site.module not in ("mlp", "single"):
            return 0.0
        joint = self.tokens("attn")
        queries = {"attention": joint, "attention-sampled": sampled_queries(joint)}.get(score, 0)
        per_sample = 2 * queries * joint * self.width
        if score in (
            "v-norm",
            "kv-norm",
        ):  # the value projection is not handed out by the attention module: it is computed again
            per_sample = 2 * joint * self.width * self.width
        return float(per_sample * self.batch)

    def shares_projection(self, site: Site) -> bool:
        return site.module == "single"

    def feature_bytes(self, site: Site, kinds: frozenset[Kind]) -> int:
        if not kinds & STORED:
            return 0
        tensors = 2 if site.module == "single" and Kind.PARTIAL in kinds else 1  # output, and attention before it
        return tensors * self.tokens(site.module) * self.width * self.element_bytes * self.batch * self.branches

    def cells(self, stack: str, stride: tuple[int, ...]) -> Cells:
        if self.grid is None:
            raise ValueError("merging needs image tokens that form one grid, and those of this pipeline do not")
        return _picture_cells(self.family, self.grid, stride)

    def mergeable(self, site: Site, stride: tuple[int, ...]) -> frozenset[str]:
        return {"single": frozenset({"attn", "mlp"}), "text_mlp": frozenset[str]()}.get(
            site.module, frozenset({site.module})
        )

    def merged_flops(self, site: Site, modules: frozenset[str], removed: int) -> float:
        c, joint = self.width, self.tokens("attn")
        attended = joint - removed * ("attn" in modules)
        attention = 6 * attended * c * c + 4 * attended * attended * c
        if site.module == "attn":
            per_sample = attention + 2 * attended * c * c
        elif site.module == "single":
            mlp = (joint - removed * ("mlp" in modules)) * 2 * c * self.mlp_width
            projected = joint - removed * (modules == {"attn", "mlp"})  # both halves of its input must be short
            per_sample = attention + mlp + projected * 2 * (c + self.mlp_width) * c
        else:
            per_sample = (self.tokens(site.module) - removed) * 4 * c * self.mlp_width
        return float(per_sample * self.batch * self.branches)

    def hidden_bytes(self) -> int:
        return self.tokens("attn") * self.width * self.element_bytes * self.batch * self.branches

    def latent_bytes(self) -> int:
        return self.image_tokens * self.in_channels * self.element_bytes * self.batch

    def gate_bytes(self, site: Site) -> int:
        return self.width * self.element_bytes * self.batch * self.branches

    def steady_bytes(self, blocks: int) -> int:
        return 2 * FLOAT32_BYTES * self.tokens("attn") * self.head_dim * self.branches

    def modulation_chunks(self, site: Site, kind: Kind) -> int:
        if site.module == "attn":
            return 0
        if site.module == "single":  # shift, scale and gate
            return 3 if kind in COMPUTED else 1
        return 4 if kind in COMPUTED else 2  # the gates of attention and MLP


@dataclass(frozen=True)
class PixArtShape:
    """PixArt-alpha and Sigma: one stack of blocks of self-attention, cross-attention to the text, and MLP.

    `grid` is (height, width) in image tokens. With guidance (`guided`) a transformer call holds two halves of `batch`
    samples each; perturbed-attention guidance (`perturbed`) puts a part more into it. `text_tokens`:
    20 is a prompt of common length, as the papers count; diffusers pads every prompt to 120 (alpha) or 300 (Sigma)
    tokens and computes the padding, so the shape of a live call has those.
    """

    family: ClassVar[str] = "pixart"
    stacks: ClassVar[tuple[str, ...]] = ("block",)
    whole_blocks: ClassVar[bool] = False

    name: str = "pixart-alpha-256"
    layers: int = 28
    width: int = 1152
    mlp_width: int = 4608
    text_tokens: int = 20
    grid: tuple[int, int] = (16, 16)
    batch: int = 1
    guided: bool = True
    perturbed: bool = False
    branches: int = 1
    patch: int = 2
    in_channels: int = 4
    out_channels: int = 8
    caption_width: int | None = 4096
    cross_width: int = 1152
    micro_conditions: bool = False
    element_bytes: int = 2

    @property
    def rows(self) -> int:
        return self.batch * (1 + self.guided + self.perturbed)

    @property
    def image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def depth(self, stack: str) -> int:
        return self.layers

    def sites(self) -> tuple[Site, ...]:
        return _sites(self.layers, ("block",), ("attn", "cross_attn", "mlp"))

    def tokens(self, module: str) -> int:
        return self.image_tokens

    def selects(self, module: str) -> bool:
        return module != "attn"

    def flops(self, site: Site, kind: Kind, tokens: int, accounting: Accounting = "post-projection") -> float:
        c = self.width
        if site.module == "cross_attn":
            keys_values = 4 * self.text_tokens * self.cross_width * c
            per_sample = tokens * (4 * c * c + 4 * self.text_tokens * c) + (keys_values if kind in COMPUTED else 0)
            if kind is Kind.REUSE:  # the ToCa repository projects the text even for no query at all
                per_sample = keys_values if accounting == "pre-projection" else 0
        elif site.module == "attn":
            per_sample = _self_attention_flops(tokens, c) if kind is Kind.FULL else 0
        else:
            per_sample = tokens * 4 * c * self.mlp_width
        return float(per_sample * self.rows * self.branches)

    def step_flops(self) -> float:
        c = self.width
        conditioning = 2 * 256 * c + 2 * c * c + 2 * c * 6 * c
        if self.micro_conditions:  # height, width and aspect ratio, each embedded in a third of the width
            conditioning += 3 * (2 * 256 * (c // 3) + 2 * (c // 3) ** 2)
        caption = 2 * self.text_tokens * (self.caption_width * c + c * c) if self.caption_width else 0
        image = _patch_flops(self.image_tokens, self.patch, self.in_channels + self.out_channels, c)
        return float((conditioning + caption + image) * self.rows * self.branches)

    def score_source(self, stack: str, score: str) -> str:
        return "cross_attn" if score in ("attention", "attention-sampled") else "attn"

    def score_flops(self, site: Site, score: str, tokens: int | None = None) -> float:
        # s2 needs the cross-attention map once more; it serves the MLP too. Norms of keys and values are at hand.
        if site.module != "cross_attn" or score not in ("attention", "attention-sampled"):
            return 0.0
        queries = self.image_tokens if tokens is None else tokens
        return float(2 * queries * self.text_tokens * self.width * self.rows)

    def shares_projection(self, site: Site) -> bool:
        return False

    def feature_bytes(self, site: Site, kinds: frozenset[Kind]) -> int:
        stored = bool(kinds & STORED)
        return stored * self.image_tokens * self.width * self.element_bytes * self.rows * self.branches

    def cells(self, stack: str, stride: tuple[int, ...]) -> Cells:
        return _picture_cells(self.family, self.grid, stride)

    def mergeable(self, site: Site, stride: tuple[int, ...]) -> frozenset[str]:
        return frozenset({site.module})

    def merged_flops(self, site: Site, modules: frozenset[str], removed: int) -> float:
        return self.flops(site, Kind.FULL, self.image_tokens - removed)

    def hidden_bytes(self) -> int:
        return self.image_tokens * self.width * self.element_bytes * self.rows * self.branches

    def latent_bytes(self) -> int:
        return self.image_tokens * self.patch**2 * self.in_channels * self.element_bytes * self.batch

    def gate_bytes(self, site: Site) -> int:
        gated = site.module != "cross_attn"
        return gated * self.width * self.element_bytes * self.rows * self.branches

    def steady_bytes(self, blocks: int) -> int:
        return _kept_text_bytes(self, bool(self.caption_width) + 2 * blocks)

    def modulation_chunks(self, site: Site, kind: Kind) -> int:
        return 0


@dataclass(frozen=True)
class DiTShape:
    """DiT: one stack of blocks of self-attention and MLP, conditioned on a class.

    `grid` is (height, width) in image tokens. With guidance (`guided`) a transformer call holds two halves of `batch`
    samples each.
    """

    family: ClassVar[str] = "dit"
    stacks: ClassVar[tuple[str, ...]] = ("block",)
    whole_blocks: ClassVar[bool] = False

    name: str = "dit-xl-2-256"
    layers: int = 28
    width: int = 1152
    mlp_width: int = 4608
    grid: tuple[int, int] = (16, 16)
    batch: int = 1
    guided: bool = True
    branches: int = 1
    patch: int = 2
    in_channels: int = 4
    out_channels: int = 8
    element_bytes: int = 2

    @property
    def rows(self) -> int:
        return self.batch * (2 if self.guided else 1)

    @property
    def image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def depth(self, stack: str) -> int:
        return self.layers

    def sites(self) -> tuple[Site, ...]:
        return _sites(self.layers, ("block",), ("attn", "mlp"))

    def tokens(self, module: str) -> int:
        return self.image_tokens

    def selects(self, module: str) -> bool:
        return module != "attn"

    def flops(self, site: Site, kind: Kind, tokens: int, accounting: Accounting = "post-projection") -> float:
        if site.module == "attn":
            per_sample = _self_attention_flops(tokens, self.width) if kind is Kind.FULL else 0
        else:
            per_sample = tokens * 4 * self.width * self.mlp_width
        return float(per_sample * self.rows * self.branches)

    def step_flops(self) -> float:
        c = self.width
        embedding = 2 * 256 * c + 2 * c * c  # of the timestep: each block's own, and the first one's again
        modulation = self.layers * (embedding + 2 * c * 6 * c) + embedding + 2 * c * 2 * c
        image = _patch_flops(self.image_tokens, self.patch, self.in_channels + self.out_channels, c)
        return float((modulation + image) * self.rows * self.branches)

    def score_source(self, stack: str, score: str) -> str:
        return "attn"

    def score_flops(self, site: Site, score: str, tokens: int | None = None) -> float:
        if site.module != "mlp":
            return 0.0
        n = self.image_tokens
        queries = {"attention": n, "attention-sampled": sampled_queries(n)}.get(score, 0)
        return float(2 * queries * n * self.width * self.rows)

    def shares_projection(self, site: Site) -> bool:
        return False

    def feature_bytes(self, site: Site, kinds: frozenset[Kind]) -> int:
        stored = bool(kinds & STORED)
        return stored * self.image_tokens * self.width * self.element_bytes * self.rows * self.branches

    def cells(self, stack: str, stride: tuple[int, ...]) -> Cells:
        return _picture_cells(self.family, self.grid, stride)

    def mergeable(self, site: Site, stride: tuple[int, ...]) -> frozenset[str]:
        return frozenset({site.module})

    def merged_flops(self, site: Site, modules: frozenset[str], removed: int) -> float:
        return self.flops(site, Kind.FULL, self.image_tokens - removed)

    def hidden_bytes(self) -> int:
        return self.image_tokens * self.width * self.element_bytes * self.rows * self.branches

    def latent_bytes(self) -> int:
        return self.image_tokens * self.patch**2 * self.in_channels * self.element_bytes * self.rows

    def gate_bytes(self, site: Site) -> int:
        gated = site.module != "cross_attn"
        return gated * self.width * self.element_bytes * self.rows * self.branches

    def steady_bytes(self, blocks: int) -> int:
        return 0

    def modulation_chunks(self, site: Site, kind: Kind) -> int:
        return 0


@dataclass(frozen=True)
class OpenSoraShape:
    """Open-Sora 1.2 (STDiT3): pairs of a spatial and a temporal block, each of self-attention, text and MLP.

    `frames` and `grid` (height, width) count patches of the latent video. With guidance (`guided`) a transformer call
    holds two halves of `batch` samples each. `text_tokens`: 20 is a prompt of common length; padding is not
    computed. FLOPs are those of a call without reference frames.
    """

    family: ClassVar[str] = "opensora"
    stacks: ClassVar[tuple[str, ...]] = ("spatial", "temporal")
    whole_blocks: ClassVar[bool] = False

    name: str = "opensora-1.2-480p-2s"
    layers: int = 28
    width: int = 1152
    mlp_width: int = 4608
    text_tokens: int = 20
    frames: int = 15
    grid: tuple[int, int] = (30, 53)
    batch: int = 1
    guided: bool = True
    branches: int = 1
    patch: int = 2
    in_channels: int = 4
    out_channels: int = 8
    caption_width: int = 4096
    element_bytes: int = 2

    @property
    def rows(self) -> int:
        return self.batch * (2 if self.guided else 1)

    @property
    def pixels(self) -> tuple[int, int]:
        """(height, width) of the landscape video of this grid, where there is one; it need not be whole cells."""
        named = (size for size in _OPENSORA_LANDSCAPES.values() if _opensora_grid(*size) == self.grid)
        return next(named, (16 * self.grid[0], 16 * self.grid[1]))

    @property
    def frame_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def image_tokens(self) -> int:
        return self.frames * self.frame_tokens

    def depth(self, stack: str) -> int:
        return self.layers

    def sites(self) -> tuple[Site, ...]:
        return _sites(self.layers, self.stacks, ("attn", "cross_attn", "mlp"))

    def tokens(self, module: str) -> int:
        return self.image_tokens

    def selects(self, module: str) -> bool:
        return module != "attn"

    def flops(self, site: Site, kind: Kind, tokens: int, accounting: Accounting = "post-projection") -> float:
        c = self.width
        if site.module == "cross_attn":
            keys_values = 4 * self.text_tokens * c * c
            per_sample = tokens * (4 * c * c + 4 * self.text_tokens * c) + (keys_values if tokens else 0)
            if kind is Kind.REUSE:  # the ToCa repository projects the text even for no query at all
                per_sample = keys_values if accounting == "pre-projection" else 0
        elif site.module == "attn":
            length, sequences = self.frame_tokens, self.frames
            if site.stack == "temporal":
                length, sequences = sequences, length
            per_sample = sequences * _self_attention_flops(length, c) if kind is Kind.FULL else 0
        else:
            per_sample = tokens * 4 * c * self.mlp_width
        return float(per_sample * self.rows * self.branches)

    def step_flops(self) -> float:
        c = self.width
        conditioning = 2 * (2 * 256 * c + 2 * c * c) + 2 * c * 6 * c  # of time and frame rate
        caption = 2 * self.text_tokens * (self.caption_width * c + c * c)
        image = _patch_flops(self.image_tokens, self.patch, self.in_channels + self.out_channels, c)
        return float((conditioning + caption + image) * self.rows * self.branches)

    def score_source(self, stack: str, score: str) -> str:
        return "cross_attn" if score in ("attention", "attention-sampled") else "attn"

    def score_flops(self, site: Site, score: str, tokens: int | None = None) -> float:
        if score in ("attention", "attention-sampled") and site.module == "cross_attn":  # its map once more
            queries = self.image_tokens if tokens is None else tokens
            return float(2 * queries * self.text_tokens * self.width * self.rows)
        if score in ("k-norm", "v-norm", "kv-norm") and site.module == "attn":  # keys or values once more
            return float(2 * self.image_tokens * self.width * self.width * self.rows)
        return 0.0

    def shares_projection(self, site: Site) -> bool:
        return False

    def feature_bytes(self, site: Site, kinds: frozenset[Kind]) -> int:
        stored = bool(kinds & STORED)
        return stored * self.image_tokens * self.width * self.element_bytes * self.rows * self.branches

    def cells(self, stack: str, stride: tuple[int, ...]) -> Cells:
        """Tokens are matched frame by frame, and with a stride of three those of temporal blocks along time."""
        if len(stride) not in (2, 3):
            raise ValueError(f"stride must be 2 or 3 numbers for {self.family}, got {joined(stride)}")
        if stack == "temporal" and len(stride) == 3:
            return Cells((self.frames,), stride[:1], sequences=self.frame_tokens, interleaved=True)
        return Cells(self.grid, stride[-2:], sequences=self.frames)

    def mergeable(self, site: Site, stride: tuple[int, ...]) -> frozenset[str]:
        if site.module == "attn" and site.stack == "temporal" and len(stride) == 2:
            return frozenset()  # its sequences run along time
        return frozenset({site.module})

    def merged_flops(self, site: Site, modules: frozenset[str], removed: int) -> float:
        if site.module != "attn":
            return self.flops(site, Kind.FULL, self.image_tokens - removed)
        temporal = site.stack == "temporal"
        length, sequences = (self.frames, self.frame_tokens) if temporal else (self.frame_tokens, self.frames)
        per_sample = sequences * _self_attention_flops(length - removed // sequences, self.width)
        return float(per_sample * self.rows * self.branches)

    def hidden_bytes(self) -> int:
        return self.image_tokens * self.width * self.element_bytes * self.rows * self.branches

    def latent_bytes(self) -> int:
        return self.image_tokens * self.patch**2 * self.in_channels * self.element_bytes * self.batch

    def gate_bytes(self, site: Site) -> int:
        gated = site.module != "cross_attn"
        return gated * self.width * self.element_bytes * self.rows * self.branches

    def steady_bytes(self, blocks: int) -> int:
        return _kept_text_bytes(self, 1 + 2 * blocks)

    def modulation_chunks(self, site: Site, kind: Kind) -> int:
        return 0


def _kept_text_bytes(shape: PixArtShape | OpenSoraShape, copies: int) -> int:
    """Bytes of `copies` projections of the text, where it is long enough beside the picture."""
    if shape.text_tokens < KEPT_TEXT * shape.image_tokens:
        return 0
    return copies * shape.text_tokens * shape.width * shape.element_bytes * shape.rows * shape.branches


def _picture_cells(family: str, grid: tuple[int, int], stride: tuple[int, ...]) -> Cells:
    if len(stride) != 2:
        raise ValueError(f"stride must be 2 numbers, height and width, for {family}, got {joined(stride)}")
    return Cells(grid, stride)


def _self_attention_flops(tokens: int, width: int) -> int:
    """Projections in and out, scores and weighted values, of one sample."""
    return 8 * tokens * width * width + 4 * tokens * tokens * width


def _patch_flops(tokens: int, patch: int, channels: int, width: int) -> int:
    """Patch embedding and output layer, `channels` in both together, of one sample."""
    return 2 * tokens * patch * patch * channels * width


def sampled_queries(tokens: int) -> int:
    """How many queries the score `attention-sampled` looks at: a thirty-second of the tokens, from 32 to 128, or all.

    More cost time and gain nothing: pictures of `shapes-flux` are alike with 16 and with all (docs/performance.md).
    """
    return min(tokens, max(32, min(128, tokens // 32)))


AnyShape = FluxShape | PixArtShape | DiTShape | OpenSoraShape

_OPENSORA_LANDSCAPES = {
    "144p": (144, 256),
    "240p": (240, 426),
    "360p": (360, 640),
    "480p": (480, 854),
    "720p": (720, 1280),
}
_OPENSORA_LATENT_FRAMES = {"2s": 15, "4s": 30, "8s": 60, "16s": 120}


def _opensora_grid(height: int, width: int) -> tuple[int, int]:
    """Whole latent cells of 8 pixels, in patches of 2, padded."""
    return -(-(height // 8) // 2), -(-(width // 8) // 2)


def _opensora_shapes() -> dict[str, OpenSoraShape]:
    """Every landscape video (9:16) of 144p to 720p, 2 to 16 seconds."""
    shapes = {}
    for resolution, (height, width) in _OPENSORA_LANDSCAPES.items():
        grid = _opensora_grid(height, width)
        for duration, frames in _OPENSORA_LATENT_FRAMES.items():
            name = f"opensora-1.2-{resolution}-{duration}"
            shapes[name] = OpenSoraShape(name=name, frames=frames, grid=grid)
    return shapes


NAMED_SHAPES: dict[str, AnyShape] = {
    "flux-dev": FluxShape(),
    "flux-schnell": FluxShape(name="flux-schnell", guidance=False, text_tokens=256),
    "pixart-alpha-256": PixArtShape(),
    "pixart-alpha-512": PixArtShape(name="pixart-alpha-512", grid=(32, 32)),
    "pixart-alpha-1024": PixArtShape(name="pixart-alpha-1024", grid=(64, 64), micro_conditions=True),
    "pixart-sigma-2k": PixArtShape(name="pixart-sigma-2k", grid=(128, 128)),
    "dit-xl-2-256": DiTShape(),
    "dit-xl-2-512": DiTShape(name="dit-xl-2-512", grid=(32, 32)),
    **_opensora_shapes(),
}


def named_shape(
    name: str,
    *,
    batch: int = 1,
    height: int | None = None,
    width: int | None = None,
    text_tokens: int | None = None,
) -> AnyShape:
    """The shape of a published model at its native picture size, or at `height` x `width` pixels.

    Raises `ValueError` for an unknown name, a batch below 1, a size that is not a multiple of 16 pixels, or text tokens
    of a model without text.
    """
    if not isinstance(name, str) or name not in NAMED_SHAPES:
        raise unknown("model shape", name, NAMED_SHAPES)
    batch = whole("batch", batch)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    shape = NAMED_SHAPES[name]
    if height is not None or width is not None:
        if isinstance(shape, OpenSoraShape):
            raise ValueError(f"the size of {name!r} is in its name; known: {', '.join(_opensora_shapes())}")
        size = whole("height", width if height is None else height), whole("width", height if width is None else width)
        if any(side < 16 or side % 16 for side in size):
            raise ValueError(f"height and width must be multiples of 16 pixels, got {size[0]}x{size[1]}")
        shape = with_grid(shape, (size[0] // 16, size[1] // 16))
    if text_tokens is not None:
        shape = with_text_tokens(shape, text_tokens)
    return dataclasses.replace(shape, batch=batch)


def with_grid(shape: AnyShape, grid: tuple[int, int]) -> AnyShape:
    """`shape` for a picture of `grid` (height, width) image tokens. Raises `ValueError` where DiT's is not square."""
    if isinstance(shape, FluxShape):
        return dataclasses.replace(shape, grid=grid, image_tokens=grid[0] * grid[1])
    if isinstance(shape, DiTShape) and grid[0] != grid[1]:
        raise ValueError(f"{shape.name} makes square pictures, got {grid[0]}x{grid[1]} image tokens")
    return dataclasses.replace(shape, grid=grid)


def with_text_tokens(shape: AnyShape, text_tokens: int) -> AnyShape:
    """`shape` for a prompt of another length. Raises `ValueError` below 1, and for a model without text."""
    if isinstance(shape, DiTShape):
        raise ValueError(f"{shape.name} has no text: it takes a class label, not {text_tokens} text tokens")
    text_tokens = whole("text_tokens", text_tokens)
    if text_tokens < 1:
        raise ValueError(f"text_tokens must be at least 1, got {text_tokens}")
    return dataclasses.replace(shape, text_tokens=text_tokens)
