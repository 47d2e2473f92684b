"""FLUX: where the sites of `FluxTransformer2DModel` are, and what its blocks do in a cached step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import Tensor, nn

from dita.caching.class_swap import Forward, MakeForward
from dita.caching.context_parallel import Divided
from dita.caching.guidance import Parts
from dita.caching.linear_parts import (
    is_stock,
    may_change_by_itself,
    projected,
    projected_by_layer,
    share_of_attention,
)
from dita.caching.modulations import Modulations
from dita.caching.probe import Common, Probe
from dita.caching.rows import is_recorded, plus_gated
from dita.caching.scores import mean_length, received_attention, staggered
from dita.caching.sites import keeping_forward, key_norm_forward, modulated, query_norm_forward, site_output
from dita.caching.spans import in_spans_of_two_streams
from dita.caching.state import BlockState, Slot
from dita.merging.merger import Merger
from dita.shapes import FluxShape, Kind, sampled_queries

MODULES = {"double": ("attn", "mlp", "text_mlp"), "single": ("single",)}


class FluxAdapter:
    """Sites: in double-stream blocks `attn` (both streams), `mlp` (image) and `text_mlp`; a single-stream block is one
    site, `single`, whose tokens are text first, then image."""

    family = "flux"
    context_parallel = True
    halves = False

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
            head_dim=config.attention_head_dim,
            element_bytes=latents.element_size(),
        )

    def parted(self, shape: FluxShape, parts: Parts) -> FluxShape:
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

    def steady_modules(self, model: Any) -> list[nn.Module]:
        return [model.pos_embed]

    def steady_inputs(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        return inputs["txt_ids"], inputs["img_ids"]

    def foreseen(self, model: Any, inputs: dict[str, Any], timesteps: Sequence[float]) -> Tensor | None:
        if may_change_by_itself(model.time_text_embed):
            return None
        latents, guidance = inputs["hidden_states"], inputs.get("guidance")
        batch, steps = len(latents), len(timesteps)
        # as the pipelines and the model's own forward have them, rounding included
        times = torch.tensor(timesteps, device=latents.device).to(latents.dtype) / 1000 * 1000
        conditions = [times.repeat_interleave(batch)]
        if guidance is not None:
            conditions.append((guidance.to(latents.dtype) * 1000).expand(batch).repeat(steps))
        pooled = inputs["pooled_projections"].expand(batch, -1).repeat(steps, 1)
        return model.time_text_embed(*conditions, pooled).unflatten(0, (steps, batch))

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
        return {"attn": shape.text_tokens, "mlp": 0, "single": shape.text_tokens}.get(module)

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
        state: BlockState = self._dita
        merger = next(iter(state.slots.values())).merger  # of `attn`, or of `single`, which has merged the tokens
        if merger is not None and "attn" in state.slots:
            image_rotary_emb = merged_rotary(merger, image_rotary_emb)
            hidden_states = merger.matching.merge(hidden_states)
        if image_rotary_emb is not None and image_rotary_emb[0].ndim == 3:
            assert merger is not None
            if attention_mask is not None or kwargs:
                raise ValueError("tokens cannot be merged in attention that has a mask or IP-Adapter's inputs")
            bias = merger.key_bias(hidden_states.dtype)
            out = merged_attention(self, hidden_states, encoder_hidden_states, image_rotary_emb, bias)
            if encoder_hidden_states is not None:
                out = merger.matching.unmerge(out[0]), out[1]
        else:
            out = stock(self, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb, **kwargs)
            merger = None
        if "attn" in state.slots and state.slots["attn"].keep:
            state.slots["attn"].put(out)
        if state.probe.score is not None:
            scores = token_scores(self, state.probe, hidden_states, encoder_hidden_states, image_rotary_emb)
            state.probe.scores = scores if merger is None else unmerged_image(merger, scores[..., None])[..., 0]
            state.probe.forget_inputs()
        return out

    return forward


def merged_rotary(merger: Merger, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """The angles of text and image tokens, (N, D), for text and the image tokens that are kept, (B, N', D)."""
    if rotary is None:
        raise ValueError("tokens cannot be merged in FLUX attention that has no rotary embedding")
    kept = merger.matching.kept

    def of_kept(table: Tensor) -> Tensor:
        text, image = table.split([table.shape[0] - merger.tokens, merger.tokens])
        return torch.cat([text.expand(kept.shape[0], -1, -1), image[kept]], dim=1)

    return of_kept(rotary[0]), of_kept(rotary[1])


def merged_attention(
    attn: Any, hidden: Tensor, text: Tensor | None, rotary: tuple[Tensor, Tensor], bias: Tensor | None
) -> Any:
    """What `FluxAttnProcessor` computes, with angles for each sample, (B, N', D), which that one does not take.

    hidden: (B, N_image', C) beside text, or both, text first; bias: added to the scores of the image's keys, (B, n').
    """
    if type(attn.processor) is not FluxAttnProcessor:
        raise ValueError(f"tokens cannot be merged in attention with a {type(attn.processor).__name__}")

    def heads(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.unflatten(-1, (-1, attn.head_dim)) for part in parts)

    query, key, value = heads(_projections(attn, hidden, added=False))
    query, key = attn.norm_q(query), attn.norm_k(key)
    if text is not None:
        text_query, text_key, text_value = heads(_projections(attn, text, added=True))
        query = torch.cat([attn.norm_added_q(text_query), query], dim=1)
        key = torch.cat([attn.norm_added_k(text_key), key], dim=1)
        value = torch.cat([text_value, value], dim=1)
    angles = complex_angles(rotary)
    query, key = rotate(query, angles), rotate(key, angles)
    if bias is not None:
        bias = torch.nn.functional.pad(bias, (key.shape[1] - bias.shape[1], 0))[:, None, None]  # none on text
    backend, parallel = attn.processor._attention_backend, attn.processor._parallel_config
    out = dispatch_attention_fn(query, key, value, attn_mask=bias, backend=backend, parallel_config=parallel)
    out = out.flatten(2).to(query.dtype)
    if text is None:
        return out
    text_out, out = out.split_with_sizes([text.shape[1], hidden.shape[1]], dim=1)
    return attn.to_out[1](attn.to_out[0](out.contiguous())), attn.to_add_out(text_out.contiguous())


def _projections(attn: Any, hidden: Tensor, added: bool) -> tuple[Tensor, ...]:
    if attn.fused_projections:
        return (attn.to_added_qkv if added else attn.to_qkv)(hidden).chunk(3, dim=-1)
    layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj) if added else (attn.to_q, attn.to_k, attn.to_v)
    return tuple(layer(hidden) for layer in layers)


