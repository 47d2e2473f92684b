"""Open-Sora's mask strategy: which latent frames of a video are given by reference images or videos.

A strategy is text, entries with `;` between, each `loop,reference,reference_start,target_start,length,edit` with the
defaults 0,0,0,0,1,0: in loop `loop`, `length` latent frames of reference number `reference`, from `reference_start` on,
stand at `target_start` of the video. Negative starts count from the end. `edit` is 0 for frames to keep, and up to 1
for frames that join the denoising at time `edit` (1 is pure noise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

FIELDS = ("loop", "reference", "reference_start", "target_start", "length", "edit")
ALIGN = 5
"""Latent frames of a full clip of the autoencoder; the official sampler lets references start there only."""


@dataclass(frozen=True)
class Entry:
    """One entry of a mask strategy; starts and `length` are in latent frames."""

    loop: int = 0
    reference: int = 0
    reference_start: int = 0
    target_start: int = 0
    length: int = 1
    edit: float = 0.0


def parse(strategy: str) -> list[Entry]:
    """The entries of a strategy; none of an empty text.

    Raises `ValueError` with the position of what does not parse.
    """
    entries = []
    position = 1
    for number, text in enumerate(strategy.split(";") if strategy.strip() else [], start=1):
        entries.append(_parse_entry(strategy, text, number, position))
        position += len(text) + 1
    return entries


def _parse_entry(strategy: str, text: str, number: int, position: int) -> Entry:
    values: dict[str, float] = {}
    parts = text.split(",")
    if len(parts) > len(FIELDS):
        raise ValueError(
            f"mask strategy {strategy!r}: entry {number} at character {position} has {len(parts)} values, at most"
            f" {len(FIELDS)} are allowed: {','.join(FIELDS)}"
        )
    for field, part in zip(FIELDS, parts, strict=False):
        try:
            value = float(part) if field == "edit" else int(part)
        except ValueError:
            value = None
        if value is None or not _allowed(field, value):
            raise ValueError(
                f"mask strategy {strategy!r}: {field} of entry {number}, at character {position}, must be"
                f" {_meaning(field)}, got {part!r}"
            )
        values[field] = value
        position += len(part) + 1
    return Entry(**values)  # type: ignore[arg-type]


def _allowed(field: str, value: float) -> bool:
    if field == "edit":
        return 0 <= value <= 1
    least = {"loop": 0, "reference": 0, "length": 1}.get(field)
    return least is None or value >= least


def _meaning(field: str) -> str:
    least = {"loop": 0, "reference": 0, "length": 1}.get(field)
    if field == "edit":
        return "a number in [0, 1]"
    return "a whole number" + (f", at least {least}" if least is not None else "")


def apply(
    entries: Sequence[Entry],
    latents: torch.Tensor,
    references: Sequence[torch.Tensor],
    loop: int,
    align: int | None = ALIGN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents `(C, T, H, W)` with the references of this loop in their places, and the mask `(T,)` on the CPU.

    The mask is 1 for frames to generate, else the entry's `edit`. `references` are latents `(C, T', H, W)`; an entry
    takes no more frames than there are. With `align`, starts are snapped to a multiple of it.
    Raises `ValueError` for a reference that is not there or of another size, and for starts outside.
    """
    latents = latents.clone()
    frames = latents.shape[1]
    mask = torch.ones(frames)
    for entry in entries:
        if entry.loop != loop:
            continue
        if entry.reference >= len(references):
            raise ValueError(f"{entry} asks for reference {entry.reference}, but there are {len(references)}")
        reference = references[entry.reference]
        if reference.shape[-2:] != latents.shape[-2:]:
            raise ValueError(
                f"reference {entry.reference} has {tuple(reference.shape[-2:])} latent cells, the video"
                f" {tuple(latents.shape[-2:])}"
            )
        source = _start("reference_start", entry.reference_start, reference.shape[1], align)
        target = _start("target_start", entry.target_start, frames, align)
        length = min(entry.length, frames - target, reference.shape[1] - source)
        latents[:, target : target + length] = reference[:, source : source + length]
        mask[target : target + length] = entry.edit
    return latents, mask


def _start(name: str, start: int, frames: int, align: int | None) -> int:
    if not -frames <= start < frames:
        raise ValueError(f"{name} {start} of the mask strategy is outside of {frames} latent frames")
    start %= frames
    if align is None:
        return start
    multiple, rest = divmod(start, align)
    if rest > align / 2 and multiple < frames // align - 1:
        multiple += 1
    return multiple * align
