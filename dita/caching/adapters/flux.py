"""FLUX: where the sites of `FluxTransformer2DModel` are, and what its blocks do in a cached step."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from dita.caching.class_swap import Forward, MakeForward
from dita.caching.probe import Probe
from dita.caching.scores import mean_length, received_attention, sampled_queries
from dita.caching.sites import fill_from_store, keeping_forward, key_norm_forward, query_norm_forward
from dita.caching.spans import in_spans_of_two_streams
from dita.caching.state import BlockState, gather_rows
from dita.shapes import SAMPLED_QUERIES, FluxShape, Kind

MODULES = {"double": ("attn", "mlp", "text_mlp"), "single": ("single",)}


class FluxAdapter:
    """Sites: in double-stream blocks `attn` (both streams), `mlp` (image) and `text_mlp`; a single-stream block is one
    site, `single`, whose tokens are text first, then image."""

    family = "flux"

    def handles(self, model: nn.Module) -> bool:
        return isinstance(model, FluxTransformer2DModel)

    def shape(self, model: FluxTransformer2DModel, inputs: dict[str, Any]) -> FluxShape:
        latents, text = inputs["hidden_states"], inputs["encoder_hidden_states"]
        config = model.config
        return FluxShape(
            name="flux",
            double_layers=config.num_layers,
            single_layers=config.num_single_layers,
            width=model.inner_dim,
            mlp_width=4 * model.inner_dim,
            text_tokens=text.shape[1],
            image_tokens=latents.shape[1],
            grid=None,
            batch=latents.shape[0],
            in_channels=config.in_channels,
            text_width=config.joint_attention_dim,
            pooled_width=config.pooled_projection_dim,
            guidance=config.guidance_embeds,
            element_bytes=latents.element_size(),
        )

    def guided(self, shape: FluxShape, inputs: dict[str, Any]) -> FluxShape:
        return shape  # FLUX's guidance is distilled, or a second transformer call

    def tokens_in(self, inputs: dict[str, Any]) -> Tensor:
        return inputs["hidden_states"]

    def blocks(self, model: FluxTransformer2DModel) -> list[tuple[str, int, nn.Module]]:
        double = [("double", i, block) for i, block in enumerate(model.transformer_blocks)]
        return double + [("single", i, block) for i, block in enumerate(model.single_transformer_blocks)]

    def modules(self, stack: str) -> tuple[str, ...]:
        return MODULES[stack]

    def forwards(self, stack: str, block: Any) -> list[tuple[nn.Module, MakeForward]]:
        norms = [(block.attn.norm_q, query_norm_forward), (block.attn.norm_k, key_norm_forward)]
        if stack == "single":
            return [(block, single_forward), (block.attn, probing_forward), *norms]
        norms += [(block.attn.norm_added_q, query_norm_forward), (block.attn.norm_added_k, key_norm_forward)]
        leaves = [(block.ff, keeping_forward), (block.ff_context, keeping_forward)]
        return [(block, double_forward), (block.attn, probing_forward), *leaves, *norms]

    def bind(self, stack: str, block: Any, state: BlockState) -> None:
        # straight into __dict__: nn.Module's own attribute setting costs a microsecond a module
        block.__dict__["_dita"] = block.attn.__dict__["_dita"] = state
        block.attn.norm_q.__dict__["_dita"] = block.attn.norm_k.__dict__["_dita"] = (state.probe, "main")
        if stack == "double":
            text = (state.probe, "text")
            block.attn.norm_added_q.__dict__["_dita"] = block.attn.norm_added_k.__dict__["_dita"] = text
            block.ff.__dict__["_dita"] = state.slots["mlp"]
            block.ff_context.__dict__["_dita"] = state.slots["text_mlp"]

    def probed_score(self, score: str) -> str:
        return score

    def module_scores(self, stack: str, module: str, shape: FluxShape, scores: Tensor) -> Tensor:
        if module == "mlp":
            return scores[..., shape.text_tokens :]
        return scores[..., : shape.text_tokens] if module == "text_mlp" else scores

    def grid(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[int, int] | None:
        ids = inputs["img_ids"]
        ids = ids[0] if ids.ndim == 3 else ids
        height, width = (int(side) for side in ids[:, 1:].amax(dim=0) + 1)
        expected = torch.stack(
            [torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)], dim=-1
        )
        # in-context image conditions (Kontext, Fill's siblings) append a second picture: then there is no one grid
        if ids.shape[0] != height * width or not torch.equal(ids[:, 1:].round().long().cpu(), expected):
            return None
        return height, width

    def image_start(self, module: str, shape: FluxShape) -> int | None:
        return {"mlp": 0, "single": shape.text_tokens}.get(module)

    def attention_backend(self, model: nn.Module) -> None:
        return None  # FLUX's processors go through diffusers' dispatcher


def probing_forward(stock: Forward) -> Forward:
    """FLUX attention: the stock forward; keeps its output (double-stream) and scores the tokens where asked to."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        out = stock(self, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb, **kwargs)
        state: BlockState = self._dita
        if "attn" in state.slots and state.slots["attn"].keep:
            state.slots["attn"].out = out
        if state.probe.score is not None:
            state.probe.scores = token_scores(self, state.probe, hidden_states, encoder_hidden_states, image_rotary_emb)
            state.probe.forget_inputs()
        return out

    return forward


