"""Prompts, as options give them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dita.cli.options import is_number


def prompts_of(given: list[str], model: str) -> list[str]:
    """The prompts that `--prompts` names: a count, a file, or the texts themselves."""
    if not all(text.strip() for text in given):
        raise ValueError("--prompts is empty; give a count, a file with one a line, or a text")
    if len(given) > 1:
        return given
    text = given[0]
    if re.fullmatch(r"-?\d+", text):
        if int(text) < 1:
            raise ValueError(f"--prompts must be at least 1, got {text}")
        return _own_prompts(model, int(text))
    if Path(text).suffix.lower() in (".csv", ".jsonl", ".parquet", ".tsv"):
        from dita.generation.prompts import read

        return [prompt.text for prompt in read(text)]
    if Path(text).is_file():
        try:
            lines = [line.strip() for line in Path(text).read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise ValueError(f"prompt file {text!r} is no text in UTF-8") from None
        if not any(lines):
            raise ValueError(f"prompt file {text!r} is empty; give one prompt a line")
        return [line for line in lines if line]
    if is_number(text):
        raise ValueError(f"--prompts must be a whole number of prompts, a file or a text, got {text!r}")
    if Path(text).is_dir():
        raise ValueError(f"--prompts {text!r} is a folder; give a count, a file with one a line, or a text")
    if text.endswith(".txt") or (os.sep in text and " " not in text):
        raise ValueError(f"prompt file {text!r} does not exist; give a count, a file with one a line, or a text")
    return [text]


def _own_prompts(model: str, count: int) -> list[str]:
    """`count` prompts that `model` knows: of the bundled world, names of its classes, or realistic ones."""
    from dita import miniature, models, realistic_prompts

    if model in miniature.MINIATURES:
        return miniature.prompts(model, count)
    names = models.class_names(model)
    return realistic_prompts.texts(count) if names is None else realistic_prompts.class_prompts(names, count)
