"""Open-Sora's text encoder: T5 v1.1 XXL, loaded from transformers' layout."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoTokenizer, T5EncoderModel

TEXT_ENCODER = "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers"
"""The T5 v1.1 XXL encoder of DeepFloyd/t5-v1_1-xxl as safetensors; the original repository holds pickles."""


def load_text_encoder(source: str | os.PathLike[str], dtype: torch.dtype, **hub: Any) -> tuple[Any, T5EncoderModel]:
    """(tokenizer, encoder in `dtype`) of a folder or hub id, from `tokenizer` and `text_encoder` or from its top.

    Raises `ValueError` where neither is there, or only as pickled weights.
    """
    failures = []
    for encoder_folder, tokenizer_folder in (("text_encoder", "tokenizer"), ("", "")):
        try:
            encoder = T5EncoderModel.from_pretrained(
                source, subfolder=encoder_folder, dtype=dtype, use_safetensors=True, **hub
            )
        except OSError as error:
            failures.append(" ".join(str(error).split())[:200])
        else:
            return AutoTokenizer.from_pretrained(source, subfolder=tokenizer_folder, **hub), encoder.eval()
    raise ValueError(f"{os.fspath(source)!r} holds no T5 encoder as safetensors: {failures[-1]}")
