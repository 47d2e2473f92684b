"""The small reward model's training: on ranked pairs, after a first stage in which it learns to see.

Its network is `dita.miniature.alignment.reward`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dita.miniature import world
from dita.miniature.alignment.clip import PATCH, SIDE, WIDTH, normalised
from dita.miniature.alignment.reward import (
    HEADS,
    LAYERS,
    REWARD_DEVIATION,
    REWARD_MEAN,
    TEXT_LENGTH,
    Reward,
    official_name,
    rewards,
    tokens,
    vocabulary,
)
from dita.miniature.judge.pictures import to_tensor
from training.alignment.damage import damaged
from training.alignment.perturbation import perturbed
from training.alignment.seeing import SeeingHead, matrices, weight_at
from training.autoencoder import world_seed
from training.judge import training as judge_training
from training.judge.disturbances import disturbed
from training.judge.targets import loss as marks_loss
from training.loop import Group

BATCH = 64
"""Scenes a step, each drawn clean and damaged, with its caption and a perturbed one."""


def build(seed: int = 0) -> Reward:
    """An untrained reward model."""
    torch.manual_seed(seed)
    return Reward()


class Learner(nn.Module):
    """The reward model with the head of its side task."""

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        self.reward, self.seeing_head = reward, SeeingHead(WIDTH)

    def groups(self, *parts: nn.Module) -> list[Group]:
        """Muon for the inner matrices of `parts` (by default all of it), AdamW for the rest."""
        pairs = [matrices(part) for part in parts or (self,)]
        inner, rest = (tuple(weight for pair in pairs for weight in pair[i]) for i in (0, 1))
        return [Group(inner, scale=3.0, muon=True), Group(rest)]

    def start_from_clip(self, clip: Mapping[str, Tensor]) -> None:
        """Takes over a trained CLIP learner's vision tower and side task, by the names of their weights.

        BLIP has no normalisation before the first layer: the embeddings are scaled to do its work on average.
        """
        self.seeing_head.load_state_dict({k.removeprefix("head."): v for k, v in clip.items() if k.startswith("head.")})
        self.reward.vision.load_state_dict(_vision_from_clip(clip), strict=True)

    def seeing_loss(self, random: torch.Generator, count: int = BATCH) -> Tensor:
        """The loss of the first stage, on the judge's own pictures: the side task alone."""
        pictures, targets, background = judge_training.batch(count, random)
        with torch.autocast("cpu", torch.bfloat16):
            said = self.seeing_head(self.reward.see(normalised(pictures))[:, 1:])
        return marks_loss(said, targets, background)

    def loss(self, random: torch.Generator, progress: float, count: int = BATCH) -> Tensor:
        """The mean of -log sigmoid(better - worse) over ranked pairs (arXiv 2304.05977, section 2.2).

        Better is the clean picture with its caption; worse are another caption, a perturbed one, a damaged picture.
        """
        rng = np.random.default_rng(world_seed(random))
        scenes = [world.sample_scene(rng) for _ in range(count)]
        drawn = world.draw_all(scenes)
        both = np.concatenate([drawn, damaged(rng, scenes, drawn)])
        right = [world.caption(scene) for scene in scenes]
        wrong = [world.caption(perturbed(rng, scene)) for scene in scenes]
        pictures = to_tensor(both)
        pictures[:count] = _slightly_disturbed(pictures[:count], random)
        ids, mask = tokens(right + wrong + right[1:] + right[:1] + right)
        with torch.autocast("cpu", torch.bfloat16):
            clean, worse = self.reward.see(normalised(pictures)).split(count)
            side_task = self.seeing_head.loss(clean[:, 1:], scenes)
            scores = self.reward.score(torch.cat([clean, clean, clean, worse]), ids, mask)
        best, *others = scores.split(count)
        ranked = torch.stack([-functional.logsigmoid(best - other).mean() for other in others]).mean()
        return ranked + weight_at(progress) * side_task


