"""How close a picture is to the plain one, and how good it is: PSNR, SSIM, and the judge's verdict or CLIP's score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dita import miniature
from dita.demo.loaded import Loaded
from dita.demo.sampling import Frames
from dita.metrics import psnr, ssim
from dita.metrics.clip import clip_score
from dita.metrics.images import is_constant
from dita.miniature import world
from dita.miniature.judge import Verdict
from dita.networks import Networks

SMALLEST_FOR_SSIM = 11  # pixels a side: the window


@dataclass(frozen=True)
class Scores:
    """What was measured of one picture, or of the frames of a video together.

    Attributes:
        psnr, ssim: beside the plain picture (means over frames; PSNR in dB, inf where identical); None for itself.
        verdict: of the shapes world's judge, attribute by attribute; None where the prompt is no caption of the world.
        clip: CLIP score (100 times the cosine), where there is no verdict and a CLIP network is at hand.
    """

    psnr: float | None = None
    ssim: float | None = None
    verdict: Verdict | None = None
    clip: float | None = None


class Scorer:
    """Measures pictures of one model; its networks are loaded when they are first needed, and none is downloaded."""

    def __init__(self, loaded: Loaded, networks: Networks | None = None) -> None:
        self.loaded = loaded
        self.networks = networks or Networks()

    def scores(self, prompt: str, frames: Frames, plain: Frames | None) -> Scores:
        """Of one picture; `plain` is None for the plain one itself, and where nothing is to be compared.

        Two pictures of one colour are not compared.
        """
        verdict = self.verdict(prompt, frames)
        clip = None if verdict is not None else self.clip(prompt, frames)
        if plain is None or plain.shape != frames.shape or (is_constant(frames) and is_constant(plain)):
            return Scores(verdict=verdict, clip=clip)
        large = min(frames.shape[1:3]) >= SMALLEST_FOR_SSIM
        return Scores(
            psnr=float(np.mean(psnr(frames, plain))),
            ssim=float(np.mean(ssim(frames, plain))) if large else None,
            verdict=verdict,
            clip=clip,
        )

    def verdict(self, prompt: str, frames: Frames) -> Verdict | None:
        """The judge's, of a bundled model's picture, where the prompt is a caption of its world."""
        if not self.loaded.bundled or frames.shape[1] != frames.shape[2] or self._judge is None:
            return None
        try:
            said = world.parse(prompt)
        except ValueError:
            return None
        pictures = [Image.fromarray(frame) for frame in frames]
        if "motion" in said:
            return self._judge.clips([pictures], [prompt])[0]
        return self._judge(pictures[:1], [prompt])[0]

    def clip(self, prompt: str, frames: Frames) -> float | None:
        """CLIP's score of a picture, or of the frame in the middle of a video; never by the bundled stand-in."""
        if self._clip is None:
            return None
        pictures = self._clip.image_embeddings([Image.fromarray(frames[len(frames) // 2])])
        texts = self._clip.text_embeddings(self._clip.tokens([prompt]))
        return float(clip_score((pictures * texts).sum(-1))[0])

    @cached_property
    def _judge(self) -> Any:
        try:
            return miniature.load_judge()
        except FileNotFoundError:
            return None

    @cached_property
    def _clip(self) -> Any:
        try:
            found = self.networks.find("clip")
        except ValueError:
            return None
        return None if found.origin == "bundled" else self.networks.clip()


def difference(frames: Frames, plain: Frames) -> tuple[NDArray[np.float64], float]:
    """How much each pixel (H, W) differs from the plain picture's, in 0..1: the mean over frames of the largest of the
    three channels; and the largest of all."""
    largest = np.abs(frames.astype(np.float64) - plain.astype(np.float64)).max(axis=-1) / 255
    mean: NDArray[np.float64] = largest.mean(axis=0)
    return mean, float(largest.max())
