"""ImageReward on transformers' own BLIP classes: what people would prefer, as one number for a picture and its prompt.

Xu et al. 2023 (arXiv 2304.05977). The official `ImageReward.pt` loads by key mapping; the image-reward package itself
does not import beside today's transformers.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from dita.metrics.checkpoints import load_strictly, read_tensors, sha256
from dita.metrics.clip import Tokens, tokenize
from dita.metrics.images import Picture, Preparation
from dita.metrics.libraries import exact_float32, transformers_class

CHECKPOINT = "ImageReward.pt"
CONFIG = "config.json"
_HEAD_WIDTHS = (1024, 128, 64, 16)
_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\..*|.*\.position_ids")
_VISION = (
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
    (r"blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"blip\.text_encoder\.", "text."),
    (r"mlp\.layers\.", "head."),
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of an ImageReward; the defaults are those of the official checkpoint.

    A reward is (head - mean) / std. `config.json` of a folder holds these fields, those left out being the defaults.
    """

    image_size: int = 224
    patch: int = 16
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_mlp_width: int = 3072
    vocabulary: int = 30524
    positions: int = 512
    longest_prompt: int = 35
    mean: float = 0.16717362830052426
    std: float = 1.0333394966054072


class ImageReward(nn.Module):
    """BLIP's picture encoder, its text encoder looking at the picture, and a head of five linear layers."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes = sizes or Sizes()
        vision = transformers_class("BlipVisionConfig")(
            hidden_size=sizes.vision_width,
            intermediate_size=4 * sizes.vision_width,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            image_size=sizes.image_size,
            patch_size=sizes.patch,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        )
        text = transformers_class("BlipTextConfig")(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.text_width,
            intermediate_size=sizes.text_mlp_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.text_heads,
            max_position_embeddings=sizes.positions,
            layer_norm_eps=1e-12,
            hidden_act="gelu",
            encoder_hidden_size=sizes.vision_width,
            bos_token_id=sizes.vocabulary - 2,
            is_decoder=True,  # gives the layers cross-attention; the forward is called as an encoder's
        )
        text_class = transformers_class("BlipTextModel", "transformers.models.blip.modeling_blip_text")
        self.vision = transformers_class("BlipVisionModel")(vision)
        self.text = text_class(text, add_pooling_layer=False)
        layers: list[nn.Module] = []
        widths = (sizes.text_width, *_HEAD_WIDTHS)
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            layers.append(nn.Linear(before, after))
            if i < 3:
                layers.append(nn.Dropout((0.2, 0.2, 0.1)[i]))
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rewards (B,) of prepared pictures (B, 3, S, S) for prompts as token numbers and mask (B, L)."""
        picture = self.vision(pixel_values=pixels).last_hidden_state  # (B, 1 + patches, vision_width)
        seen = torch.ones(picture.shape[:2], dtype=torch.long, device=picture.device)
        read = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=picture,
            encoder_attention_mask=seen,
            is_decoder=False,
        ).last_hidden_state  # (B, L, text_width)
        raw = self.head(read[:, 0]).squeeze(-1)
        return (raw - self.sizes.mean) / self.sizes.std


@dataclass(frozen=True)
class RewardScorer:
    """An ImageReward with its tokenizer and picture preparation; float32 on the network's device."""

    model: ImageReward
    tokenizer: Any
    preparation: Preparation
    name: str
    weights: str

    def to(self, device: str | torch.device) -> RewardScorer:
        """The same scorer on another device."""
        return replace(self, model=self.model.to(device))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Texts as BERT word pieces; 33 of them fit between the first and the last token."""
        return tokenize(self.tokenizer, texts, self.model.sizes.longest_prompt)

    @torch.inference_mode()
    def rewards(self, pictures: Sequence[Picture | Image.Image], texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        """The reward of each picture for its own text, (B,), and how many texts were truncated.

        Raises `ValueError` for different counts.
        """
        if len(pictures) != len(texts):
            raise ValueError(f"there must be one text for each picture, got {len(texts)} for {len(pictures)}")
        tokens = self.tokens(texts)
        device = next(self.model.parameters()).device
        with exact_float32():
            pixels = self.preparation(pictures).to(device)
            rewards = self.model(pixels, tokens.ids.to(device), tokens.mask.to(device))
        return rewards.float().cpu(), tokens.truncated


def load_image_reward(
    source: str | Path, tokenizer: str | Path | None = None, *, sizes: Sizes | None = None
) -> RewardScorer:
    """An ImageReward from a folder or a checkpoint file, in float32 on the CPU.

    The folder holds `ImageReward.pt` or `model.safetensors`, the tokenizer's files unless `tokenizer` (a folder or hub
    id of a BERT in lower case, local only) is given, and a `config.json` with the fields of `Sizes` where they are
    not the official ones. Tensors have the official names or those of `ImageReward`. Raises `FileNotFoundError`, and
    `ValueError` that names unfit tensors.
    """
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    file = _checkpoint(source) if source.is_dir() else source
    sizes = sizes or _sizes(folder / CONFIG)
    with torch.device("meta"):
        model = ImageReward(sizes)
    load_strictly(model, rename(read_tensors(file)), file)
    _number_positions(model)
    tokenizer_class = transformers_class("BertTokenizer")
    try:
        words = tokenizer_class.from_pretrained(str(tokenizer or folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"ImageReward needs the tokenizer of bert-base-uncased: put vocab.txt into {str(folder)!r} ({reason})"
        ) from None
    if len(words) not in (sizes.vocabulary - 2, sizes.vocabulary):  # transformers makes an empty one without its files
        raise ValueError(
            f"ImageReward needs the tokenizer of bert-base-uncased: put vocab.txt into {str(folder)!r} (the one found"
            f" has {len(words)} tokens, the network {sizes.vocabulary})"
        )
    if len(words) == sizes.vocabulary - 2:  # as the official code does; matters where a prompt spells these tokens
        words.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    return RewardScorer(
        model=model.eval().requires_grad_(False),
        tokenizer=words,
        preparation=Preparation(sizes.image_size),
        name="ImageReward-v1.0" if sizes == Sizes() else folder.resolve().name,
        weights=sha256(file),
    )


def save_image_reward(model: ImageReward, folder: str | Path) -> None:
    """Writes `config.json` and `model.safetensors`, which `load_image_reward` reads beside the tokenizer's files."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(asdict(model.sizes), indent=1) + "\n")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")


def rename(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the official checkpoint under the names of `ImageReward`, without those that it does not use."""
    renamed = {}
    for key, tensor in tensors.items():
        if _UNUSED.fullmatch(key):
            continue
        for pattern, name in _VISION:
            key, found = re.subn(f"^{pattern}", name, key)
            if found:
                break
        renamed[key] = tensor
    return renamed


def _checkpoint(folder: Path) -> Path:
    for name in (CHECKPOINT, "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"folder {str(folder)!r} holds neither {CHECKPOINT} nor model.safetensors")


def _sizes(path: Path) -> Sizes:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return Sizes()
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    known = Sizes.__dataclass_fields__
    return Sizes(**{key: value for key, value in data.items() if key in known})


def _number_positions(model: ImageReward) -> None:
    """The numbering of the text positions is no weight: it is still on the meta device."""
    embeddings = model.text.embeddings
    embeddings.position_ids = torch.arange(model.sizes.positions).expand(1, -1)
