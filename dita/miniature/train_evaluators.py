"""The commands that train the networks behind the evaluators: python -m dita.miniature.train judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from dita.miniature.judge import training
from dita.miniature.loop import Schedule, Trainer

HERE = Path(__file__).parent


def judge(
    steps: Annotated[int, typer.Option(help="Training steps, at most.")] = 1800,
    minutes: Annotated[float | None, typer.Option(help="End the training after so many minutes.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and drawings.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's own choice.")] = 0,
    run: Annotated[Path, typer.Option(help="Folder of checkpoint and log.")] = Path("runs/shapes-judge"),
    out: Annotated[Path, typer.Option(help="Folder of the finished network.")] = HERE / "shapes-judge",
    export_only: Annotated[bool, typer.Option("--export-only", help="Write the folder from the checkpoint.")] = False,
) -> None:
    """Trains the judge's eyes and writes shapes-judge. A second call with the same --run goes on."""
    trainer = judge_trainer(run, Schedule(steps, minutes, rate=2e-3, warm_up=100, decay=0.5, ema=0.997, save_every=200), seed, threads)
    trainer.resume()
    if not export_only:
        trainer.run()


def judge_trainer(run: Path, schedule: Schedule, seed: int, threads: int = 0) -> Trainer:
    """The trainer of the judge's eyes."""
    if threads:
        torch.set_num_threads(threads)
    eyes = training.build(seed)
    return Trainer(eyes, lambda random, _: training.step_loss(eyes, random), schedule, run, "judge", seed)
