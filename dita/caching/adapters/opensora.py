"""Open-Sora 1.2: the sites of STDiT3's spatial and temporal blocks, and what a block does in a cached step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dita.caching.adapters.basic_block import ENTROPY, note_entropy
from dita.caching.class_swap import Forward, MakeForward
from dita.caching.guidance import Parts
from dita.caching.rows import plus, plus_gated
from dita.caching.scores import attention_entropy, mean_length
from dita.caching.sites import keeping_forward, modulated, site_output
from dita.caching.spans import in_spans
from dita.caching.state import BlockState
from dita.caching.steady import IDLE
from dita.merging.merger import Merger, unmerged_numbers
from dita.shapes import Kind, OpenSoraShape

MODULES = ("attn", "cross_attn", "mlp")
MODEL, PROCESSOR = "OpenSoraTransformer3DModel", "OpenSoraAttnProcessor"


class OpenSoraAdapter:
    """Sites of each block of the stacks `spatial` and `temporal`: `attn`, `cross_attn` (to the text) and `mlp`.

    Tokens are all patches of the video, frame by frame. Stored self-attention lies as its module returns it: a row for
    each frame in the spatial blocks, for each place in the temporal ones.
    """

    family = "opensora"
    context_parallel = False
    halves = True

    def handles(self, model: nn.Module) -> bool:
        # by name: the model is dita's own and stands above the engine, which imports nothing from there
        return any(cls.__name__ == MODEL for cls in type(model).__mro__)

    def shape(self, model: Any, inputs: dict[str, Any]) -> OpenSoraShape:
        config = model.config
        frames, height, width = self.grid(model, inputs)
        dim = config.num_attention_heads * config.attention_head_dim
        return OpenSoraShape(
            name="opensora",
            layers=config.num_layers,
            width=dim,
            mlp_width=int(config.mlp_ratio * dim),
            text_tokens=inputs["encoder_hidden_states"].shape[1],
            frames=frames,
            grid=(height, width),
            batch=inputs["hidden_states"].shape[0],
            guided=False,
            patch=config.patch_size,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            caption_width=config.caption_channels,
            # of the features, not of the latents: those become float32 at the first step
            element_bytes=model.scale_shift_table.element_size(),
        )

    def parted(self, shape: OpenSoraShape, parts: Parts) -> OpenSoraShape:
        if parts.perturbed:  # diffusers perturbs no attention of this family
            return shape
        return dataclasses.replace(shape, batch=shape.batch // parts.count, guided=parts.guided)

    def tokens_in(self, inputs: dict[str, Any]) -> Tensor:
        return inputs["hidden_states"]

    def blocks(self, model: Any) -> list[tuple[str, int, nn.Module]]:
        pairs = zip(model.spatial_blocks, model.temporal_blocks, strict=True)
        return [
            (stack, i, block)
            for i, pair in enumerate(pairs)
            for stack, block in zip(OpenSoraShape.stacks, pair, strict=True)
        ]

    def modules(self, stack: str) -> tuple[str, ...]:
        return MODULES

    def forwards(self, stack: str, block: Any) -> list[tuple[nn.Module, MakeForward]]:
        return [
            (block, block_forward),
            (block.attn1, self_attention_forward),
            (block.attn2, cross_attention_forward),
            (block.ff, keeping_forward),
        ]

    def bind(self, stack: str, block: Any, state: BlockState) -> None:
        # straight into __dict__: nn.Module's own attribute setting costs a microsecond a module
        for module in (block, block.attn1, block.attn2):
            module.__dict__["_dita"] = state
        block.ff.__dict__["_dita"] = state.slots["mlp"]

    def steady_modules(self, model: Any) -> list[nn.Module]:
        return [model.caption_projection]

    def steady_inputs(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        return (inputs["encoder_hidden_states"],)

    def foreseen(self, model: Any, inputs: dict[str, Any], timesteps: Sequence[float]) -> Tensor | None:
        return None

    def probed_score(self, score: str) -> str:
        return ENTROPY if score in ("attention", "attention-sampled") else score

    def module_scores(self, stack: str, module: str, shape: OpenSoraShape, scores: Tensor) -> Tensor:
        """(L, rows, N): lengths of keys and values come as self-attention's sequences, frames or places apart."""
        if stack == "temporal" and scores.shape[-1] != shape.image_tokens:
            return scores.unflatten(1, (shape.rows, -1)).transpose(-1, -2).flatten(-2)
        return scores.reshape(len(scores), shape.rows, shape.image_tokens)

    def grid(self, model: Any, inputs: dict[str, Any]) -> tuple[int, int, int]:
        frames, height, width = inputs["hidden_states"].shape[-3:]
        patch = model.config.patch_size
        return frames, -(-height // patch), -(-width // patch)

    def image_start(self, module: str, shape: OpenSoraShape) -> int | None:
        return 0

    def attention_backend(self, model: nn.Module) -> Any:
        return None  # the model dispatches itself


def self_attention_forward(stock: Forward) -> Forward:
    """Self-attention: keeps its output, and measures keys or values where a score asks for them."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: Any = None,
    ) -> Tensor:
        state: BlockState = self._dita
        merger = state.slots["attn"].merger
        if merger is not None:
            hidden_states, attention_mask, rotary = _merged_inputs(merger, hidden_states, rotary)
        out = stock(self, hidden_states, encoder_hidden_states, attention_mask, rotary)
        score = state.probe.score
        if score is not None and score != ENTROPY:
            projection = self.to_k if score == "k-norm" else self.to_v
            lengths = mean_length(projection(hidden_states).unflatten(-1, (self.heads, -1)))
            lengths = lengths if merger is None else unmerged_numbers(merger.matching, lengths)
            state.probe.scores = 1 - lengths if score == "kv-norm" else lengths
        if merger is not None:
            out = merger.matching.unmerge(out)
        if state.slots["attn"].keep:
            state.slots["attn"].put(out)
        return out

    return forward


def _merged_inputs(merger: Merger, sequences: Tensor, rotary: Any) -> tuple[Tensor, Tensor | None, Any]:
    """Sequences (b, n, C) merged, what is added to the scores of their keys, and the angles of the tokens kept."""
    bias = merger.key_bias(sequences.dtype)
    if rotary is not None:  # temporal blocks: each sequence keeps times of its own
        rotary = tuple(table[merger.matching.kept] for table in rotary)
    return merger.matching.merge(sequences), None if bias is None else bias[:, None, None], rotary


def cross_attention_forward(stock: Forward) -> Forward:
    """Cross-attention to the text: keeps its output, and the entropy of its map where asked to."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary: Any = None,
    ) -> Tensor:
        state: BlockState = self._dita
        slot, probe, merger = state.slots["cross_attn"], state.probe, state.slots["cross_attn"].merger
        if merger is not None:
            hidden_states = merger.merge(hidden_states)
        memo = state.steady if not torch.compiler.is_compiling() else IDLE
        if probe.score == ENTROPY or (memo.active and type(self.processor).__name__ == PROCESSOR):
            of_text = memo.made_by(self, partial(self.keys_values, encoder_hidden_states))
            query, key, value = self.processor.prepare(self, hidden_states, encoder_hidden_states, rotary, of_text)
            out = self.processor.attend(self, query, key, value, attention_mask)
        else:
            out = stock(self, hidden_states, encoder_hidden_states, attention_mask, rotary)
        if probe.score == ENTROPY:
            entropies = attention_entropy(query, key, _bias(attention_mask, query.dtype))
            note_entropy(state, entropies if merger is None else unmerged_numbers(merger, entropies))
        if merger is not None:
            out = merger.unmerge(out)
        if slot.keep:
            slot.put(out)
        return out

    return forward


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask of the text, True for tokens that are there, (B, L), as what is added to the scores, (B, 1, 1, L)."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)[:, None, None]


