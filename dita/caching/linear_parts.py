"""Linear layers by parts of their weights: rows of the weights make parts of the output, columns shares of a sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def is_stock(layer: Any) -> bool:
    """Whether it is a linear layer and nothing more (LoRA, quantised, hooked for offload), whose weights can be cut."""
    hooked = "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_hooks
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not hooked


def may_change_by_itself(*modules: Any) -> bool:
    """Whether what `modules` make of the same input may change without a weight being written into: adapters (LoRA),
    whose scale and choice are settings, hooks, and layers of kinds that are not known."""
    return any(_may_change(module) for root in modules for module in root.modules())


def _may_change(module: nn.Module) -> bool:
    if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "base_layer"):
        return True
    owns = bool(module._parameters or module._buffers)
    return owns and type(module).__module__.split(".")[0] not in _KNOWN


_KNOWN = {"torch", "diffusers", "transformers", "dita", "bitsandbytes", "torchao", "optimum"}
"""Libraries whose layers with weights compute by these, and by nothing else: their own layers, and quantised ones."""


def by_parts(x: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> Tensor:
    """x (R, K) times weight (N, K) and plus bias (N): the `parts` of the output, (parts, R, N / parts)."""
    rows, of_part = x.expand(parts, -1, -1), weight.unflatten(0, (parts, -1)).mT
    return rows @ of_part if bias is None else torch.baddbmm(bias.view(parts, 1, -1), rows, of_part)


def share_of_attention(projection: nn.Linear, attended: Tensor) -> Tensor:
    """What attention (..., C_a), and the bias, add to a projection of attention and MLP side by side: (..., C).

    `proj_out` of FLUX's single-stream blocks is one: attention W_a + bias + mlp W_m. Where the attention is frozen, so
    is its share: stored in place of it, and no larger. A cached step then multiplies with W_m alone.
    """
    return linear(attended, projection.weight[:, : attended.shape[-1]], projection.bias)


def projected(projection: Any, share: Tensor, mlp: Tensor) -> Tensor:
    """That projection, (..., C), of the attention that `share` is of and of `mlp` (..., C_m)."""
    of_mlp = projection.weight[:, -mlp.shape[-1] :]
    return torch.addmm(share.flatten(0, -2), mlp.flatten(0, -2), of_mlp.mT).view(share.shape)


def projected_by_layer(projection: Any, share: Tensor, mlp: Tensor) -> Tensor:
    """As `projected`, by a layer that is more than its weights by now (a LoRA that was loaded since the full step): the
    attention's share is what it was, and of the MLP the layer makes what it does now."""
    empty = mlp.new_zeros(*mlp.shape[:-1], projection.in_features - mlp.shape[-1])
    out = share + projection(torch.cat([empty, mlp], dim=-1))
    return out if projection.bias is None else out - projection.bias
