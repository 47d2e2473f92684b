"""The flow-matching training of the miniature FLUX: transformer and both text encoders together, on stored latents."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dita.miniature import autoencoder, recipe, world
from dita.miniature.layout import Layout, Reader, layout
from dita.miniature.loop import Group, write_whole
from dita.miniature.text import tokens
from dita.miniature.tokenizers import CLIP_LENGTH, clip_tokenizer, t5_tokenizer


class Flux(nn.Module):
    """The trained parts of the pipeline under one roof, and the head that reads the layout, which only trains."""

    def __init__(self, transformer: FluxTransformer2DModel, t5: T5EncoderModel, clip: CLIPTextModel) -> None:
        super().__init__()
        self.transformer, self.t5, self.clip = transformer, t5, clip
        self.reader = Reader(transformer.inner_dim)


def build(seed: int = 0) -> Flux:
    """Untrained models with the recipe's sizes. Every block of the transformer begins as the identity."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(**recipe.TRANSFORMER)
    for name, weight in transformer.named_parameters():
        if ".norm1.linear." in name or ".norm1_context.linear." in name or ".norm.linear." in name:
            nn.init.zeros_(weight)
    for module in (transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    clip_words, t5_words = clip_tokenizer(), t5_tokenizer()
    clip = CLIPTextModel(
        CLIPTextConfig(
            **recipe.CLIP,
            vocab_size=len(clip_words),
            max_position_embeddings=CLIP_LENGTH,
            bos_token_id=clip_words.bos_token_id,
            eos_token_id=clip_words.eos_token_id,
            pad_token_id=clip_words.pad_token_id,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            **recipe.T5,
            vocab_size=len(t5_words),
            pad_token_id=t5_words.pad_token_id,
            eos_token_id=t5_words.eos_token_id,
        )
    )
    _look_both_ways(t5)
    return Flux(transformer, t5, clip)


@torch.no_grad()
def _look_both_ways(t5: T5EncoderModel) -> None:
    """Starts T5's heads with a direction: one sees what was said before, one what follows, two the nearest words.

    Without it the encoder is slow to find which of two objects a colour belongs to.
    """
    bias = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # (buckets, heads)
    near = torch.arange(len(bias)) % (len(bias) // 2)  # of both halves the first buckets are the nearest words
    before = (torch.arange(len(bias)) < len(bias) // 2).float()
    bias[:, 0] += 3 * before - 1.5
    bias[:, 1] += 1.5 - 3 * before
    bias[:, 2] += 3 * before - 0.7 * near
    bias[:, 3] += 3 * (1 - before) - 0.7 * near


def groups(flux: Flux) -> list[Group]:
    """What learns how: the matrices of the transformer's blocks by Muon, the text encoders, taught before, slowly."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in flux.transformer.named_parameters():
        hidden = "transformer_blocks." in name and weight.ndim == 2 and ".norm" not in name
        (matrices if hidden else others).append(weight)
    text = [*flux.t5.parameters(), *flux.clip.parameters()]
    return [
        Group(tuple(matrices), scale=recipe.MUON_SCALE, muon=True),
        Group((*others, *flux.reader.parameters())),
        Group(tuple(text), scale=recipe.TEXT_SCALE),
    ]


@dataclass(frozen=True)
class Pool:
    """Scaled latents (N, 4, h, w); captions as ids: `t5` (N, TEXT_TOKENS) and `clip` (N, CLIP_LENGTH); layouts."""

    latents: Tensor
    t5: Tensor
    clip: Tensor
    layout: Layout


def pool(vae: AutoencoderKL, count: int, side: int, seed: int, file: Path) -> Pool:
    """`count` drawings of `side` pixels, encoded once and kept in `file`."""
    if not file.exists():
        latents, scenes = [], []
        for start in range(0, count, 2048):
            drawn = world.scenes(min(2048, count - start), seed + start)
            raw = autoencoder.encode(vae, world.draw_all(drawn, side))
            latents.append(((raw - vae.config.shift_factor) * vae.config.scaling_factor).half())
            scenes += drawn
        t5, clip = tokens([world.caption(scene) for scene in scenes])
        content = {"latents": torch.cat(latents), "t5": t5.short(), "clip": clip.short()}
        content |= vars(layout(scenes, side // 4))
        write_whole(file, lambda part: torch.save(content, part))
    kept = torch.load(file, weights_only=True)
    where = Layout(**{name: kept.pop(name) for name in ("figure", "colour", "place")})
    return Pool(**kept, layout=where)


def pack(latents: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H/2 * W/2, 4 C), as FluxPipeline packs them."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def positions(grid: int, native: int) -> Tensor:
    """Image ids (grid * grid, 3) of a grid over the same picture as the native one: tokens sit at their centres."""
    at = (torch.arange(grid) + 0.5) * (native / grid) - 0.5
    ids = torch.zeros(grid, grid, 3)
    ids[..., 1], ids[..., 2] = at[:, None], at[None, :]
    return ids.view(-1, 3)


def noise_levels(count: int, how: recipe.FlowRecipe, random: torch.Generator) -> Tensor:
    """Noise levels s in (0, 1): logit-normal, uniform in a share of the cases."""
    s = torch.sigmoid(how.noise_mean + how.noise_std * torch.randn(count, generator=random))
    plain = torch.rand(count, generator=random)
    return torch.where(torch.rand(count, generator=random) < how.noise_uniform, plain, s)


def text_length(how: recipe.FlowRecipe, random: torch.Generator) -> int:
    """Tokens of this step's captions: TEXT_TOKENS, or at times one of the longer paddings."""
    at = float(torch.rand((), generator=random))
    for length, share in how.long_text:
        at -= share
        if at < 0:
            return length
    return recipe.TEXT_TOKENS


class PlainAttention(TorchFunctionMode):
    """Inside, scaled_dot_product_attention is two matrix products and a softmax.

    On a CPU, for a few hundred tokens, its backward pass is three times as fast as that of torch's fused kernel.
    `SAMPLES` samples at a time keep the map in the cache: twice as fast again.
    """

    SAMPLES = 4

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not nn.functional.scaled_dot_product_attention or kwargs.get("attn_mask") is not None:
            return func(*args, **kwargs)
        q, k, v = (args + tuple(kwargs.get(name) for name in ("query", "key", "value")[len(args) :]))[:3]
        if kwargs.get("is_causal") or kwargs.get("dropout_p"):
            return func(*args, **kwargs)
        parts = zip(*(tensor.split(self.SAMPLES) for tensor in (q, k, v)), strict=True)
        return torch.cat([torch.softmax((a * a.shape[-1] ** -0.5) @ b.mT, dim=-1) @ c for a, b, c in parts])


class FlowLoss:
    """Mean squared error of the velocity noise - latents at x = (1 - s) latents + s noise."""

    def __init__(self, flux: Flux, pools: dict[int, Pool], how: recipe.FlowRecipe, compiled: bool = False) -> None:
        self.flux, self.pools, self.how = flux, pools, how
        self.native = torch.compile(flux.transformer) if compiled else flux.transformer
        self.empty_t5, self.empty_clip = (ids[0] for ids in tokens([""]))

    def __call__(self, random: torch.Generator, progress: float) -> Tensor:
        device = self.flux.transformer.device
        phase = self.how.phase(progress)
        data = self.pools[phase.side]
        rows = torch.randint(len(data.latents), (phase.batch,), generator=random)
        latents = data.latents[rows].float()
        noise = torch.randn(latents.shape, generator=random)
        s = noise_levels(phase.batch, self.how, random)
        dropped = (torch.rand(phase.batch, generator=random) < self.how.drop_caption)[:, None]
        t5 = torch.where(dropped, self.empty_t5, data.t5[rows].long())
        clip = torch.where(dropped, self.empty_clip, data.clip[rows].long())
        length = text_length(self.how, random) if phase.side == recipe.PICTURE else recipe.TEXT_TOKENS
        t5 = nn.functional.pad(t5, (0, length - t5.shape[1]), value=0)

        x = pack(latents + s[:, None, None, None] * (noise - latents)).to(device)
        target = pack(noise - latents).to(device)
        text = self.flux.t5(t5.to(device)).last_hidden_state
        pooled = self.flux.clip(clip.to(device)).pooler_output
        transformer = self.native if length == recipe.TEXT_TOKENS else self.flux.transformer
        attention = PlainAttention() if device.type == "cpu" else nullcontext()
        blocks = self.flux.transformer.single_transformer_blocks
        seen: list[Tensor] = []
        watch = blocks[len(blocks) // 3].register_forward_hook(lambda _, __, out: seen.append(out[1]))
        with torch.autocast(device.type, torch.bfloat16), attention, watch:
            velocity = transformer(
                hidden_states=x,
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=s.to(device),
                img_ids=positions(phase.side // 4, recipe.PICTURE // 4).to(device),
                txt_ids=torch.zeros(length, 3, device=device),
                return_dict=False,
            )[0]
            loss = nn.functional.mse_loss(velocity.float(), target)
            if self.how.layout_weight:
                loss = loss + self.how.layout_weight * self.flux.reader.loss(seen[0], data.layout[rows].to(device))
        return loss
