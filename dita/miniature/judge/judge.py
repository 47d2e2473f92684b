"""The judge: pictures and their prompts in, verdicts out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from dita.miniature import world
from dita.miniature.judge.marks import COLOURS, LAYERS
from dita.miniature.judge.motion import motion_of
from dita.miniature.judge.network import SIDE, Eyes, Widths
from dita.miniature.judge.pictures import Pictures, tensor
from dita.miniature.judge.reading import Reading, readings
from dita.miniature.judge.verdict import Verdict, verdict

BATCH = 64
"""Pictures that are read at once."""


class Judge:
    """Reads pictures of the shapes world, and judges them against their captions. Deterministic; needs no network.

    >>> from dita import miniature
    >>> from dita.miniature import world
    >>> judge = miniature.load_judge()  # doctest: +SKIP
    >>> judge(*world.pictures(1, seed=0))[0].correct  # doctest: +SKIP
    True
    """

    def __init__(self, eyes: Eyes, device: str | torch.device = "cpu") -> None:
        self.eyes: nn.Module = _channels_last(eyes.eval().requires_grad_(False).to(device))
        self.device = torch.device(device)

    @torch.no_grad()
    def read(self, pictures: Pictures) -> list[Reading]:
        """What each picture shows. Pictures are PIL ones or uint8 (N, H, W, 3); other sizes than 64x64 are resized.

        Raises:
            ValueError: an array of another shape or type, or a picture that is not square.
        """
        seen = tensor(pictures, SIDE)
        found: list[Reading] = []
        for part in seen.split(BATCH) if len(seen) else ():
            found += readings(self.eyes(part.to(self.device).contiguous(memory_format=torch.channels_last)))
        return found

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> list[Verdict]:
        """The verdict on each picture, against its prompt.

        Raises:
            ValueError: another number of prompts than of pictures, a prompt that is not of the world's grammar, or
                pictures that `read` refuses.
        """
        _same_number("picture", len(pictures), len(prompts))
        said = [world.parse(prompt) for prompt in prompts]
        return [verdict(one, seen) for one, seen in zip(said, self.read(pictures), strict=True)]

    def clips(self, clips: Sequence[Pictures] | NDArray[np.uint8], prompts: Sequence[str]) -> list[Verdict]:
        """The verdict on each clip, a sequence of frames: on every attribute by most of its frames, and on its motion.

        Raises:
            ValueError: as for pictures; or a clip without frames.
        """
        _same_number("clip", len(clips), len(prompts))
        return [self._clip(clip, world.parse(prompt)) for clip, prompt in zip(clips, prompts, strict=True)]

    def _clip(self, frames: Pictures, said: dict[str, str | int]) -> Verdict:
        if not len(frames):
            raise ValueError("a clip has no frames: give at least one")
        seen = self.read(frames)
        each = [verdict(said, one).as_dict() for one in seen]
        # An object that grows is small at first and large in the end: its size is not said.
        most = {
            name: None if each[0][name] is None else 2 * sum(bool(one[name]) for one in each) > len(each)
            for name in each[0]
        }
        if "motion" in said:
            most["motion"] = motion_of(seen) == said["motion"]
        return Verdict(**most)


def _channels_last(module: nn.Module) -> nn.Module:
    """The module with its convolutions' weights laid out as the pictures are: faster on CPU."""
    laid_out: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out


def _same_number(what: str, given: int, prompts: int) -> None:
    if given != prompts:
        raise ValueError(f"there must be one prompt for each {what}, got {prompts} prompts for {given} {what}s")


def load(folder: Path, device: str | torch.device = "cpu") -> Judge:
    """The judge whose eyes lie in `folder`: config.json and model.safetensors."""
    return Judge(load_eyes(folder), device)


def load_eyes(folder: Path) -> Eyes:
    """The network in `folder`, in float32.

    Raises:
        ValueError: it was trained on other shapes, colours or glyphs than this version's.
    """
    config = json.loads((folder / "config.json").read_text())
    if {name: tuple(kinds) for name, kinds in config["layers"].items()} != LAYERS or tuple(
        config["colours"]
    ) != COLOURS:
        raise ValueError(f"{folder} was trained on another world: train it again with this version")
    eyes = Eyes(Widths(**{**config["widths"], "blocks": tuple(config["widths"]["blocks"])}))
    eyes.load_state_dict({name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()})
    return eyes