def merged_image(merger: Merger, joint: Tensor) -> Tensor:
    """Text and image tokens, the latter merged: (B, N, C) -> (B, N', C)."""
    tokens = merger.tokens
    text, image = joint.split([joint.shape[1] - tokens, tokens], dim=1)
    return torch.cat([text, merger.matching.merge(image)], dim=1)


def unmerged_image(merger: Merger, joint: Tensor) -> Tensor:
    """Text and merged image tokens, the latter unmerged: (B, N', C) -> (B, N, C)."""
    tokens = merger.matching.kept.shape[1]
    text, image = joint.split([joint.shape[1] - tokens, tokens], dim=1)
    return torch.cat([text, merger.matching.unmerge(image)], dim=1)


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
    key, common, divided = _joint(probe.key), probe.common, probe.divided
    tokens = key.shape[1] if divided is None else divided.tokens
    sample = None
    if probe.score == "attention-sampled" and tokens > sampled_queries(tokens):
        sample = _sample(probe.query, sampled_queries(tokens), common, divided)
    query = _joint(probe.query) if sample is None else _sampled(probe.query, sample)
    if rotary is not None:
        angles = of_query = common.made("angles", rotary, partial(complex_angles, rotary))
        if sample is not None:
            rows = sample.joint
            of_query = common.made("angles of queries", (angles, rows), partial(angles.index_select, -3, rows))
        query, key = rotate(query, of_query), rotate(key, angles)
    if divided is None:
        return received_attention(query, key)
    return divided.ranks.received_attention(query, key, None if sample is None else sample.of_ranks)


def complex_angles(rotary: tuple[Tensor, Tensor]) -> Tensor:
    """exp(i angle), ([B,] N, 1, D / 2), of (cos, sin), each ([B,] N, D) with every angle twice."""
    return torch.complex(rotary[0][..., None, ::2].float(), rotary[1][..., None, ::2].float())


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding of queries or keys (B, N, H, D) by `complex_angles`.

    As diffusers' `apply_rotary_emb`, in one complex product instead of several passes.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * angles).flatten(-2).to(x.dtype)


def _joint(streams: dict[str, Tensor]) -> Tensor:
    return torch.cat([streams["text"], streams["main"]], dim=1) if "text" in streams else streams["main"]


