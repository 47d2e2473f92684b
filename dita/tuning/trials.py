"""Trials: methods tried on a few prompts, each judged by how far its latents end from the reference's."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dita.asking import asking, takes_classes
from dita.caching.attachment import disable, enable, summary
from dita.methods import Method
from dita.shapes import Kind, Shape
from dita.stores import Store

Reference = Literal["plain", "converged", "both"]
REFERENCES: tuple[Reference, ...] = ("plain", "converged", "both")
"""What to come near; `both` is the middle of the other two, where the sum of both squared errors is least."""
CONVERGED = 4
"""Steps of the converged run, for each of plain's."""
STEADY = 2 / 3
"""Share of the prompts that candidates are ranked by."""
SMALLEST = 1e-12
"""Mean square error that counts as none."""


@dataclass(frozen=True)
class Prompts:
    """Prompts with the seeds of their noise."""

    texts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def batches(self, size: int) -> list[Prompts]:
        """The same in pipeline calls of at most `size`."""
        return [Prompts(self.texts[i : i + size], self.seeds[i : i + size]) for i in range(0, len(self), size)]


@dataclass(frozen=True)
class Sampled:
    """What one method made of prompts.

    Attributes:
        latents: the final ones in 32 bits, (prompts, ...); of a pipeline that hands out none, its pictures.
        seconds: of all pipeline calls, each transformer call counted with the median of its kind: what disturbs single
            calls is left out.
        shape: of the first transformer call.
        call: seconds of a full transformer call for each prompt; None if no step was full.
    """

    latents: NDArray[np.float32]
    seconds: float
    shape: Shape | None
    call: float | None = None


@dataclass
class Model:
    """A pipeline, and how it is called. What was enabled on it is disabled."""

    pipe: Any
    arguments: dict[str, Any]
    steps: int
    batch: int = 1
    store: Store | None = None

    def sample(self, method: Method, prompts: Prompts, *, steps: int | None = None) -> Sampled:
        """Runs a method on prompts, and leaves the pipeline plain."""
        made, seconds, call, shape = [], 0.0, 0.0, None
        enable(self.pipe, method, store=self.store, on_nan="warn")
        try:
            for part in prompts.batches(self.batch):
                started = time.perf_counter()
                out = self._call(part, steps or self.steps, "np" if takes_classes(self.pipe) else "latent")
                made.append(torch.as_tensor(out).float().cpu().numpy())  # nothing is outstanding
                taken = time.perf_counter() - started
                found = summary(self.pipe, show=False)
                shape = found.shape if shape is None else shape
                calls = {kind.value: values for kind, values in found.seconds.items() if values}
                seconds += steadied(taken, calls)
                call += float(np.median(calls.get(Kind.FULL.value, [0.0])))
        finally:
            disable(self.pipe)
        return Sampled(np.concatenate(made), seconds, shape, call / len(prompts) or None)

    def pictures(self, prompts: Prompts, steps: int) -> list[NDArray[np.uint8]]:
        """The plain pipeline's pictures (H, W, 3), or clips (T, H, W, 3), of one call."""
        made = self._call(prompts, steps, "np")
        return [(np.asarray(one) * 255).round().clip(0, 255).astype(np.uint8) for one in made]

    def _call(self, prompts: Prompts, steps: int, output_type: str) -> Any:
        out = self.pipe(
            **asking(self.pipe, prompts.texts),
            num_inference_steps=steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in prompts.seeds],
            output_type=output_type,
            **self.arguments,
        )
        return out.images if hasattr(out, "images") else out.frames


@dataclass(frozen=True)
class Trial:
    """How a method did on the prompts of calibration.

    Attributes:
        seconds: of all its pipeline calls; a first guess, which is measured again for those that are in the end chosen.
        errors: by reference, the mean square error of each prompt's final latents.
        call: seconds of its full transformer calls, as in `Sampled`: the measure of how busy the machine was.
    """

    method: Method
    seconds: float
    errors: dict[str, tuple[float, ...]]
    call: float | None = None

    def error(self, reference: str) -> float:
        """The geometric mean over the steady prompts: the mean of their PSNR in decibels, turned back.

        A picture that goes another way altogether says little of how near the others are, and as much as all of them
        together; so the worst third is left out.
        """
        errors = self.errors[reference]
        if not all(map(math.isfinite, errors)):
            return math.inf  # broken numbers are no picture at all
        logs = [math.log(max(errors[number], SMALLEST)) for number in steady(errors)]
        return math.exp(sum(logs) / len(logs))

    def paced(self, call: float | None) -> Trial:
        """The trial as it would have been on a machine on which a full transformer call takes `call` seconds."""
        if not call or not self.call:
            return self
        return dataclasses.replace(self, seconds=at_pace(self.seconds, self.call, call), call=call)


def at_pace(seconds: float, call: float | None, wanted: float | None) -> float:
    """Seconds of a run whose full transformer calls took `call`, as if they had taken `wanted`; None is unknown."""
    return seconds * wanted / call if call and wanted else seconds


def steadied(seconds: float, calls: Mapping[str, Sequence[float]]) -> float:
    """Seconds of a run, as if each of its transformer calls had taken the median of its kind."""
    return seconds + sum(len(values) * float(np.median(values)) - sum(values) for values in calls.values())


def steady(errors: Sequence[float]) -> list[int]:
    """The numbers of the two thirds of prompts that are nearest to the reference."""
    kept = math.ceil(len(errors) * STEADY)
    return sorted(sorted(range(len(errors)), key=lambda number: errors[number])[:kept])


def squared_errors(latents: NDArray[Any], reference: NDArray[Any]) -> tuple[float, ...]:
    """The mean square error of each sample, (N, ...) arrays; infinite where numbers are broken."""
    difference = (latents.astype(np.float64) - reference.astype(np.float64)).reshape(len(latents), -1)
    means = np.square(difference).mean(axis=1)
    return tuple(float(value) if math.isfinite(value) else math.inf for value in means)


@dataclass
class Bench:
    """Trials of methods on one set of prompts.

    Attributes:
        references: the final latents of the plain pipeline and, where asked for, of many more steps and of both.
        known: the trials so far, by method.
        call: seconds of a full transformer call of the plain pipeline, to which the trials' seconds are brought.
    """

    model: Model
    prompts: Prompts
    references: dict[str, NDArray[np.float32]]
    known: dict[Method, Trial] = field(default_factory=dict)
    call: float | None = None

    def add(self, method: Method, latents: NDArray[np.float32], seconds: float, call: float | None) -> Trial:
        """Judges what a method made of the prompts in so many `seconds`, with `call` of them for a full call."""
        errors = {name: squared_errors(latents, to) for name, to in self.references.items()}
        self.known[method] = Trial(method, seconds, errors, call).paced(self.call)
        return self.known[method]
