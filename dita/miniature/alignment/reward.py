"""The small reward model: ImageReward's architecture on transformers' BLIP classes, trained on ranked pairs.

ImageReward (Xu et al. 2023, arXiv 2304.05977): BLIP's text encoder reads the prompt with cross-attention to the
picture's patches; an affine head of five layers, without activations, makes a number of the first token. The folder
that is written holds the tensors under the official names, so that what loads `ImageReward.pt` loads it as well.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from dita.miniature import world
from dita.miniature.alignment.clip import PATCH, SIDE, WIDTH, normalised
from dita.miniature.judge.pictures import to_tensor
from dita.miniature.tokenizers import LETTERS

TEXT_LENGTH = 35
"""Most tokens of a prompt, as in ImageReward."""

LAYERS = {"vision": 4, "text": 3}
HEADS = 4

REWARD_MEAN, REWARD_DEVIATION = 0.16717362830052426, 1.0333394966054072
"""ImageReward's own: the reward is (head - mean) / deviation. The small model's last layer is fitted to them."""

MARKERS = ("[DEC]", "[ENC]")
"""Tokens that BLIP adds to BERT's; they stay unused."""


@cache
def vocabulary() -> tuple[str, ...]:
    """BERT's special tokens, the world's words, and letters to spell others with."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *world.vocabulary(), *LETTERS]
    return tuple(dict.fromkeys([*pieces, *(f"##{letter}" for letter in LETTERS if letter != '"')]))


@cache
def tokenizer() -> BertTokenizer:
    """The WordPiece tokenizer of the small model."""
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary())}, model_max_length=512)


def tokens(prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask (N, L), padded to the longest prompt and cut after TEXT_LENGTH."""
    found = tokenizer()(prompts, padding=True, truncation=True, max_length=TEXT_LENGTH, return_tensors="pt")
    return found.input_ids, found.attention_mask


class Reward(nn.Module):
    """Pictures (N, 3, 64, 64) normalised as CLIP's, token ids and mask (N, L) to a reward each."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=LAYERS["vision"],
                num_attention_heads=HEADS,
                image_size=SIDE,
                patch_size=PATCH,
                hidden_act="gelu",
                layer_norm_eps=1e-6,
                attn_implementation="eager",
            )
        )
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=len(vocabulary()) + len(MARKERS),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=LAYERS["text"],
                num_attention_heads=HEADS,
                max_position_embeddings=64,
                bos_token_id=len(vocabulary()),
                layer_norm_eps=1e-12,
                hidden_act="gelu",
                is_decoder=True,  # makes the cross-attention; a forward call is bidirectional all the same
                encoder_hidden_size=WIDTH,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        widths = (WIDTH, 1024, 128, 64, 16, 1)
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        # Dropout has no weights: it only keeps ImageReward's numbering of the layers.
        first, second, third, fourth, last = layers
        still = nn.Identity
        self.head = nn.Sequential(first, still(), second, still(), third, still(), fourth, last)

    def see(self, pictures: Tensor) -> Tensor:
        """Tokens of the pictures (N, 1 + patches, WIDTH), the class token first."""
        seen: Tensor = self.vision(pictures).last_hidden_state
        return seen

    def score(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Rewards (N,) of prompts, each read beside the picture of the same row."""
        whole = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        read = self.text(ids, attention_mask=mask, encoder_hidden_states=seen, encoder_attention_mask=whole)
        raw = self.head(read.last_hidden_state[:, 0]).float()[:, 0]
        return (raw - REWARD_MEAN) / REWARD_DEVIATION

    def forward(self, pictures: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return self.score(self.see(pictures), ids, mask)


@torch.no_grad()
def rewards(reward: Reward, pictures: world.Picture, prompts: list[str], batch: int = 128) -> Tensor:
    """Rewards (N,) of pictures (N, 64, 64, 3) for their prompts."""
    reward.eval()
    parts = [
        reward(normalised(to_tensor(pictures[i : i + batch])), *tokens(prompts[i : i + batch]))
        for i in range(0, len(prompts), batch)
    ]
    return torch.cat(parts)


_OFFICIAL = (
    ("vision.embeddings.class_embedding", "blip.visual_encoder.cls_token"),
    ("vision.embeddings.position_embedding", "blip.visual_encoder.pos_embed"),
    ("vision.embeddings.patch_embedding.", "blip.visual_encoder.patch_embed.proj."),
    ("vision.encoder.layers.", "blip.visual_encoder.blocks."),
    ("vision.post_layernorm.", "blip.visual_encoder.norm."),
    ("text.", "blip.text_encoder."),
    ("head.", "mlp.layers."),
)
_OFFICIAL_INSIDE = (
    (".layer_norm", ".norm"),
    (".self_attn.qkv.", ".attn.qkv."),
    (".self_attn.projection.", ".attn.proj."),
)


def official_name(name: str) -> str:
    """The name of a weight in ImageReward's own files."""
    for mine, theirs in _OFFICIAL:
        if name.startswith(mine):
            name = theirs + name.removeprefix(mine)
            break
    if name.startswith("blip.visual_encoder.blocks."):
        for mine, theirs in _OFFICIAL_INSIDE:
            name = name.replace(mine, theirs)
    return name


def load(folder: Path) -> Reward:
    """The reward model in `folder`, in float32.

    Raises:
        ValueError: the folder's vocabulary is not this version's.
    """
    if tuple((folder / "vocab.txt").read_text().splitlines()) != vocabulary():
        raise ValueError(f"{folder} was made for another vocabulary: train it again with this version")
    tensors = load_file(folder / "model.safetensors")
    reward = Reward()
    names = {name: official_name(name) for name in reward.state_dict()}
    reward.load_state_dict({mine: tensors[theirs].float() for mine, theirs in names.items()})
    return reward.eval()
