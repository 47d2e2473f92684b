"""Prompts as Open-Sora 1.2 was trained with: scores appended, then cleaned as PixArt cleans; one text for each loop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from diffusers import PixArtAlphaPipeline
from diffusers.utils import is_bs4_available, is_ftfy_available

from dita.values import unknown

CAMERA_MOTIONS = ("pan right", "pan left", "tilt up", "tilt down", "zoom in", "zoom out", "static")


def append_scores(
    prompt: str, aesthetic: float | None = 6.5, motion: float | None = None, camera_motion: str | None = None
) -> str:
    """`prompt` with the phrases of the training captions, each where it is not None and not there already."""
    text = prompt
    for name, value in (
        ("aesthetic score", None if aesthetic is None else f"{aesthetic:.1f}"),
        ("motion score", None if motion is None else f"{motion:.1f}"),
        ("camera motion", camera_motion),
    ):
        if value is not None and f"{name}:" not in prompt:
            text = f"{text} {name}: {value}."
    return text


class _PixArtCleaner:
    """The part of PixArt's pipeline that cleans captions, without the pipeline."""

    bad_punct_regex = PixArtAlphaPipeline.bad_punct_regex
    _clean_caption = PixArtAlphaPipeline._clean_caption
    _text_preprocessing: Any = PixArtAlphaPipeline._text_preprocessing


def clean(text: str) -> str:
    """`text` in lower case without addresses, markup and unusual punctuation: PixArt's cleaning, twice.

    Raises `ImportError` where ftfy or beautifulsoup4 are absent: other text than in training would pass unnoticed.
    """
    absent = [
        name for name, there in (("ftfy", is_ftfy_available()), ("beautifulsoup4", is_bs4_available())) if not there
    ]
    if absent:
        raise ImportError(
            f"cleaning prompts needs {' and '.join(absent)}: pip install 'dita[opensora]', or pass clean_caption=False"
        )
    return _PixArtCleaner()._text_preprocessing(text, clean_caption=True)[0]


def split_loops(prompt: str) -> dict[int, str]:
    """The texts of a prompt by the loop from which each one holds: `"|0|a dog|2|a cat"` is {0: a dog, 2: a cat}.

    A prompt that does not begin with `|` holds for all loops.
    Raises `ValueError`, with the position, for a loop that is no number, does not rise, or does not begin with 0.
    """
    if not prompt.startswith("|"):
        return {0: prompt}
    texts: dict[int, str] = {}
    position = 0
    for match in re.finditer(r"\|([^|]*)\|([^|]*)|\|.*", prompt):
        position = match.start() + 1
        loop = (match[1] or "").strip()
        if not loop.isdecimal():
            raise ValueError(f"prompt {prompt!r}: expected '|loop|text' at character {position}, got {match[0]!r}")
        if int(loop) != 0 if not texts else int(loop) <= max(texts):
            raise ValueError(f"prompt {prompt!r}: loops must begin with 0 and rise, got {loop} at character {position}")
        texts[int(loop)] = match[2].strip()
    return texts


def at_loop(texts: dict[int, str], loop: int) -> str:
    """The text of `split_loops` that holds in `loop`."""
    return texts[max(start for start in texts if start <= loop)]


def finished(
    prompts: Sequence[str],
    loops: int = 1,
    *,
    aesthetic: float | None = 6.5,
    motion: float | None = None,
    camera_motion: str | None = None,
    cleaned: bool = True,
) -> list[list[str]]:
    """What the text encoder reads: for every loop, the text of every prompt with its scores, cleaned if `cleaned`.

    Without cleaning a text is only stripped and in lower case.
    Raises `ValueError` for an empty prompt, also one of which cleaning leaves nothing, and for an unknown motion.
    """
    if camera_motion is not None and camera_motion not in CAMERA_MOTIONS:
        raise unknown("camera_motion", camera_motion, CAMERA_MOTIONS)
    finish = clean if cleaned else lambda text: text.lower().strip()
    texts = [split_loops(prompt) for prompt in prompts]
    for prompt, by_loop in zip(prompts, texts, strict=True):
        for text in by_loop.values():
            if not text.strip():
                raise ValueError(f"the prompt {prompt!r} is empty; describe the video in words")
            if not finish(text):
                raise ValueError(f"nothing is left of the prompt {prompt!r} when it is cleaned; say it in other words")
    return [
        [finish(append_scores(at_loop(text, loop), aesthetic, motion, camera_motion)) for text in texts]
        for loop in range(loops)
    ]
