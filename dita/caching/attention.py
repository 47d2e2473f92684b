"""diffusers' `Attention` modules spelt out: to see their queries, keys and values, and to choose a backend.

PixArt's and DiT's processors call PyTorch's fused attention directly, so that diffusers' `set_attention_backend` does
nothing for them. What stands here computes the same, operation for operation, through diffusers' dispatcher.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry, dispatch_attention_fn
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0
from torch import Tensor, nn

NATIVE = AttentionBackendName.NATIVE
SPELT_OUT = (AttnProcessor2_0, FusedAttnProcessor2_0)


def projections(
    attn: Any, hidden: Tensor, text: Tensor | None, of_text: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of `hidden`, keys and values of `text` or of `hidden` itself: (B, N, H, D) each.

    of_text: `keys_values(attn, text)`, where that is known already.
    """
    if text is not None:
        parts = attn.to_q(hidden), *(of_text or keys_values(attn, text))
    elif attn.fused_projections:
        parts = attn.to_qkv(hidden).chunk(3, dim=-1)
    else:
        parts = attn.to_q(hidden), attn.to_k(hidden), attn.to_v(hidden)
    query, key, value = (part.unflatten(-1, (attn.heads, -1)) for part in parts)
    return query, key, value


def keys_values(attn: Any, text: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of a text in cross-attention, (B, T, C) each."""
    if attn.fused_projections:
        key, value = attn.to_kv(text).chunk(2, dim=-1)
        return key, value
    return attn.to_k(text), attn.to_v(text)


def attention_bias(attn: Any, mask: Tensor | None, keys: int, batch: int) -> Tensor | None:
    """The mask that the transformer hands to its blocks, (B, 1, T), as (B, H, 1, T)."""
    if mask is None:
        return None
    return attn.prepare_attention_mask(mask, keys, batch).unflatten(0, (batch, attn.heads))


def attend(
    attn: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, backend: AttentionBackendName | None
) -> Tensor:
    """The output of the attention module, (B, N, C), by a backend of diffusers' dispatcher (PyTorch's if None)."""
    out = dispatch_attention_fn(query, key, value, attn_mask=bias, backend=backend or NATIVE)
    out = out.flatten(2).to(query.dtype)
    for module in attn.to_out:
        out = module(out)
    return out / attn.rescale_output_factor


def is_spelt_out(attn: Any) -> bool:
    """Whether `attend` computes what the module's own processor does."""
    return type(attn.processor) in SPELT_OUT


def chosen_backend(model: nn.Module) -> AttentionBackendName | None:
    """The backend that `set_attention_backend` chose, if it is not PyTorch's own and the processors would ignore it.

    diffusers notes it for the process, and on processors that know backends. Raises `ValueError` for processors that
    neither know backends nor can be spelt out: the choice could not take effect.
    """
    active = AttentionBackendName(_AttentionBackendRegistry.get_active_backend()[0])
    if active is NATIVE:
        return None
    for name, module in model.named_modules():
        processor = getattr(module, "processor", None)
        if processor is None or hasattr(processor, "_attention_backend") or is_spelt_out(module):
            continue
        raise ValueError(
            f"the attention backend {active.value!r} has no effect on the {type(processor).__name__} of {name};"
            " call transformer.set_attn_processor(AttnProcessor2_0()), or set_attention_backend('native')"
        )
    return active


def check_backend(model: nn.Module, chosen: AttentionBackendName | None, device: torch.device) -> None:
    """Raises `ValueError` if the model's attention is set to xformers where its kernels cannot run."""
    backends = {getattr(getattr(module, "processor", None), "_attention_backend", None) for module in model.modules()}
    names = {getattr(backend, "value", backend) for backend in {*backends, chosen}}
    if "xformers" in names and device.type != "cuda":
        raise ValueError(
            f"the attention backend 'xformers' needs a CUDA device, and the latents are on {device}; call"
            " transformer.set_attention_backend('native')"
        )
