"""Guidance by parts of a batch: what of a call's rows they are, and calls of which one half is computed (T-GATE)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """The parts that guidance makes of a transformer call: equal numbers of rows, the same latents in each.

    Attributes:
        guided: one under the prompts and one under the null prompt.
        perturbed: one whose self-attention is perturbed (PAG).
        required: the user says so, for a bare transformer: other rows are an error.
    """

    guided: bool = False
    perturbed: bool = False
    required: bool = False

    @property
    def count(self) -> int:
        return 1 + self.guided + self.perturbed

    def are_in(self, latents: Tensor) -> bool:
        """Whether `latents` are so many equal parts. Waits for the device. Raises `ValueError` where they had to be."""
        parts = latents.chunk(self.count) if len(latents) % self.count == 0 else ()
        equal = bool(parts) and all(torch.equal(parts[0], other) for other in parts[1:])
        if self.required and not equal:
            raise ValueError(
                f"guided_halves=True, but the latents of this call, {len(latents)} rows, are no two equal halves; pass"
                " torch.cat([latents, latents]), or enable without guided_halves"
            )
        return equal


APART = Parts()
"""Every row is a sample of its own."""

PartsOfRows = Callable[[int], Parts]
"""How many rows a call has -> their parts, as the pipeline that calls has it now."""


def parts_of_pipeline(pipe: Any, arguments: Mapping[str, Any]) -> PartsOfRows:
    """What a pipeline makes of the rows of its transformer's calls, by its class and the `arguments` of its own call.

    Asked for each call: a callback may switch guidance on or off. Rows that are not as many parts as the pipeline says
    are samples of their own.
    """
    given = {**arguments, **arguments.get("kwargs", {})}
    samples = _samples(given)

    def parts(rows: int) -> Parts:
        said = Parts(_is_guided(pipe, given, samples, rows), bool(_said(pipe, "do_perturbed_attention_guidance")))
        if rows % said.count or (samples is not None and rows != said.count * samples):
            return APART
        return said

    return parts


def _is_guided(pipe: Any, given: Mapping[str, Any], samples: int | None, rows: int) -> bool:
    """Whether both prompts are in a call: as a property of the pipeline says, or its arguments do."""
    said = _said(pipe, "do_classifier_free_guidance")
    if said is not None:
        return bool(said)
    if given.get("guidance_scale") is not None:
        return bool(float(given["guidance_scale"]) > 1)
    return samples is not None and rows == 2 * samples  # a scale that only the pipeline itself knows


def _said(pipe: Any, name: str) -> Any:
    """A property of a pipeline; None where its class has none, or nothing to say yet."""
    return getattr(pipe, name, None) if hasattr(type(pipe), name) else None


def _samples(given: Mapping[str, Any]) -> int | None:
    """Pictures, or videos, that a pipeline's call makes at once; None where its arguments don't tell."""
    for name in ("prompt", "prompt_embeds", "class_labels"):
        value = given.get(name)
        if value is not None:
            conditions = 1 if isinstance(value, str) else len(value)
            each = given.get("num_images_per_prompt") or given.get("num_videos_per_prompt") or 1
            return conditions * int(each)
    return None


def first_half(inputs: Any, rows: int) -> Any:
    """A call's arguments with those tensors halved that hold its `rows` samples, in dictionaries too."""
    if isinstance(inputs, Mapping):
        return {name: first_half(value, rows) for name, value in inputs.items()}
    if isinstance(inputs, Tensor) and inputs.ndim and len(inputs) == rows:
        return inputs[: rows // 2]
    return inputs


def twice(output: Any) -> Any:
    """A transformer's output, a tuple or diffusers' own, for both halves: guidance between equals changes nothing."""
    if isinstance(output, Tensor):
        return torch.cat([output, output])
    if isinstance(output, Mapping):  # diffusers' outputs are
        return type(output)(**{name: twice(value) for name, value in output.items()})
    return tuple(twice(value) for value in output) if isinstance(output, tuple) else output
