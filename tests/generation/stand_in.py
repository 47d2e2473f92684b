"""A pipeline that draws noise from its generators, for the tests of what is around a pipeline."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from dita.generation.job import Item, Settings, items
from dita.generation.prompts import Prompt


class StandIn:
    """`trouble(prompts)` is called first, and may raise, or end the process."""

    def __init__(self, trouble=lambda prompts: None):
        self.trouble = trouble
        self.components = {}
        self.calls = []

    def set_progress_bar_config(self, **config):
        self._progress_bar_config = config

    def __call__(self, prompt, num_inference_steps=28, generator=None, output_type="pil", height=8):
        self.calls.append(list(prompt))
        self.trouble(prompt)
        noise = [torch.randint(256, (height, 8, 3), generator=g, dtype=torch.uint8).numpy() for g in generator]
        return SimpleNamespace(images=[Image.fromarray(n) for n in noise])


class VideoStandIn(StandIn):
    def __call__(self, prompt, num_inference_steps=28, generator=None, output_type="np", num_frames=4):
        self.calls.append(list(prompt))
        return SimpleNamespace(frames=[torch.rand(num_frames, 16, 16, 3, generator=g).numpy() for g in generator])


def settings(**changes) -> Settings:
    given = {"model": "shapes-flux", "method": {"method": "plain"}, "steps": 2, "dtype": "float32", "device": "cpu"}
    return Settings(**{**given, "format": "png", **changes})


def some_items(count: int = 6, seeds=(0,)) -> list[Item]:
    return items([Prompt(f"p{i}", f"prompt {i}") for i in range(count)], seeds)


def loading(pipe):
    """As `dita.models.load`."""
    return lambda *args, **kwargs: (pipe, {})


class LoadDyingOnce:
    """Loads a pipeline that ends its process at a prompt, the first time; a file remembers. Travels to workers."""

    def __init__(self, memory: Path, prompt: str):
        self.memory, self.prompt = memory, prompt

    def __call__(self, *args, **kwargs):
        def trouble(prompts):
            if self.prompt in prompts and not self.memory.exists():
                self.memory.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return StandIn(trouble), {}


def same_pictures(one: Path, other: Path) -> bool:
    files = sorted(path.name for path in one.iterdir())
    return files == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in files
    )


def pixels(image) -> np.ndarray:
    return np.asarray(image)
