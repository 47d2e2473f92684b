"""Tiny random pipelines of every family that take prompts, as the demo holds them."""

from __future__ import annotations

from transformers import CLIPTextConfig, CLIPTextModel

from dita.demo.loaded import Loaded
from dita.miniature.tokenizers import clip_tokenizer, t5_tokenizer
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart

PROMPTS = {"flux": "a red circle", "pixart": "a red circle", "opensora": "a red circle", "dit": "red circle"}


def small(family: str) -> Loaded:
    """A pipeline of `family` with its call's arguments: 32 x 32 pixels, or DiT's 16 cells."""
    return {"flux": _flux, "pixart": _pixart, "dit": _dit, "opensora": _opensora}[family]()


def _flux() -> Loaded:
    pipe = tiny_flux.tiny_pipeline()
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=12,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    pipe.register_modules(
        text_encoder=CLIPTextModel(config).eval().requires_grad_(False),
        tokenizer=tokenizer,
        text_encoder_2=tiny_opensora.tiny_text_encoder(),
        tokenizer_2=t5_tokenizer(),
    )
    pipe.tokenizer_max_length = 16
    call = {"height": 32, "width": 32, "num_inference_steps": 6, "guidance_scale": 3.5, "max_sequence_length": 16}
    return Loaded("tiny-flux", pipe, call)


def _pixart() -> Loaded:
    pipe = tiny_pixart.tiny_pipeline()
    encoder = tiny_opensora.tiny_text_encoder(width=20)
    pipe.register_modules(text_encoder=encoder, tokenizer=t5_tokenizer())
    call = {"height": 32, "width": 32, "num_inference_steps": 6, "guidance_scale": 4.5, "max_sequence_length": 16}
    return Loaded("tiny-pixart", pipe, {**call, "use_resolution_binning": False, "clean_caption": False})


def _dit() -> Loaded:
    pipe = tiny_dit.tiny_pipeline()
    pipe.labels = {"blue square": 1, "red circle": 0}
    return Loaded("tiny-dit", pipe, {"num_inference_steps": 6, "guidance_scale": 4.0})


def _opensora() -> Loaded:
    pipe = tiny_opensora.tiny_pipeline()
    call = {"height": 32, "width": 32, "num_frames": 4, "num_inference_steps": 6, "guidance_scale": 7.0}
    return Loaded("tiny-opensora", pipe, {**call, "aesthetic_score": None, "clean_caption": False})
