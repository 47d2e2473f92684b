"""The attention module of STDiT3 blocks, with diffusers' dispatcher inside so that its backends can be chosen."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.normalization import RMSNorm
from torch import nn

from dita.pipelines.opensora.embeddings import rotate

Rotary = tuple[torch.Tensor, torch.Tensor]


class OpenSoraAttnProcessor:
    """Projects, normalises, rotates and dispatches; diffusers sets the backend on it."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: OpenSoraAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> torch.Tensor:
        return self.attend(attn, *self.prepare(attn, hidden_states, encoder_hidden_states, rotary), attention_mask)

    def prepare(
        self,
        attn: OpenSoraAttention,
        hidden_states: torch.Tensor,
        text: torch.Tensor | None,
        rotary: Rotary | None,
        keys_values: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, `(B, L, heads, head_dim)`, as they enter the attention product.

        keys_values: `attn.keys_values(text)`, where that is known already.
        """
        states = attn.project(hidden_states, text) if keys_values is None else (attn.to_q(hidden_states), *keys_values)
        query, key, value = (projected.unflatten(-1, (attn.heads, -1)) for projected in states)
        query, key = attn.norm_q(query), attn.norm_k(key)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        return query, key, value

    def attend(
        self,
        attn: OpenSoraAttention,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The module's output `(B, L, dim)`."""
        attended = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.to_out[1](attn.to_out[0](attended.flatten(2).type_as(query)))


class OpenSoraAttention(nn.Module, AttentionModuleMixin):
    """Self-attention with RMS-normalised queries and keys, or cross-attention to the text without (spec 1.5, 1.7).

    `qk_norm` is `"rms_norm"` or None.
    """

    _default_processor_cls = OpenSoraAttnProcessor
    _available_processors = [OpenSoraAttnProcessor]  # noqa: RUF012 (diffusers' own form)

    processor: Any
    to_qkv: nn.Linear  # after `fuse_projections`
    to_kv: nn.Linear

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, qk_norm: str | None = None, is_cross_attention: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.use_bias = True  # read by `fuse_projections`
        self.is_cross_attention = is_cross_attention
        inner = heads * head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, inner) for _ in range(3))
        self.norm_q, self.norm_k = (RMSNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity() for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(inner, dim), nn.Dropout(0.0)])
        self.processor = OpenSoraAttnProcessor()

    def project(self, hidden_states: torch.Tensor, text: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values; with fused weights after `fuse_qkv_projections`."""
        if text is None:
            if self.fused_projections:
                return self.to_qkv(hidden_states).chunk(3, dim=-1)
            return self.to_q(hidden_states), self.to_k(hidden_states), self.to_v(hidden_states)
        return self.to_q(hidden_states), *self.keys_values(text)

    def keys_values(self, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a text, `(B, text, dim)` each."""
        if self.fused_projections:
            return self.to_kv(text).chunk(2, dim=-1)
        return self.to_k(text), self.to_v(text)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> torch.Tensor:
        """`(B, L, dim)` from `(B, L, dim)`, and `(B, text, dim)` in cross-attention, whose mask is bool `(B, text)`."""
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask, rotary)
