"""A hundred prompts of the kind that people write, for models that were not trained on the bundled world."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dita import columns

FILE = Path(__file__).with_suffix(".csv")
"""Columns `id`, `kind` and `prompt`; `dita generate --prompts` reads it too."""

KINDS = ("photograph", "face", "hands", "text", "counting", "relation", "style")


class RealisticPrompt(NamedTuple):
    """A prompt, what it is hard in, and the id that names it in files."""

    id: str
    kind: str
    text: str


@cache
def realistic_prompts() -> tuple[RealisticPrompt, ...]:
    """All of them. The kinds take turns, so that the first 14 hold two of each."""
    rows = (row for _, row in columns.rows(FILE, ("prompt", "id", "kind")))
    return tuple(RealisticPrompt(row["id"], row["kind"], row["prompt"]) for row in rows)


def texts(count: int) -> list[str]:
    """The first `count` prompts. Raises `ValueError` for more than there are."""
    known = realistic_prompts()
    if not 1 <= count <= len(known):
        raise ValueError(f"there are {len(known)} realistic prompts, got {count}; give a file for more")
    return [prompt.text for prompt in known[:count]]


def class_prompts(names: Sequence[str], count: int) -> list[str]:
    """`count` names of classes, spread evenly over `names`. Raises `ValueError` for more than there are."""
    known = list(dict.fromkeys(names))
    if not 1 <= count <= len(known):
        raise ValueError(f"the model knows {len(known)} names of classes, got {count}; give fewer prompts")
    return [known[number * len(known) // count] for number in range(count)]
