"""How well a picture fits its prompt by CLIP: CLIP score, PickScore and HPSv2 are one network with other weights.

CLIP score: Hessel et al. 2021 (arXiv 2104.08718), equation 1 with the customary factor 100. PickScore: Kirstain et al.
2023 (arXiv 2305.01569). HPSv2: Wu et al. 2023 (arXiv 2306.09341).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from dita.metrics import open_clip, preprocessor_file
from dita.metrics.checkpoints import load_strictly, read_tensors, sha256
from dita.metrics.images import CLIP_MEAN, CLIP_STD, Picture, Preparation
from dita.metrics.libraries import exact_float32, transformers_class


def clip_score(cosine: torch.Tensor) -> torch.Tensor:
    """100 max(cosine, 0) of each pair, in 0..100; larger fits better.

    >>> clip_score(torch.tensor([0.25, -0.1]))
    tensor([25.,  0.])
    """
    return 100 * cosine.clamp(min=0)


@dataclass(frozen=True)
class Tokens:
    """Token numbers (B, L) and mask (B, L) of prompts; `truncated` of them were longer than the network reads."""

    ids: torch.Tensor
    mask: torch.Tensor
    truncated: int


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP network with its tokenizer and picture preparation; features in float32 on the network's device.

    `weights` is the sha256 of its file, `name` what to call it in results.
    """

    model: Any
    tokenizer: Any
    preparation: Preparation
    name: str
    weights: str

    @property
    def width(self) -> int:
        """Numbers of one embedding."""
        return int(self.model.config.projection_dim)

    def to(self, device: str | torch.device) -> ClipScorer:
        """The same scorer on another device."""
        return replace(self, model=self.model.to(device))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Texts as token numbers; the end token stays where a text is cut."""
        return tokenize(self.tokenizer, texts, self.model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def image_embeddings(self, pictures: Sequence[Picture | Image.Image]) -> torch.Tensor:
        """Embeddings (B, E) of length 1 of pictures of any sizes."""
        return self.embed_pixels(self.preparation(pictures))

    @torch.inference_mode()
    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, E) of length 1 of prepared pictures (B, 3, S, S)."""
        with exact_float32():
            pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
            return F.normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.inference_mode()
    def text_embeddings(self, tokens: Tokens) -> torch.Tensor:
        """Embeddings (B, E) of length 1."""
        device = self.model.device
        with exact_float32():
            read = self.model.text_model(input_ids=tokens.ids.to(device), attention_mask=tokens.mask.to(device))
            return F.normalize(self.model.text_projection(read.pooler_output), dim=-1)

    def cosines(self, pictures: Sequence[Picture | Image.Image], texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        """The cosine of each picture with its own text, (B,), and how many texts were truncated.

        HPSv2 is this number. Raises `ValueError` for different counts.
        """
        if len(pictures) != len(texts):
            raise ValueError(f"there must be one text for each picture, got {len(texts)} for {len(pictures)}")
        tokens = self.tokens(texts)
        cosine = (self.image_embeddings(pictures) * self.text_embeddings(tokens)).sum(dim=-1)
        return cosine.float().cpu(), tokens.truncated

    def pick_score(self, cosine: torch.Tensor) -> torch.Tensor:
        """PickScore: the cosine times the network's own scale (about 100)."""
        return cosine * float(self.model.logit_scale.detach().exp())


def load_clip(source: str | Path, tokenizer: str | Path | None = None, *, local_files_only: bool = True) -> ClipScorer:
    """A CLIP of transformers from a local folder or a hub id, in float32 on the CPU.

    Its tokenizer is in the same place, or in `tokenizer`.
    Normalisation is that of the folder's `preprocessor_config.json`, else CLIP's own; the resize is dita's. Raises
    `ValueError` where there is no CLIP, where its files lack tensors, and as `preprocessor_file.read`.
    """
    model_class = transformers_class("CLIPModel")
    try:
        model, report = model_class.from_pretrained(
            str(source), local_files_only=local_files_only, output_loading_info=True, dtype=torch.float32
        )
        words = _tokenizer(tokenizer or source, model.config.text_config.vocab_size, local_files_only)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(source)!r} holds no CLIP that transformers loads: {_line(error)}") from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"the CLIP in {str(source)!r} lacks {len(missing)} tensors ({', '.join(missing[:3])})")
    told = preprocessor_file.read(source, local_files_only=local_files_only)
    mean, std = told.normalisation(CLIP_MEAN, CLIP_STD)
    folder = Path(str(getattr(model, "name_or_path", source)))
    return ClipScorer(
        model=model.eval().requires_grad_(False),
        tokenizer=words,
        preparation=Preparation(model.config.vision_config.image_size, mean=mean, std=std),
        name=str(source) if not Path(source).is_dir() else Path(source).resolve().name,
        weights=sha256(folder) if folder.is_dir() else _state_hash(model),
    )


def load_open_clip(
    checkpoint: str | Path, tokenizer: str | Path, *, sizes: open_clip.Sizes | None = None, name: str = "open_clip"
) -> ClipScorer:
    """A CLIP from a checkpoint in open_clip's layout, such as HPSv2's, in float32 on the CPU.

    `tokenizer` is a folder or hub id of a CLIP of transformers, local only. `sizes` are those of ViT-H-14 by default.
    Pictures are letterboxed, as HPSv2 does. Raises `FileNotFoundError`, and `ValueError` that names unfit tensors.
    """
    tensors = read_tensors(checkpoint)
    sizes = sizes or open_clip.VIT_H_14
    model = load_open_clip_model(tensors, sizes, checkpoint)
    return ClipScorer(
        model=model,
        tokenizer=_tokenizer(tokenizer, sizes.vocabulary),
        preparation=Preparation(sizes.image_size, fit="letterbox"),
        name=name,
        weights=sha256(checkpoint),
    )


def load_open_clip_model(tensors: Mapping[str, torch.Tensor], sizes: open_clip.Sizes, source: str | Path) -> Any:
    """transformers' CLIPModel of `sizes` with the tensors of an open_clip checkpoint, by key mapping."""
    config = transformers_class("CLIPConfig")(**open_clip.config(sizes))
    with torch.device("meta"):
        model = transformers_class("CLIPModel")(config)
    load_strictly(model, open_clip.rename(tensors), source)
    for embeddings in (model.vision_model.embeddings, model.text_model.embeddings):
        count = embeddings.position_embedding.weight.shape[0]  # the numbering is no weight: it is still on meta
        embeddings.position_ids = torch.arange(count).expand(1, -1)
    return model.eval().requires_grad_(False)


def tokenize(tokenizer: Any, texts: Sequence[str], longest: int) -> Tokens:
    """Texts as padded token numbers of at most `longest` each, end token kept, with the count of those cut."""
    whole = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    cut = tokenizer(list(texts), truncation=True, max_length=longest, padding=True, return_tensors="pt")
    return Tokens(cut["input_ids"], cut["attention_mask"], sum(len(ids) > longest for ids in whole))


def _tokenizer(source: str | Path, vocabulary: int, local_files_only: bool = True) -> Any:
    words = transformers_class("CLIPTokenizer").from_pretrained(str(source), local_files_only=local_files_only)
    if len(words) != vocabulary:  # transformers makes an empty one where there are no files of one
        raise ValueError(f"the tokenizer in {str(source)!r} has {len(words)} tokens, the network {vocabulary}")
    return words


def _state_hash(model: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
