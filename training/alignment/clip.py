"""The small CLIP: transformers' CLIPModel, trained contrastively on drawings and captions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from dita.miniature import world
from dita.miniature.alignment.clip import DEVIATION, MEAN, PATCH, SIDE, WIDTH, embeddings, normalised, tokens
from dita.miniature.judge.pictures import to_tensor
from dita.miniature.tokenizers import CLIP_LENGTH, clip_tokenizer
from training.alignment.perturbation import perturbed
from training.alignment.seeing import SeeingHead, matrices, weight_at
from training.autoencoder import world_seed
from training.judge.disturbances import disturbed
from training.loop import Group

BATCH = 128
"""Pictures a step."""


def build(seed: int = 0) -> CLIPModel:
    """An untrained CLIP of the recipe's sizes."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    tower = dict(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=4, projection_dim=WIDTH, hidden_act="gelu"
    )
    text = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=CLIP_LENGTH,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = dict(image_size=SIDE, patch_size=PATCH, num_hidden_layers=4)
    config = CLIPConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=WIDTH)
    # Eager attention: for so few tokens, CPU's fused attention takes twice as long to train.
    return CLIPModel._from_config(config, attn_implementation="eager")


class Learner(nn.Module):
    """CLIP with the head of its side task."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip, self.head = clip, SeeingHead(WIDTH)

    def groups(self) -> list[Group]:
        """Muon for the inner matrices, AdamW for the rest."""
        inner, rest = matrices(self)
        return [Group(tuple(inner), scale=3.0, muon=True), Group(tuple(rest))]

    def loss(self, random: torch.Generator, progress: float, count: int = BATCH) -> Tensor:
        """Contrastive loss of one step; a perturbed caption of each picture stands among the wrong texts.

        Contrastive: Radford et al. 2021 (arXiv 2103.00020), figure 3.
        """
        rng = np.random.default_rng(world_seed(random))
        scenes = [world.sample_scene(rng) for _ in range(count)]
        captions = [world.caption(scene) for scene in scenes]
        wrong = [world.caption(perturbed(rng, scene)) for scene in scenes]
        pictures = normalised(disturbed(to_tensor(world.draw_all(scenes)), random))
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.clip.vision_model(pictures)
            said = self.clip.text_model(**tokens(captions + wrong)).pooler_output
            image = functional.normalize(self.clip.visual_projection(seen.pooler_output).float(), dim=-1)
            text = functional.normalize(self.clip.text_projection(said).float(), dim=-1)
            side_task = self.head.loss(seen.last_hidden_state[:, 1:], scenes)
        logits = self.clip.logit_scale.exp().clamp(max=100) * image @ text.mT  # (N, 2N)
        by_image = functional.cross_entropy(logits, torch.arange(count))
        by_text = functional.cross_entropy(logits[:, :count].mT, torch.arange(count))
        return (by_image + by_text) / 2 + weight_at(progress) * side_task


def retrieval(clip: CLIPModel, groups: int = 16, size: int = 64, seed: int = 11) -> tuple[float, float]:
    """Top-1 accuracy among `size` held-out pairs, mean of `groups`: the text of a picture, the picture of a text."""
    clip.eval()
    right_text = right_image = 0
    for group in range(groups):
        scenes = world.evaluation_scenes(size, seed + group, tuple(world.KINDS))
        image, text = embeddings(clip, world.draw_all(scenes), [world.caption(scene) for scene in scenes])
        scores = image @ text.mT
        right_text += int((scores.argmax(dim=1) == torch.arange(size)).sum())
        right_image += int((scores.argmax(dim=0) == torch.arange(size)).sum())
    return right_text / (groups * size), right_image / (groups * size)


def preference(clip: CLIPModel, count: int = 1024, seed: int = 12) -> float:
    """How often a held-out drawing's caption scores higher than one that says one thing differently."""
    rng = np.random.default_rng(seed)
    scenes = world.scenes(count, seed, split="held-out")
    pictures, captions = world.draw_all(scenes), [world.caption(scene) for scene in scenes]
    wrong = [world.caption(perturbed(rng, scene)) for scene in scenes]
    image, right = embeddings(clip.eval(), pictures, captions)
    _, other = embeddings(clip, pictures, wrong)
    return float(((image * right).sum(dim=1) > (image * other).sum(dim=1)).float().mean())


def write_folder(clip: CLIPModel, folder: Path, facts: dict[str, Any]) -> None:
    """Writes model (fp16), tokenizer, preprocessing and `facts`; the folder is replaced as a whole."""
    fresh = folder.with_name(folder.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    clip.half().save_pretrained(fresh, safe_serialization=True)
    clip_tokenizer().save_pretrained(fresh)
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIDE},
        "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": MEAN,
        "image_std": DEVIATION,
    }
    for name, content in (("preprocessor_config.json", preprocessing), ("recipe.json", facts)):
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