@in_spans
def block_forward(stock: Forward) -> Forward:
    """A block: the stock forward in full steps, `cached_block` otherwise; first, tokens are matched."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        modulation: Tensor,
        num_frames: int,
        encoder_attention_mask: Tensor | None = None,
        rotary: Any = None,
    ) -> Tensor:
        self._dita.enter(hidden_states)
        _keep_gates(self, modulation)
        run = cached_block if self._dita.cached else stock
        return run(self, hidden_states, encoder_hidden_states, modulation, num_frames, encoder_attention_mask, rotary)

    return forward


def _keep_gates(block: Any, modulation: Tensor) -> None:
    """Notes the gates of those sites whose stored output shall go with them."""
    slots = block._dita.slots
    for module, number in (("attn", 2), ("mlp", 5)):
        if slots[module].keep_gate:
            slots[module].gate = block.modulations(modulation)[number].clone()


def cached_block(
    block: Any,
    hidden_states: Tensor,
    text: Tensor,
    modulation: Tensor,
    num_frames: int,
    text_mask: Tensor | None,
    rotary: Any,
) -> Tensor:
    """A block some of whose sites are cached, (B, N, C) -> (B, N, C); each site does what its slot says.

    Stored outputs are those in front of the gates; shifts, scales and gates are today's (but for a gate that was stored
    with its output), and each frame's own where frames differ in their timestep.
    """
    slots, batch = block._dita.slots, hidden_states.shape[0]
    shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = block.modulations(modulation)
    x = hidden_states.unflatten(1, (num_frames, -1))  # (B, T, S, C)

    slot = slots["attn"]
    if slot.kind is Kind.FULL:
        attended = block.attn1(block.fold(block.norm1(x) * (1 + scale_attn) + shift_attn), rotary=rotary)
    else:
        attended = slot.output()
        gate_attn = gate_attn if slot.gate is None else slot.gate
    x = torch.addcmul(x, gate_attn, block.unfold(attended, batch)).flatten(1, 2)

    x = plus(x, site_output(slots["cross_attn"], x, lambda _, chosen: block.attn2(chosen, text, text_mask)))

    def chosen_mlp(rows: Tensor | None, chosen: Tensor) -> Tensor:
        assert rows is not None
        shift, scale = (_of_rows(values, rows, x) for values in (shift_mlp, scale_mlp))
        return block.ff(modulated(block.norm2(chosen), shift, scale))

    slot = slots["mlp"]
    if slot.kind is Kind.FULL:
        by_frame = x.unflatten(1, (num_frames, -1))
        out = block.ff((block.norm2(by_frame) * (1 + scale_mlp) + shift_mlp).flatten(1, 2))
    else:
        out = site_output(slot, x, chosen_mlp)
        gate_mlp = gate_mlp if slot.gate is None else slot.gate
    by_frame = x.unflatten(1, (num_frames, -1))
    return plus_gated(by_frame, gate_mlp, out.unflatten(1, (num_frames, -1))).flatten(1, 2)


def _of_rows(values: Tensor, rows: Tensor, x: Tensor) -> Tensor:
    """Of `values` (B, 1 or T, 1, C), one for each frame or one for all, those of the rows (B * k): (B, 1 or k, C)."""
    batch, frames = values.shape[:2]
    if frames == 1:
        return values[:, 0]
    frame_tokens = x.shape[1] // frames
    return values.flatten(0, 2).index_select(0, rows // frame_tokens).unflatten(0, (batch, -1))
