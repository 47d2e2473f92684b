"""The miniature Open-Sora: STDiT3 on clips of motions, by rectified flow, with guidance."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import T5EncoderModel

from dita.miniature import world
from dita.miniature.tokenizers import t5_tokenizer
from dita.pipelines.opensora import (
    AutoencoderKLOpenSora,
    OpenSoraPipeline,
    OpenSoraTransformer3DModel,
    flow_scheduler,
)
from training import pools, recipe, text, video_autoencoder
from training.attention import PlainAttention
from training.groups import by_kind
from training.labels import CLASSES, names
from training.layout import Layout, Reader, layout
from training.loop import Group
from training.noise import noise_levels
from training.pools import Pool

FPS = 24.0
"""Frames a second that the model is told: the pipeline's default."""

SAID: dict[str, tuple[str, ...]] = {
    **{name: CLASSES[name] for name in CLASSES if name.endswith("_1") and not name.startswith("glyph")},
    "background": CLASSES["background"],
    "background_colour_2": CLASSES["background_colour_2"],
    "motion": tuple(world.MOTIONS),
}
"""The attributes of a clip's caption, each with its classes."""

SIZES = [len(classes) for classes in SAID.values()]
"""Number of classes of each attribute."""


class OpenSora(nn.Module):
    """The trained parts of the pipeline but the autoencoder, and the head that reads the layout, which only trains."""

    def __init__(self, transformer: OpenSoraTransformer3DModel, t5: T5EncoderModel) -> None:
        super().__init__()
        self.transformer, self.t5 = transformer, t5
        self.reader = Reader(transformer.config.num_attention_heads * transformer.config.attention_head_dim)

    def velocity(self, x: Tensor, s: Tensor, ids: Tensor, dropped: Tensor) -> Tensor:
        """data - noise at noise level s (B,) of x (B, 4, T, h, w); where `dropped` (B,) the null caption is heard.

        As in the pipeline, it is under the mask of the caption that it replaces.
        """
        mask = text.mask_of(ids)
        heard = self.t5(ids, attention_mask=mask).last_hidden_state
        null = self.transformer.null_caption_states(ids.shape[1]).to(heard.dtype)
        predicted = self.transformer(
            hidden_states=x,
            timestep=1000 * s,
            encoder_hidden_states=torch.where(dropped[:, None, None], null, heard),
            encoder_attention_mask=mask,
            fps=FPS,
            height=recipe.PICTURE,
            width=recipe.PICTURE,
            return_dict=False,
        )[0]
        return predicted[:, : x.shape[1]]  # the rest, a variance, is neither trained nor used


def build(seed: int = 0) -> OpenSora:
    """Untrained models with the recipe's sizes. Every block of the transformer begins as the identity.

    The null caption is a buffer of the transformer: it stays as random as it begins.
    """
    torch.manual_seed(seed)
    transformer = OpenSoraTransformer3DModel(**recipe.OPENSORA)
    blocks = [*transformer.spatial_blocks, *transformer.temporal_blocks]
    for block in blocks:
        nn.init.zeros_(block.scale_shift_table)
    for module in (transformer.time_proj, transformer.proj_out, *(block.attn2.to_out[0] for block in blocks)):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    return OpenSora(transformer, text.build_t5())


def groups(model: OpenSora) -> list[Group]:
    """What learns how."""
    return by_kind(model.transformer, model.reader.parameters(), model.t5.parameters())


def of_clips(count: int, seed: int, split: str = "train") -> tuple[list[str], Tensor]:
    """Captions of clips and their attributes, with the classes `SAID`."""
    clips = video_autoencoder.sample_clips(count, seed, split)
    rows = []
    for clip in clips:
        true = names(clip.scene, said=True) | {"motion": clip.motion}
        rows.append([classes.index(true[name]) for name, classes in SAID.items()])
    return [world.clip_caption(clip) for clip in clips], torch.tensor(rows)


def pool(vae: AutoencoderKLOpenSora, count: int, seed: int, file: Path) -> Pool:
    """`count` clips with their captions as ids `t5` (N, TEXT_TOKENS); encoded once and kept in `file`."""

    def make() -> Pool:
        latents, captions, places = [], [], []
        for clip in (clips := video_autoencoder.sample_clips(count, seed)):
            captions.append(world.clip_caption(clip))
        for start in range(0, count, 64):
            part = clips[start : start + 64]
            raw = video_autoencoder.temporal_latents(vae, video_autoencoder.frame_latents(vae, part))
            latents.append(video_autoencoder.normalised(vae, raw).half())
            places.append(clip_layout(part, raw.shape[2], raw.shape[3] // recipe.OPENSORA["patch_size"]))
        where = {name: torch.cat([getattr(one, name) for one in places]) for name in pools.LAYOUT}
        return Pool(torch.cat(latents), {"t5": text.words(captions).short()}, Layout(**where))

    return pools.kept(file, make)


def clip_layout(clips: list[world.Clip], latent_frames: int, grid: int) -> Layout:
    """Layouts (N, T * grid * grid) of clips: of each latent frame as it is in the middle of its frames."""
    span = recipe.FRAMES // latent_frames
    scenes = [scene for clip in clips for scene in world.clip_scenes(clip, recipe.FRAMES)[span // 2 :: span]]
    flat = layout(scenes, grid)
    return Layout(**{name: getattr(flat, name).unflatten(0, (len(clips), -1)).flatten(1, 2) for name in pools.LAYOUT})


class ClipLoss:
    """Mean squared error of the velocity data - noise at x = (1 - s) data + s noise, and of the layout."""

    def __init__(self, model: OpenSora, pools: dict[int, Pool], how: recipe.LatentRecipe) -> None:
        self.model, self.pools, self.how = model, pools, how

    def __call__(self, random: torch.Generator, progress: float) -> Tensor:
        device = next(self.model.parameters()).device
        phase = self.how.phase(progress)
        data, batch = self.pools[phase.side], phase.batch
        rows = torch.randint(len(data.latents), (batch,), generator=random)
        latents = data.latents[rows].float()
        noise = torch.randn(latents.shape, generator=random)
        s = noise_levels(batch, self.how, random)
        dropped = torch.rand(batch, generator=random) < self.how.drop_caption
        ids = data.said["t5"][rows].long()

        x = (latents + s[:, None, None, None, None] * (noise - latents)).to(device)
        blocks = self.model.transformer.temporal_blocks
        seen: list[Tensor] = []
        watch = blocks[(len(blocks) - 1) // 2].register_forward_hook(lambda _, __, out: seen.append(out))
        attention = PlainAttention() if device.type == "cpu" else nullcontext()
        with torch.autocast(device.type, torch.bfloat16), attention, watch:
            velocity = self.model.velocity(x, s.to(device), ids.to(device), dropped.to(device))
            missed = nn.functional.mse_loss(velocity.float(), (latents - noise).to(device))
            where = self.model.reader.loss(seen[0], data.layout[rows].to(device))
        return missed + self.how.layout_weight * where


def pipeline(model: OpenSora, vae: AutoencoderKLOpenSora) -> OpenSoraPipeline:
    """An OpenSoraPipeline around the models (not copied), silent, whose only size is the native one."""
    pipe = OpenSoraPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=model.t5,
        vae=vae,
        transformer=model.transformer,
        scheduler=flow_scheduler(),
        sizes={f"{recipe.PICTURE}p": {"1:1": [recipe.PICTURE, recipe.PICTURE]}},
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
