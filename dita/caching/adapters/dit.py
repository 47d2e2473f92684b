"""DiT: where the sites of `DiTTransformer2DModel` are, and its blocks' modulation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from dita.caching.adapters import basic_block
from dita.caching.adapters.basic_block import Modulation, cached_block
from dita.caching.attention import chosen_backend
from dita.caching.class_swap import Forward, MakeForward
from dita.caching.guidance import Parts
from dita.caching.spans import in_spans
from dita.caching.state import BlockState
from dita.shapes import DiTShape

MODULES = ("attn", "mlp")


class DiTAdapter:
    """Sites of each block: `attn` (self-attention) and `mlp`."""

    family = "dit"
    context_parallel = False
    halves = True

    def handles(self, model: nn.Module) -> bool:
        return isinstance(model, DiTTransformer2DModel)

    def shape(self, model: DiTTransformer2DModel, inputs: dict[str, Any]) -> DiTShape:
        latents, config = inputs["hidden_states"], model.config
        return DiTShape(
            name="dit",
            layers=config.num_layers,
            width=model.inner_dim,
            mlp_width=4 * model.inner_dim,
            grid=basic_block.latent_grid(model, inputs),
            batch=latents.shape[0],
            guided=False,
            patch=config.patch_size,
            in_channels=config.in_channels,
            out_channels=model.out_channels,
            element_bytes=latents.element_size(),
        )

    def parted(self, shape: DiTShape, parts: Parts) -> DiTShape:
        if parts.perturbed:  # diffusers perturbs no attention of this family
            return shape
        return dataclasses.replace(shape, batch=shape.batch // parts.count, guided=parts.guided)

    def tokens_in(self, inputs: dict[str, Any]) -> Tensor:
        return inputs["hidden_states"]

    def blocks(self, model: DiTTransformer2DModel) -> list[tuple[str, int, nn.Module]]:
        return [("block", i, block) for i, block in enumerate(model.transformer_blocks)]

    def modules(self, stack: str) -> tuple[str, ...]:
        return MODULES

    def forwards(self, stack: str, block: Any) -> list[tuple[nn.Module, MakeForward]]:
        return basic_block.forwards(block, block_forward)

    def bind(self, stack: str, block: Any, state: BlockState) -> None:
        basic_block.bind(block, state)

    def steady_modules(self, model: Any) -> list[nn.Module]:
        return []

    def steady_inputs(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        return ()

    def foreseen(self, model: Any, inputs: dict[str, Any], timesteps: Sequence[float]) -> Tensor | None:
        return None

    def probed_score(self, score: str) -> str:
        return score

    def module_scores(self, stack: str, module: str, shape: DiTShape, scores: Tensor) -> Tensor:
        return scores

    def grid(self, model: DiTTransformer2DModel, inputs: dict[str, Any]) -> tuple[int, int]:
        return basic_block.latent_grid(model, inputs)

    def image_start(self, module: str, shape: DiTShape) -> int | None:
        return 0

    def attention_backend(self, model: nn.Module) -> str | None:
        return chosen_backend(model)


@in_spans
def block_forward(stock: Forward) -> Forward:
    """DiT's block: the stock forward in full steps, `cached_block` otherwise; first, tokens are matched."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        self._dita.enter(hidden_states)
        if self._dita.cached:
            modulation = _modulation(self.norm1, timestep, class_labels, hidden_states.dtype)
            return cached_block(
                self,
                hidden_states,
                modulation,
                norm_attn=self.norm1.norm,
                norm_mlp=self.norm3,
                attention_kwargs=cross_attention_kwargs,
            )
        return stock(
            self,
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            timestep,
            cross_attention_kwargs,
            class_labels,
            added_cond_kwargs,
        )

    return forward


def _modulation(norm: Any, timestep: Tensor | None, class_labels: Tensor | None, dtype: Any) -> Modulation:
    """What the block's adaptive norm computes from timestep and class, without the norm."""
    embedded = norm.linear(norm.silu(norm.emb(timestep, class_labels, hidden_dtype=dtype)))
    return Modulation(*embedded[:, None].chunk(6, dim=-1))
