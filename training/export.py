"""Trained models as diffusers folders that stock pipelines load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from PIL import Image

from dita.asking import asking
from dita.miniature.tokenizers import clip_tokenizer, t5_tokenizer
from training import flow, recipe


def pipeline(flux: flow.Flux, vae: AutoencoderKL) -> FluxPipeline:
    """A stock FluxPipeline around the models (not copied), silent, with the miniature's native size."""
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**recipe.SCHEDULER),
        vae=vae,
        text_encoder=flux.clip,
        tokenizer=clip_tokenizer(),
        text_encoder_2=flux.t5,
        tokenizer_2=t5_tokenizer(),
        transformer=flux.transformer,
    )
    pipe.default_sample_size = recipe.PICTURE // pipe.vae_scale_factor
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_folder(pipe: Any, folder: Path, facts: dict[str, Any], index: dict[str, Any] | None = None) -> None:
    """Writes the pipeline in fp16, `index` into its model_index.json, and `facts` as recipe.json.

    The folder is replaced as a whole. Moves the pipeline to the CPU and to fp16: give it copies of the models.
    """
    fresh = folder.with_name(folder.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.cpu().half()
    pipe.save_pretrained(fresh, safe_serialization=True)
    parts = json.loads((fresh / "model_index.json").read_text())
    for name, part in parts.items():
        if isinstance(part, list) and part[1] == "T5Tokenizer":
            parts[name] = ["transformers", "T5TokenizerFast"]
    (fresh / "model_index.json").write_text(json.dumps(parts | (index or {}), indent=2) + "\n")
    (fresh / "recipe.json").write_text(json.dumps(facts, indent=2) + "\n")
    for config in fresh.rglob("*config.json"):
        told = json.loads(config.read_text())
        told.pop("_name_or_path", None)
        if told.get("dtype") == "float16":  # transformers would load it so, beside diffusers' models in float32
            told["dtype"] = "float32"
        config.write_text(json.dumps(told, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def mebibytes(folder: Path) -> float:
    """The size of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def sample(
    pipe: Any, captions: list[str], steps: int = 28, seed: int = 0, call: dict[str, Any] | None = None
) -> list[Any]:
    """One picture a caption, or list of frames, 16 at a time; number i starts from noise of seed + i.

    `call` are further arguments of the pipeline.
    """
    made: list[Any] = []
    for start in range(0, len(captions), 16):
        part = captions[start : start + 16]
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        made += pipe(**asking(pipe, part), num_inference_steps=steps, generator=noise, **(call or {}))[0]
    return made


def grid(pictures: list[Image.Image], columns: int, zoom: int = 1) -> Image.Image:
    """The pictures (all of one size) in rows of `columns`."""
    width, height = pictures[0].width * zoom, pictures[0].height * zoom
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for i, picture in enumerate(pictures):
        place = (i % columns * width, i // columns * height)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), place)
    return sheet
