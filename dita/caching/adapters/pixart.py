"""PixArt-alpha and Sigma: where the sites of `PixArtTransformer2DModel` are, and its blocks' modulation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from dita.caching.adapters import basic_block
from dita.caching.adapters.basic_block import Modulation, cached_block
from dita.caching.attention import chosen_backend
from dita.caching.class_swap import Forward, MakeForward
from dita.caching.guidance import Parts
from dita.caching.spans import in_spans
from dita.caching.state import BlockState
from dita.shapes import PixArtShape

MODULES = ("attn", "cross_attn", "mlp")


class PixArtAdapter:
    """Sites of each block: `attn` (self-attention), `cross_attn` (to the text) and `mlp`."""

    family = "pixart"
    context_parallel = False
    halves = True

    def handles(self, model: nn.Module) -> bool:
        return isinstance(model, PixArtTransformer2DModel)

    def shape(self, model: PixArtTransformer2DModel, inputs: dict[str, Any]) -> PixArtShape:
        latents, text, config = inputs["hidden_states"], inputs["encoder_hidden_states"], model.config
        return PixArtShape(
            name="pixart",
            layers=config.num_layers,
            width=model.inner_dim,
            mlp_width=4 * model.inner_dim,
            text_tokens=text.shape[1],
            grid=basic_block.latent_grid(model, inputs),
            batch=latents.shape[0],
            guided=False,
            patch=config.patch_size,
            in_channels=config.in_channels,
            out_channels=model.out_channels,
            caption_width=config.caption_channels,
            cross_width=config.cross_attention_dim,
            micro_conditions=model.use_additional_conditions,
            element_bytes=latents.element_size(),
        )

    def parted(self, shape: PixArtShape, parts: Parts) -> PixArtShape:
        batch = shape.batch // parts.count
        return dataclasses.replace(shape, batch=batch, guided=parts.guided, perturbed=parts.perturbed)

    def tokens_in(self, inputs: dict[str, Any]) -> Tensor:
        return inputs["hidden_states"]

    def blocks(self, model: PixArtTransformer2DModel) -> list[tuple[str, int, nn.Module]]:
        return [("block", i, block) for i, block in enumerate(model.transformer_blocks)]

    def modules(self, stack: str) -> tuple[str, ...]:
        return MODULES

    def forwards(self, stack: str, block: Any) -> list[tuple[nn.Module, MakeForward]]:
        return basic_block.forwards(block, block_forward)

    def bind(self, stack: str, block: Any, state: BlockState) -> None:
        basic_block.bind(block, state)

    def steady_modules(self, model: Any) -> list[nn.Module]:
        return [] if model.caption_projection is None else [model.caption_projection]

    def steady_inputs(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        return (inputs["encoder_hidden_states"],)

    def foreseen(self, model: Any, inputs: dict[str, Any], timesteps: Sequence[float]) -> Tensor | None:
        return None

    def probed_score(self, score: str) -> str:
        return basic_block.ENTROPY if score in ("attention", "attention-sampled") else score

    def module_scores(self, stack: str, module: str, shape: PixArtShape, scores: Tensor) -> Tensor:
        return scores

    def grid(self, model: PixArtTransformer2DModel, inputs: dict[str, Any]) -> tuple[int, int]:
        return basic_block.latent_grid(model, inputs)

    def image_start(self, module: str, shape: PixArtShape) -> int | None:
        return 0

    def attention_backend(self, model: nn.Module) -> str | None:
        return chosen_backend(model)


@in_spans
def block_forward(stock: Forward) -> Forward:
    """PixArt's block: the stock forward in full steps, `cached_block` otherwise; first, tokens are matched."""

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
            assert timestep is not None
            return cached_block(
                self,
                hidden_states,
                _modulation(self, timestep),
                norm_attn=self.norm1,
                norm_mlp=self.norm2,
                attention_mask=attention_mask,
                text=encoder_hidden_states,
                text_mask=encoder_attention_mask,
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


def _modulation(block: Any, timestep: Tensor) -> Modulation:
    """The block's own offsets on the modulation that the model computed for all blocks, (B, 6 C)."""
    shared = timestep.unflatten(-1, (6, -1))
    return Modulation(*(block.scale_shift_table[None] + shared).chunk(6, dim=1))
