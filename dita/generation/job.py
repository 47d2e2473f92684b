"""What a job is to make, as data: its items, each with a noise of its own, and the settings that pixels depend on."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dita.generation.prompts import Prompt
from dita.methods import Method, from_json
from dita.stores import Store
from dita.values import unknown

FORMATS = ("png", "webp", "mp4")
SAFE = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")

Key = tuple[str, int]


@dataclass(frozen=True)
class Item:
    """One picture or video to make: of a prompt, with the noise that belongs to its id and the seed index."""

    id: str
    prompt: str
    seed: int

    @property
    def key(self) -> Key:
        """What names it within a job."""
        return self.id, self.seed

    @property
    def noise_seed(self) -> int:
        """Of the generator that draws its noise: 53 bits, so that every JSON reader keeps them."""
        digest = hashlib.sha256(f"{self.id}\0{self.seed}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 11

    @property
    def stem(self) -> str:
        """A file name without suffix that no other item has, whatever characters the id holds."""
        if SAFE.fullmatch(self.id):
            return f"{self.id}-s{self.seed}"
        readable = re.sub(r"[^a-z0-9._-]+", "_", self.id.lower()).strip("._-")[:60]
        return f"{readable}~{hashlib.sha256(self.id.encode()).hexdigest()[:12]}-s{self.seed}"


def items(prompts: Iterable[Prompt], seeds: Sequence[int]) -> list[Item]:
    """Every prompt with every seed index, prompt by prompt."""
    return [Item(prompt.id, prompt.text, seed) for prompt in prompts for seed in seeds]


@dataclass(frozen=True)
class Settings:
    """What the pixels of an item depend on beside its prompt and noise. Plain data: it travels to workers as JSON.

    Fields:
        model: as `dita.models.load` takes it.
        revision: which weights these were, None until a worker has loaded them.
        method: as JSON.
        steps: denoising steps of the plain pipeline, None for the model's own number.
        call: more arguments of the pipeline call.
        dtype, device: as loaded; the device without its number.
        exact: whether each sample is computed as if it were alone (`dita.generation.alone`).
        format, fps: of the files.
        store: how stored features are kept, as the fields of a `dita.Store`; None for the default.
    """

    model: str
    method: dict[str, Any]
    steps: int
    dtype: str
    device: str
    format: str
    call: dict[str, Any] = field(default_factory=dict)
    exact: bool = True
    fps: float | None = None
    revision: str | None = None
    store: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be above 0 and finite, got {self.fps}")

    def as_json(self) -> dict[str, Any]:
        """JSON-ready data; `settings_from_json` reads it back."""
        return asdict(self)

    def built_method(self) -> Method:
        """The method itself."""
        return from_json(dict(self.method))

    def built_store(self) -> Store | None:
        """The store itself."""
        return None if self.store is None else Store(**self.store)

    def difference(self, other: Settings) -> str | None:
        """The first setting that differs, in words; None where pictures of both belong together.

        A revision that is not known yet differs from none.
        """
        mine, others = self.as_json(), other.as_json()
        for name, value in mine.items():
            unknown = name == "revision" and None in (value, others[name])
            if value != others[name] and not unknown:
                return f"{name} is {json.dumps(others[name])} there and {json.dumps(value)} here"
        return None


def settings_from_json(data: dict[str, Any]) -> Settings:
    """The settings that `Settings.as_json` gave."""
    return Settings(**data)


def file_of(item: Item, format: str) -> str:
    """Where an item lies, relative to the job's folder."""
    return str(Path("images") / f"{item.stem}.{format}")