def token_scores(
    attn: Any, probe: Probe, hidden: Tensor, text: Tensor | None, rotary: tuple[Tensor, Tensor] | None
) -> Tensor:
    """The probe's score of every token of the joint sequence, text first, (B, N)."""
    if probe.score == "k-norm":
        return _joint(probe.key_norms)
    if probe.score in ("v-norm", "kv-norm"):
        values = {"main": _values(attn, hidden, added=False)}
        if text is not None:
            values["text"] = _values(attn, text, added=True)
        lengths = {stream: mean_length(value.unflatten(-1, (attn.heads, -1))) for stream, value in values.items()}
        return _joint(lengths) if probe.score == "v-norm" else 1 - _joint(lengths)
    query, key = _joint(probe.query), _joint(probe.key)
    query_rotary = rotary
    estimate = probe.score == "attention-sampled" and query.shape[1] > SAMPLED_QUERIES
    if estimate:
        sample = sampled_queries(SAMPLED_QUERIES, query.shape[1], query.device)
        query = query.index_select(1, sample)
        if rotary is not None:
            query_rotary = (rotary[0].index_select(0, sample), rotary[1].index_select(0, sample))
    if rotary is not None and query_rotary is not None:
        query, key = rotate(query, query_rotary), rotate(key, rotary)
    return received_attention(query, key, estimate)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of queries or keys (B, N, H, D) by (cos, sin), each (N, D) with every angle twice.

    As diffusers' `apply_rotary_emb`, in one complex product instead of several passes.
    """
    angles = torch.complex(rotary[0][:, None, ::2].float(), rotary[1][:, None, ::2].float())
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)


def _joint(streams: dict[str, Tensor]) -> Tensor:
    return torch.cat([streams["text"], streams["main"]], dim=1) if "text" in streams else streams["main"]


def _values(attn: Any, hidden: Tensor, added: bool) -> Tensor:
    if attn.fused_projections:
        return (attn.to_added_qkv if added else attn.to_qkv)(hidden).chunk(3, dim=-1)[2]
    return (attn.add_v_proj if added else attn.to_v)(hidden)


@in_spans_of_two_streams
def double_forward(stock: Forward) -> Forward:
    """FluxTransformerBlock: the stock forward in full steps, `_cached_double` otherwise."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        if self._dita.cached:
            return _cached_double(self, self._dita, hidden_states, encoder_hidden_states, temb)
        return stock(self, hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)

    return forward


