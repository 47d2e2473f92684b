"""The commands that train the networks behind the evaluators: python -m training.train judge, clip or reward."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from torch import nn

from dita.miniature.judge.judge import Judge
from training import SHIPPED, export, facts
from training.alignment import clip as small_clip
from training.alignment import reward as small_reward
from training.judge import evaluation, training
from training.loop import Schedule, Trainer
from training.stages import ExportOnly, Threads, averaged, prepare, train

Steps = Annotated[int, typer.Option(help="Training steps.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and drawings.")]
Run = Annotated[Path, typer.Option(help="Folder of checkpoint and log.")]
Out = Annotated[Path, typer.Option(help="Folder of the finished network.")]


def judge(
    steps: Steps = 1800,
    seed: Seed = 0,
    threads: Threads = 0,
    run: Run = Path("runs/shapes-judge"),
    out: Out = SHIPPED / "shapes-judge",
    export_only: ExportOnly = False,
) -> None:
    """Trains the judge's eyes and writes shapes-judge, which holds shapes-features too.

    A second call with the same --run goes on where the first was stopped.
    """
    prepare(threads)
    eyes = training.build(seed)
    schedule = Schedule(steps, rate=2e-3, warm_up=100, decay=0.5, ema=0.997, save_every=200)
    trainer = Trainer(eyes, lambda random, _: training.step_loss(eyes, random), schedule, run, "judge", seed)
    train(trainer, export_only)
    eyes = averaged(trainer, eyes)
    judge = Judge(eyes)
    results = {
        "held_out_accuracy": _rounded(evaluation.accuracy(judge, 4096)),
        "damage_caught": _rounded(evaluation.strictness(judge, 256)),
    }
    training.write_folder(eyes, out, _facts(trainer, training.BATCH, eyes) | results)
    _say(out, results)


def clip(
    steps: Steps = 450,
    seed: Seed = 0,
    threads: Threads = 0,
    run: Run = Path("runs/shapes-clip"),
    out: Out = SHIPPED / "shapes-clip",
    export_only: ExportOnly = False,
) -> None:
    """Trains shapes-clip. A second call with the same --run goes on where the first was stopped."""
    prepare(threads)
    learner = small_clip.Learner(small_clip.build(seed))
    trainer = Trainer(learner, learner.loss, _attention_schedule(steps), run, "clip", seed, learner.groups())
    train(trainer, export_only)
    learner = averaged(trainer, learner)
    by_text, by_picture = small_clip.retrieval(learner.clip)
    results = {
        "held_out_top1_of_64": _rounded({"text of a picture": by_text, "picture of a text": by_picture}),
        "held_out_caption_over_perturbed": round(small_clip.preference(learner.clip), 4),
    }
    small_clip.write_folder(learner.clip, out, _facts(trainer, small_clip.BATCH, learner.clip) | results)
    _say(out, results)


def reward(
    steps: Steps = 1500,
    seeing_steps: Annotated[int, typer.Option(help="Steps of the first stage.")] = 2000,
    seed: Seed = 0,
    threads: Threads = 0,
    start: Annotated[Path, typer.Option(help="Run folder of clip, whose vision tower is the start.")] = Path(
        "runs/shapes-clip"
    ),
    run: Run = Path("runs/shapes-reward"),
    out: Out = SHIPPED / "shapes-reward",
    export_only: ExportOnly = False,
) -> None:
    """Trains shapes-reward: from the vision tower of shapes-clip, first to see, then to rank.

    A second call with the same --run goes on where the first was stopped.
    """
    prepare(threads)
    learner = small_reward.Learner(small_reward.build(seed))
    first = start / "clip.pt"
    if not first.is_file():
        raise typer.BadParameter(f"{first} does not exist: train clip first", param_hint="--start")
    learner.start_from_clip(torch.load(first, map_location="cpu", weights_only=True)["weights"])
    sight = nn.ModuleList([learner.reward.vision, learner.seeing_head])
    seeing = Schedule(seeing_steps, rate=1e-3, warm_up=50, decay=0.4, ema=0.99, save_every=100)
    groups = learner.groups(*sight)
    first_trainer = Trainer(sight, lambda random, _: learner.seeing_loss(random), seeing, run, "seeing", seed, groups)
    train(first_trainer, export_only)
    sight.load_state_dict(first_trainer.averaged())
    trainer = Trainer(learner, learner.loss, _attention_schedule(steps), run, "reward", seed, learner.groups())
    train(trainer, export_only)
    learner = averaged(trainer, learner)
    small_reward.fit_scale(learner.reward)
    results = {"held_out_pairwise": _rounded(small_reward.ranking(learner.reward))}
    stage = {"seeing_steps": first_trainer.step, "seeing_minutes": round(first_trainer.seconds / 60, 1)}
    found = _facts(trainer, small_reward.BATCH, learner.reward) | stage | results
    small_reward.write_folder(learner.reward, out, found)
    _say(out, results)


def _attention_schedule(steps: int) -> Schedule:
    return Schedule(steps, rate=1e-3, warm_up=100, decay=0.5, ema=0.995, save_every=100)


def _facts(trainer: Trainer, batch: int, network: nn.Module) -> dict[str, Any]:
    """What recipe.json says of a training."""
    return {
        **facts.of_call(trainer.seed),
        "steps": trainer.step,
        "batch": batch,
        "minutes": round(trainer.seconds / 60, 1),
        "loss": facts.last_loss(trainer),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, cpu",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, 4) for name, share in shares.items()}


def _say(out: Path, results: dict[str, Any]) -> None:
    typer.echo(f"{out}: {export.mebibytes(out):.1f} MiB, {results}")