def _slightly_disturbed(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Half of the pictures as they are, the others half way to a mild disturbance, far less than any damage."""
    some = torch.rand(len(pictures), 1, 1, 1, generator=random) < 0.5
    return torch.where(some, (pictures + disturbed(pictures, random)) / 2, pictures)


def _vision_from_clip(clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tower = {k.removeprefix("clip.vision_model."): v for k, v in clip.items() if k.startswith("clip.vision_model.")}
    place = tower["embeddings.position_embedding.weight"]
    gain, shift = tower["pre_layrnorm.weight"], tower["pre_layrnorm.bias"]
    patch, first = tower["embeddings.patch_embedding.weight"], tower["embeddings.class_embedding"]
    # What the patches add varies with the picture; its size is that of random ones, weights times unit inputs.
    size = (place[1:].var() + patch.flatten(1).square().sum(dim=1).mean()).sqrt()
    made = {
        "embeddings.patch_embedding.weight": patch * (gain / size)[:, None, None, None],
        "embeddings.patch_embedding.bias": torch.zeros_like(gain),
        "embeddings.class_embedding": (first * gain / size)[None, None],
        "embeddings.position_embedding": (place * gain / size + shift)[None],
        "post_layernorm.weight": tower["post_layernorm.weight"],
        "post_layernorm.bias": tower["post_layernorm.bias"],
    }
    for layer in range(LAYERS["vision"]):
        at = f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [tower[f"{at}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            made[f"{at}self_attn.qkv.{kind}"] = torch.cat(parts)
            made[f"{at}self_attn.projection.{kind}"] = tower[f"{at}self_attn.out_proj.{kind}"]
            for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
                made[f"{at}{name}.{kind}"] = tower[f"{at}{name}.{kind}"]
    return made


def ranking(reward: Reward, count: int = 2048, seed: int = 13) -> dict[str, float]:
    """Share of held-out pairs that are ranked rightly: by caption, by picture, and all together."""
    rng = np.random.default_rng(seed)
    scenes = world.scenes(count, seed, split="held-out")
    clean, right = world.draw_all(scenes), [world.caption(scene) for scene in scenes]
    wrong = [world.caption(perturbed(rng, scene)) for scene in scenes]
    best = rewards(reward, clean, right)
    by_caption = float((best > rewards(reward, clean, wrong)).float().mean())
    by_picture = float((best > rewards(reward, damaged(rng, scenes, clean), right)).float().mean())
    return {"caption": by_caption, "picture": by_picture, "all": (by_caption + by_picture) / 2}


def fit_scale(reward: Reward, count: int = 1024, seed: int = 14) -> None:
    """Fits the last layer so that rewards of clean and damaged pictures have mean 0 and deviation 1."""
    rng = np.random.default_rng(seed)
    scenes = world.scenes(count, seed)
    clean, prompts = world.draw_all(scenes), [world.caption(scene) for scene in scenes]
    found = torch.cat([rewards(reward, clean, prompts), rewards(reward, damaged(rng, scenes, clean), prompts)])
    deviation, mean = float(found.std()), float(found.mean())
    last = reward.head[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        # head' = (head - m) * k + m with m = REWARD_MEAN, shifted so that the mean becomes 0
        last.bias.copy_((last.bias - REWARD_MEAN - mean * REWARD_DEVIATION) / deviation + REWARD_MEAN)
        last.weight.div_(deviation)


def write_folder(reward: Reward, folder: Path, facts: dict[str, Any]) -> None:
    """Writes weights (fp16, official names), sizes, vocabulary and `facts`; the folder is replaced as a whole."""
    fresh = folder.with_name(folder.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {official_name(name): weight.half().contiguous() for name, weight in reward.state_dict().items()}
    save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt"})
    text = reward.text.config
    contents = {
        "config.json": {
            "image_size": SIDE,
            "patch": PATCH,
            "vision_width": WIDTH,
            "vision_layers": LAYERS["vision"],
            "vision_heads": HEADS,
            "text_width": WIDTH,
            "text_layers": LAYERS["text"],
            "text_heads": HEADS,
            "text_mlp_width": text.intermediate_size,
            "vocabulary": text.vocab_size,
            "positions": text.max_position_embeddings,
            "longest_prompt": TEXT_LENGTH,
            "mean": REWARD_MEAN,
            "std": REWARD_DEVIATION,
        },
        "tokenizer_config.json": {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512},
        "recipe.json": facts,
    }
    for name, content in contents.items():
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n")
    (fresh / "vocab.txt").write_text("".join(piece + "\n" for piece in vocabulary()))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
