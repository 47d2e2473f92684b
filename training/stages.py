"""What all training commands share: their common options, and taking a stage from its checkpoint to its end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from PIL import Image
from torch import nn

from training.loop import Trainer, write_whole

Module = TypeVar("Module", bound=nn.Module)

Batch = Annotated[int, typer.Option(help="Pictures a step at the native size; twice as many at half of it.")]
Rate = Annotated[float, typer.Option(help="Highest learning rate.")]
PoolSize = Annotated[int, typer.Option(help="Drawings to encode for each size.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, drawings and noise.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's own choice.")]
SampleEvery = Annotated[int, typer.Option(help="Steps between sample grids.")]
Run = Annotated[Path, typer.Option(help="Folder of checkpoints, logs and samples.")]
Out = Annotated[Path, typer.Option(help="Folder of the finished pipeline.")]
ExportOnly = Annotated[bool, typer.Option("--export-only", help="Write the folder from the checkpoint.")]


def prepare(threads: int, device: str = "cpu") -> None:
    """Sets the threads. Raises `typer.BadParameter` for an unknown device."""
    if threads:
        torch.set_num_threads(threads)
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r}: choose cpu or cuda")


def train(
    trainer: Trainer, export_only: bool, sample_every: int = 0, show: Callable[[], Image.Image] | None = None
) -> None:
    """Takes up the run and trains it to its end, with pictures of `show` on the way; or only takes it up.

    Raises `typer.BadParameter` where there is nothing to take up and nothing is to be trained.
    """
    resumed = trainer.resume()
    if export_only:
        if not resumed:
            raise typer.BadParameter(f"{trainer.checkpoint} does not exist: train first", param_hint="--export-only")
        return
    if show is None:
        trainer.run()
        return
    draw = show

    def shown(step: int) -> None:
        picture = draw()
        file = trainer.checkpoint.parent / "samples" / f"{step:06d}.png"
        write_whole(file, lambda part: picture.save(part, format="png"))

    trainer.run(sample_every, shown)
    shown(trainer.step)


def averaged(trainer: Trainer, model: Module) -> Module:
    """A copy of the trainer's model with the averaged weights."""
    made = copy.deepcopy(model).eval()
    made.load_state_dict(trainer.averaged())
    return made.requires_grad_(False)