def _cached_double(block: Any, state: BlockState, hidden: Tensor, text: Tensor, temb: Tensor) -> tuple[Tensor, Tensor]:
    """Attention reused whole, both MLPs partial or reused; gates are those of the current timestep.

    hidden: (B, N_image, C), text: (B, N_text, C), temb: (B, C). Returns (text, hidden).
    """
    attended = state.slots["attn"].output()
    assert isinstance(attended, tuple)
    hidden = _stream(block.norm1, block.norm2, block.ff, state.slots["mlp"], hidden, attended[0], temb)
    if len(attended) == 3:  # IP-Adapter's share, which the stock block adds last and without a gate
        hidden = hidden + attended[2]
    context = (block.norm1_context, block.norm2_context, block.ff_context, state.slots["text_mlp"])
    text = _stream(*context, text, attended[1], temb)
    return _clip_half(text), hidden


def _stream(norm1: Any, norm2: Any, mlp: Any, slot: Any, x: Tensor, attended: Tensor, temb: Tensor) -> Tensor:
    modulation = norm1.linear(norm1.silu(temb))[:, None]  # (B, 1, 6 C)
    _, _, gate_attn, shift, scale, gate_mlp = modulation.chunk(6, dim=-1)
    x = torch.addcmul(x, gate_attn, attended)
    out = fill_from_store(slot, x, lambda _, chosen: mlp(norm2(chosen) * (1 + scale) + shift))
    return x.addcmul_(gate_mlp, out)


@in_spans_of_two_streams
def single_forward(stock: Forward) -> Forward:
    """FluxSingleTransformerBlock: stock unless something is to be stored or is cached.

    What must be stored, the output before the gate and the attention before the projection, never leaves the stock
    forward, so the storing step spells it out again, operation for operation.
    """

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        slot = self._dita.slots["single"]
        if slot.kind is Kind.FULL and not slot.keep:
            return stock(self, hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)
        joint = _rejoin(encoder_hidden_states, hidden_states)
        if slot.kind is Kind.FULL:
            joint = _storing_single(self, slot, joint, temb, image_rotary_emb, joint_attention_kwargs or {})
        else:
            joint = _cached_single(self, slot, joint, temb)
        joint = _clip_half(joint)
        text_tokens = encoder_hidden_states.shape[1]
        return joint[:, :text_tokens], joint[:, text_tokens:]

    return forward


def _storing_single(
    block: Any, slot: Any, joint: Tensor, temb: Tensor, rotary: Any, attention_kwargs: dict[str, Any]
) -> Tensor:
    normed, gate = block.norm(joint, emb=temb)
    mlp = block.act_mlp(block.proj_mlp(normed))
    attended = block.attn(hidden_states=normed, image_rotary_emb=rotary, **attention_kwargs)
    slot.inner = attended if slot.keep_inner else None
    slot.out = block.proj_out(torch.cat([attended, mlp], dim=2))
    return joint + gate.unsqueeze(1) * slot.out


def _cached_single(block: Any, slot: Any, joint: Tensor, temb: Tensor) -> Tensor:
    shift, scale, gate = block.norm.linear(block.norm.silu(temb))[:, None].chunk(3, dim=-1)

    def compute(rows: Tensor, chosen: Tensor) -> Tensor:
        normed = block.norm.norm(chosen) * (1 + scale) + shift
        mlp = block.act_mlp(block.proj_mlp(normed))
        return block.proj_out(torch.cat([gather_rows(slot.inner, rows), mlp], dim=2))

    out = fill_from_store(slot, joint, compute)
    return torch.addcmul(joint, gate, out)


def _rejoin(text: Tensor, hidden: Tensor) -> Tensor:
    """Text and image tokens as one sequence (B, N_text + N_image, C): uncopied where the last block split it so."""
    whole = (text.shape[0], text.shape[1] + hidden.shape[1], text.shape[2])
    neighbours = (
        not torch.compiler.is_compiling()
        and text.stride() == hidden.stride() == (whole[1] * whole[2], whole[2], 1)
        and text.untyped_storage().data_ptr() == hidden.untyped_storage().data_ptr()
        and hidden.storage_offset() == text.storage_offset() + text.shape[1] * whole[2]
    )
    if neighbours:
        return text.as_strided(whole, text.stride())
    return torch.cat([text, hidden], dim=1)


def _clip_half(x: Tensor) -> Tensor:
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