class Sample(NamedTuple):
    """Some rows of `_joint`: where they are in their streams, and in it; and where ranks share the tokens, how many of
    the sample each of them holds."""

    streams: dict[str, Tensor]
    joint: Tensor
    of_ranks: list[int] | None


def _sampled(streams: dict[str, Tensor], sample: Sample) -> Tensor:
    """The rows of `sample` in `_joint`, without the whole of it."""
    rows = [streams[stream].index_select(1, numbers) for stream, numbers in sample.streams.items()]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def _sample(streams: dict[str, Tensor], count: int, common: Common, divided: Divided | None) -> Sample:
    """`count` rows of `_joint`, of each stream its share. Where ranks share the tokens, what one process would take."""
    device, image = streams["main"].device, streams["main"].shape[1]
    text = streams["text"].shape[1] if "text" in streams else 0
    of_text = -(-text * count // (text + image))
    counts = {"text": of_text, "main": count - of_text} if text else {"main": count}

    def rows() -> Sample:
        of_ranks = None
        if divided is None:
            places = {stream: staggered(number, streams[stream].shape[1], device) for stream, number in counts.items()}
        else:
            parts = {"text": divided.part(text), "main": divided.part(image)} if text else {"main": divided}
            by_rank = {stream: parts[stream].staggered(number) for stream, number in counts.items()}
            of_ranks = [sum(map(len, numbers)) for numbers in zip(*by_rank.values(), strict=True)]
            own = {stream: numbers[divided.ranks.number] for stream, numbers in by_rank.items()}
            places = {
                stream: torch.tensor(numbers, dtype=torch.int64, device=device) for stream, numbers in own.items()
            }
        joint = torch.cat([numbers + text * (stream == "main") for stream, numbers in places.items()])
        return Sample(places, joint, of_ranks)

    return common.made(("sample", text, image, count), (), rows)


def _values(attn: Any, hidden: Tensor, added: bool) -> Tensor:
    if attn.fused_projections:
        return _projections(attn, hidden, added)[2]
    return (attn.add_v_proj if added else attn.to_v)(hidden)


@in_spans_of_two_streams
def double_forward(stock: Forward) -> Forward:
    """FluxTransformerBlock: the stock forward in full steps, `_cached_double` otherwise; first, tokens are matched."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        self._dita.enter(hidden_states)
        if self._dita.cached:
            return _cached_double(self, self._dita, hidden_states, encoder_hidden_states, temb)
        return stock(self, hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)

    return forward


def _cached_double(block: Any, state: BlockState, hidden: Tensor, text: Tensor, temb: Tensor) -> tuple[Tensor, Tensor]:
    """Attention reused whole, both MLPs computed, partial or reused; gates are those of the current timestep.

    hidden: (B, N_image, C), text: (B, N_text, C), temb: (B, C). Returns (text, hidden).
    """
    attended = state.slots["attn"].output()
    assert isinstance(attended, tuple)
    image = (block.norm1, block.norm2, block.ff, state.slots["mlp"], state.modulations)
    hidden = _stream(*image, hidden, attended[0], temb)
    if len(attended) == 3:  # IP-Adapter's share, which the stock block adds last and without a gate
        hidden = hidden + attended[2]
    context = (block.norm1_context, block.norm2_context, block.ff_context, state.slots["text_mlp"], state.modulations)
    text = _stream(*context, text, attended[1], temb)
    return _clip_half(text), hidden


def _stream(
    norm1: Any, norm2: Any, mlp: Any, slot: Any, modulations: Modulations, x: Tensor, attended: Tensor, temb: Tensor
) -> Tensor:
    # of shift, scale and gate of the attention, then of the MLP: those of what is not computed are not wanted
    wanted = ((2, 3), (5, 6)) if slot.kind in (Kind.REUSE, Kind.FORECAST) else ((2, 6),)
    gate_attn, *shift_scale, gate_mlp = modulations.of(norm1.linear, norm1.silu, temb, wanted, of=6)

    def compute(rows: Tensor | None, chosen: Tensor) -> Tensor:
        shift, scale = (slot.of_chosen(values, rows, x) for values in shift_scale)
        return mlp(modulated(norm2(chosen), shift, scale))

    x = torch.addcmul(x, gate_attn, attended)
    return plus_gated(x, gate_mlp, site_output(slot, x, compute))


@in_spans_of_two_streams
def single_forward(stock: Forward) -> Forward:
    """FluxSingleTransformerBlock: stock unless something is to be stored, is merged or is cached.

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
        self._dita.enter(hidden_states)
        slot = self._dita.slots["single"]
        if slot.kind is Kind.FULL and not slot.keep and slot.merger is None:
            return stock(self, hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)
        joint = _rejoin(encoder_hidden_states, hidden_states)
        if slot.merger is not None:
            joint = _merging_single(self, slot, joint, temb, image_rotary_emb, joint_attention_kwargs or {})
        elif slot.kind is Kind.FULL:
            joint = _storing_single(self, slot, joint, temb, image_rotary_emb, joint_attention_kwargs or {})
        else:
            joint = _cached_single(self, self._dita, joint, temb)
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
    inner, out = _projected(block, slot, attended, mlp)
    _store_single(slot, inner, out)
    return joint + gate.unsqueeze(1) * out


def _store_single(slot: Slot, inner: Tensor, out: Tensor) -> None:
    slot.put_inner(inner)
    slot.put(inner if slot.attention_alone else out)


def _projected(block: Any, slot: Slot, attended: Tensor, mlp: Tensor) -> tuple[Tensor, Tensor]:
    """What a later step needs of the attention, and what the block's projection makes of attention and MLP."""
    slot.folded = slot.keeps_attention and is_stock(block.proj_out)
    if not slot.folded:
        return attended, block.proj_out(torch.cat([attended, mlp], dim=2))
    share = share_of_attention(block.proj_out, attended)
    return share, projected(block.proj_out, share, mlp)


def _merging_single(
    block: Any, slot: Any, joint: Tensor, temb: Tensor, rotary: Any, attention_kwargs: dict[str, Any]
) -> Tensor:
    """Attention, MLP, or both and their common projection on merged image tokens; stores where asked to."""
    merger, short = slot.merger, slot.merged_modules
    normed, gate = block.norm(joint, emb=temb)
    merged = merged_image(merger, normed)
    attn_in, attn_rotary = (merged, merged_rotary(merger, rotary)) if "attn" in short else (normed, rotary)
    attended = block.attn(hidden_states=attn_in, image_rotary_emb=attn_rotary, **attention_kwargs)
    mlp = block.act_mlp(block.proj_mlp(merged if "mlp" in short else normed))
    if short == {"attn", "mlp"}:
        inner, out = _projected(block, slot, attended, mlp)
        out = unmerged_image(merger, out)
        inner = unmerged_image(merger, inner) if slot.keeps_attention else inner
    else:
        attended = unmerged_image(merger, attended) if "attn" in short else attended
        mlp = unmerged_image(merger, mlp) if "mlp" in short else mlp
        inner, out = _projected(block, slot, attended, mlp)
    if slot.keep:
        _store_single(slot, inner, out)
    return joint + gate.unsqueeze(1) * out


def _cached_single(block: Any, state: BlockState, joint: Tensor, temb: Tensor) -> Tensor:
    slot = state.slots["single"]
    wanted = ((0, 3),) if slot.kind is Kind.PARTIAL else ((2, 3),)
    *shift_scale, gate = state.modulations.of(block.norm.linear, block.norm.silu, temb, wanted, of=3)

    def compute(rows: Tensor | None, chosen: Tensor) -> Tensor:
        shift, scale = (slot.of_chosen(values, rows, joint) for values in shift_scale)
        normed = modulated(block.norm.norm(chosen), shift, scale)
        mlp = block.act_mlp(block.proj_mlp(normed))
        inner = slot.inner_rows(rows)
        if not slot.folded:
            return block.proj_out(torch.cat([inner, mlp], dim=2))
        if is_stock(block.proj_out):
            return projected(block.proj_out, inner, mlp)
        return projected_by_layer(block.proj_out, inner, mlp)  # an adapter was loaded since the full step

    out = site_output(slot, joint, compute)
    return torch.addcmul(joint, gate, out)


def _rejoin(text: Tensor, hidden: Tensor) -> Tensor:
    """Text and image tokens as one sequence (B, N_text + N_image, C): uncopied where the last block split it so."""
    whole = (text.shape[0], text.shape[1] + hidden.shape[1], text.shape[2])
    neighbours = (
        not torch.compiler.is_compiling()
        and not is_recorded(text, hidden)  # through the one of two views that is taken gradients would reach it alone
        and text.stride() == hidden.stride() == (whole[1] * whole[2], whole[2], 1)
        and text.untyped_storage().data_ptr() == hidden.untyped_storage().data_ptr()
        and hidden.storage_offset() == text.storage_offset() + text.shape[1] * whole[2]
    )
    if neighbours:
        return text.as_strided(whole, text.stride())
    return torch.cat([text, hidden], dim=1)


def _clip_half(x: Tensor) -> Tensor:
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
