"""The miniature PixArt-alpha: a transformer with cross-attention to T5, that predicts noise with guidance."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import T5EncoderModel

from dita.miniature import world
from dita.miniature.tokenizers import t5_tokenizer
from training import pools, recipe
from training.denoising import Denoiser
from training.groups import by_kind
from training.layout import Reader
from training.loop import Group
from training.pools import Pool
from training.text import build_t5, mask_of, words


class PixArt(Denoiser):
    """The trained parts of the pipeline."""

    empty: Tensor

    def __init__(self, transformer: PixArtTransformer2DModel, t5: T5EncoderModel) -> None:
        super().__init__()
        self.transformer, self.t5 = transformer, t5
        self.reader = Reader(transformer.inner_dim)
        self.register_buffer("empty", words([""]), persistent=False)

    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    def predict(self, x: Tensor, steps: Tensor, said: dict[str, Tensor], dropped: Tensor) -> Tensor:
        ids = torch.where(dropped[:, None], self.empty, said["t5"])
        mask = mask_of(ids)
        return self.transformer(
            x,
            encoder_hidden_states=self.t5(ids, attention_mask=mask).last_hidden_state,
            encoder_attention_mask=mask,
            timestep=steps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]


def build(seed: int = 0) -> PixArt:
    """Untrained models with the recipe's sizes. Every block of the transformer begins as the identity."""
    torch.manual_seed(seed)
    transformer = PixArtTransformer2DModel(**recipe.PIXART)
    with torch.no_grad():
        for block in transformer.transformer_blocks:
            block.scale_shift_table.zero_()
    silent = [block.attn2.to_out[0] for block in transformer.transformer_blocks]
    for module in (transformer.adaln_single.linear, transformer.proj_out, *silent):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    return PixArt(transformer, build_t5())


def groups(model: PixArt) -> list[Group]:
    """What learns how."""
    return by_kind(model.transformer, model.reader.parameters(), model.t5.parameters())


def pool(vae: AutoencoderKL, count: int, side: int, seed: int, file: Path) -> Pool:
    """`count` drawings of `side` pixels with their captions as ids `t5` (N, TEXT_TOKENS)."""

    def told(scenes: list[world.Scene]) -> dict[str, Tensor]:
        return {"t5": words([world.caption(scene) for scene in scenes]).short()}

    return pools.drawings(vae, count, side, seed, file, told)


def pipeline(model: PixArt, vae: AutoencoderKL) -> PixArtAlphaPipeline:
    """A stock PixArtAlphaPipeline around the models (not copied), silent."""
    pipe = PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=model.t5,
        vae=vae,
        transformer=model.transformer,
        scheduler=DPMSolverMultistepScheduler(**recipe.NOISE_SCHEDULE),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
