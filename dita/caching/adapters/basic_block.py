"""diffusers' `BasicTransformerBlock` as PixArt and DiT use it: its sites, and what it does in a cached step."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dita.caching.attention import attend, attention_bias, is_spelt_out, keys_values, projections
from dita.caching.class_swap import Forward, MakeForward
from dita.caching.probe import Common
from dita.caching.rows import plus, plus_gated, scatter_rows
from dita.caching.scores import attention_entropy, mean_length, received_attention, staggered
from dita.caching.sites import keeping_forward, modulated, site_output
from dita.caching.state import BlockState
from dita.caching.steady import IDLE
from dita.merging.merger import Merger, unmerged_numbers
from dita.shapes import Kind, sampled_queries

ENTROPY = "entropy"
"""The probe's score in a block that attends to text: s2 in place of s1."""


class Modulation(NamedTuple):
    """Scales, shifts and gates of the current timestep, broadcast to (B, N, C): of self-attention, then of the MLP."""

    shift_attn: Tensor
    scale_attn: Tensor
    gate_attn: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor


def forwards(block: Any, block_forward: MakeForward) -> list[tuple[Any, MakeForward]]:
    """The modules of a block whose forward is replaced, and by what."""
    leaves = [(block, block_forward), (block.attn1, self_attention_forward), (block.ff, keeping_forward)]
    return leaves if block.attn2 is None else [*leaves, (block.attn2, cross_attention_forward)]


def bind(block: Any, state: BlockState) -> None:
    """Gives a block's modules their state."""
    # straight into __dict__: nn.Module's own attribute setting costs a microsecond a module
    block.__dict__["_dita"] = block.attn1.__dict__["_dita"] = state
    if block.attn2 is not None:
        block.attn2.__dict__["_dita"] = state
    block.ff.__dict__["_dita"] = state.slots["mlp"]


def self_attention_forward(stock: Forward) -> Forward:
    """Self-attention: keeps its output, and scores the tokens where asked to."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        state: BlockState = self._dita
        merger = state.slots["attn"].merger
        if merger is not None:
            hidden_states = merger.merge(hidden_states)
            attention_mask = _mask_of_merged(merger, attention_mask, hidden_states.dtype)
        score = state.probe.score if state.probe.score != ENTROPY else None
        spelt_out = is_spelt_out(self)
        if score is None and not (state.backend and spelt_out):
            out = stock(self, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        else:
            query, key, value = projections(self, hidden_states, None)
            if spelt_out:
                bias = attention_bias(self, attention_mask, hidden_states.shape[1], hidden_states.shape[0])
                out = attend(self, query, key, value, bias, state.backend)
            else:
                out = stock(self, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
            if score is not None:
                scores = token_scores(score, query, key, value, state.probe.common)
                state.probe.scores = scores if merger is None else unmerged_numbers(merger, scores)
        if merger is not None:
            out = merger.unmerge(out)
        if state.slots["attn"].keep:
            state.slots["attn"].put(out)
        return out

    return forward


def cross_attention_forward(stock: Forward) -> Forward:
    """Cross-attention to the text: keeps its output, and the entropy of its map where asked to."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        state: BlockState = self._dita
        merger = state.slots["cross_attn"].merger
        if merger is not None:
            hidden_states = merger.merge(hidden_states)
        scoring, spelt_out = state.probe.score == ENTROPY, is_spelt_out(self)
        memo = state.steady if not torch.compiler.is_compiling() else IDLE
        if encoder_hidden_states is None or not (scoring or (spelt_out and (state.backend or memo.active))):
            out = stock(self, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        else:
            of_text = memo.made_by(self, partial(keys_values, self, encoder_hidden_states))
            query, key, value = projections(self, hidden_states, encoder_hidden_states, of_text)
            bias = attention_bias(self, attention_mask, key.shape[1], key.shape[0])
            if spelt_out:
                out = attend(self, query, key, value, bias, state.backend)
            else:
                out = stock(self, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
            if scoring:
                entropies = attention_entropy(query, key, bias)
                note_entropy(state, entropies if merger is None else unmerged_numbers(merger, entropies))
        if merger is not None:
            out = merger.unmerge(out)
        if state.slots["cross_attn"].keep:
            state.slots["cross_attn"].put(out)
        return out

    return forward


def _mask_of_merged(merger: Merger, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores of the merged keys, (B, 1, n'), in place of a mask of all keys."""
    if mask is not None:
        raise ValueError("tokens cannot be merged in self-attention that has a mask; disable tome, or drop the mask")
    bias = merger.key_bias(dtype)
    return None if bias is None else bias[:, None]


def note_entropy(state: BlockState, entropies: Tensor) -> None:
    """Notes scores of cross-attention, (B, N): all tokens' in a full step; in a partial one, those of its rows."""
    slot, probe = state.slots["cross_attn"], state.probe
    if slot.kind is Kind.FULL:
        probe.scores = entropies
    else:
        assert probe.scores is not None and slot.rows is not None
        scatter_rows(probe.scores[..., None], slot.rows, entropies[..., None])


def token_scores(score: str, query: Tensor, key: Tensor, value: Tensor, common: Common) -> Tensor:
    """The score of every token from its self-attention, (B, N), not yet normalised. All inputs: (B, N, H, D)."""
    if score == "k-norm":
        return mean_length(key)
    if score == "v-norm":
        return mean_length(value)
    if score == "kv-norm":
        return 1 - mean_length(value)
    tokens = query.shape[1]
    if score == "attention-sampled" and tokens > sampled_queries(tokens):
        places = partial(staggered, sampled_queries(tokens), tokens, query.device)
        query = query.index_select(1, common.made(("places", tokens), (), places))
    return received_attention(query, key)


def cached_block(
    block: Any,
    x: Tensor,
    modulation: Modulation,
    *,
    norm_attn: Any,
    norm_mlp: Any,
    attention_mask: Tensor | None = None,
    text: Tensor | None = None,
    text_mask: Tensor | None = None,
    attention_kwargs: dict[str, Any] | None = None,
) -> Tensor:
    """A block some of whose sites are cached, (B, N, C) -> (B, N, C); each site does what its slot says.

    Self-attention and MLP are normed, modulated and gated with today's timestep; cross-attention is neither.
    """
    slots, extra = block._dita.slots, attention_kwargs or {}
    m = modulation

    def self_attention() -> Tensor:
        return block.attn1(norm_attn(x) * (1 + m.scale_attn) + m.shift_attn, attention_mask=attention_mask, **extra)

    attended = self_attention() if slots["attn"].kind is Kind.FULL else slots["attn"].output()
    # the first block's tokens come from a convolution, the channels of a token apart: all that follows would lie so
    x = torch.addcmul(x.contiguous(), m.gate_attn, attended)
    if "cross_attn" in slots:
        x = plus(
            x, site_output(slots["cross_attn"], x, lambda _, chosen: block.attn2(chosen, text, text_mask, **extra))
        )
    out = site_output(
        slots["mlp"], x, lambda _, chosen: block.ff(modulated(norm_mlp(chosen), m.shift_mlp, m.scale_mlp))
    )
    return plus_gated(x, m.gate_mlp, out)


def latent_grid(model: Any, inputs: dict[str, Any]) -> tuple[int, int]:
    """(height, width) in image tokens of the latents (B, C, H, W) of a call."""
    height, width = inputs["hidden_states"].shape[-2:]
    return height // model.config.patch_size, width // model.config.patch_size
