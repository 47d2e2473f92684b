"""The flow-matching training of the miniature FLUX: transformer and both text encoders together, on stored latents."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5EncoderModel

from dita.miniature import world
from dita.miniature.tokenizers import CLIP_LENGTH, clip_tokenizer
from training import pools, recipe
from training.attention import PlainAttention
from training.groups import by_kind
from training.layout import Reader
from training.loop import Group
from training.noise import noise_levels
from training.pools import Pool
from training.text import build_t5, tokens


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
    clip_words = clip_tokenizer()
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
    return Flux(transformer, build_t5(), clip)


def groups(flux: Flux) -> list[Group]:
    """What learns how: the matrices of the transformer's blocks by Muon, the text encoders, taught before, slowly."""
    text = [*flux.t5.parameters(), *flux.clip.parameters()]
    return by_kind(flux.transformer, flux.reader.parameters(), text)


def pool(vae: AutoencoderKL, count: int, side: int, seed: int, file: Path) -> Pool:
    """`count` drawings of `side` pixels; captions as ids, `t5` (N, TEXT_TOKENS) and `clip` (N, CLIP_LENGTH)."""

    def told(scenes: list[world.Scene]) -> dict[str, Tensor]:
        t5, clip = tokens([world.caption(scene) for scene in scenes])
        return {"t5": t5.short(), "clip": clip.short()}

    return pools.drawings(vae, count, side, seed, file, told)


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


def text_length(how: recipe.FlowRecipe, random: torch.Generator) -> int:
    """Tokens of this step's captions: TEXT_TOKENS, or at times one of the longer paddings."""
    at = float(torch.rand((), generator=random))
    for length, share in how.long_text:
        at -= share
        if at < 0:
            return length
    return recipe.TEXT_TOKENS


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
        t5 = torch.where(dropped, self.empty_t5, data.said["t5"][rows].long())
        clip = torch.where(dropped, self.empty_clip, data.said["clip"][rows].long())
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
