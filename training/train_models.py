"""The commands that train the miniatures beside FLUX: python -m training.train pixart, dit or opensora."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from dita import miniature
from dita.miniature import classes, world
from training import SHIPPED, autoencoder, export, facts, recipe, text, video_autoencoder
from training import dit as small_dit
from training import opensora as small_opensora
from training import pixart as small_pixart
from training.denoising import NoiseLoss
from training.loop import Schedule, Trainer, write_whole
from training.pools import Pool
from training.stages import (
    Batch,
    Device,
    ExportOnly,
    Out,
    PoolSize,
    Rate,
    Run,
    SampleEvery,
    Seed,
    Threads,
    averaged,
    prepare,
    train,
)

Recipe = TypeVar("Recipe", bound=recipe.LatentRecipe)

Steps = Annotated[int, typer.Option(help="Steps of the transformer's training.")]
Minutes = Annotated[float | None, typer.Option(help="End the transformer's training after so many minutes.")]
Vae = Annotated[Path, typer.Option(help="Pipeline or run of flux whose autoencoder to use; a run keeps its first.")]


def pixart(
    steps: Steps = 40000,
    minutes: Minutes = None,
    batch: Batch = 16,
    rate: Rate = 1e-3,
    vae: Vae = SHIPPED / "shapes-flux",
    pool: PoolSize = 32768,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 0,
    sample_every: SampleEvery = 1000,
    run: Run = Path("runs/shapes-pixart"),
    out: Out = SHIPPED / "shapes-pixart",
    export_only: ExportOnly = False,
) -> None:
    """Trains shapes-pixart (text encoder, then both) on the autoencoder of shapes-flux; writes its diffusers folder.

    A second call with the same --run goes on where the first was stopped.
    """
    prepare(threads, device)
    kept = kept_autoencoder(run, vae).to(device)
    model = small_pixart.build(seed).to(device)
    taught = teach(text.T5Reader(model.t5).to(device), text.of_scenes, run, seed, export_only)
    how = sized(recipe.NoiseRecipe(pool=pool), batch)
    drawn = pools(small_pixart.pool, kept, how, seed, run, export_only)
    trainer = Trainer(
        model,
        NoiseLoss(model, drawn, how),
        Schedule(steps, minutes, rate=rate),
        run,
        "noise",
        seed,
        small_pixart.groups(model),
    )
    captions = world.prompts(32, seed, split="held-out", kinds=tuple(world.KINDS))

    def show() -> Image.Image:
        pipe = small_pixart.pipeline(averaged(trainer, model), kept)
        return sheet(pipe, captions, seed, "shapes-pixart")

    train(trainer, export_only, sample_every, show)
    parts = {"transformer": model.transformer, "text_encoder": model.t5, "vae": kept}
    found = told_by(trainer, how, parts) | taught
    finish(small_pixart.pipeline(averaged(trainer, model), copy.deepcopy(kept)), out, found)


def dit(
    steps: Steps = 40000,
    minutes: Minutes = None,
    batch: Batch = 16,
    rate: Rate = 1e-3,
    vae: Vae = SHIPPED / "shapes-flux",
    pool: PoolSize = 32768,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 0,
    sample_every: SampleEvery = 1000,
    run: Run = Path("runs/shapes-dit"),
    out: Out = SHIPPED / "shapes-dit",
    export_only: ExportOnly = False,
) -> None:
    """Trains shapes-dit on the autoencoder of shapes-flux and writes its diffusers folder.

    A second call with the same --run goes on where the first was stopped.
    """
    prepare(threads, device)
    kept = kept_autoencoder(run, vae).to(device)
    model = small_dit.build(seed).to(device)
    how = sized(recipe.NoiseRecipe(pool=pool), batch)
    drawn = pools(small_dit.pool, kept, how, seed, run, export_only)
    trainer = Trainer(
        model,
        NoiseLoss(model, drawn, how),
        Schedule(steps, minutes, rate=rate),
        run,
        "noise",
        seed,
        small_dit.groups(model),
    )
    names = classes.prompts(32, seed)

    def show() -> Image.Image:
        return sheet(small_dit.pipeline(averaged(trainer, model), kept), names, seed, "shapes-dit")

    train(trainer, export_only, sample_every, show)
    pipe = small_dit.pipeline(averaged(trainer, model), copy.deepcopy(kept))
    found = told_by(trainer, how, {"transformer": pipe.transformer, "vae": kept})
    finish(pipe, out, found, {"id2label": small_dit.id2label()})


def opensora(
    steps: Steps = 40000,
    minutes: Minutes = None,
    batch: Annotated[int, typer.Option(help="Clips a step.")] = 8,
    rate: Rate = 1e-3,
    vae: Vae = SHIPPED / "shapes-flux",
    vae_steps: Annotated[int, typer.Option(help="Steps of the temporal autoencoder's training.")] = 3000,
    vae_minutes: Annotated[float | None, typer.Option(help="End it after so many minutes.")] = None,
    pool: Annotated[int, typer.Option(help="Clips to encode.")] = 8192,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 0,
    sample_every: SampleEvery = 1000,
    run: Run = Path("runs/shapes-opensora"),
    out: Out = SHIPPED / "shapes-opensora",
    export_only: ExportOnly = False,
) -> None:
    """Trains shapes-opensora (temporal autoencoder, text encoder, then transformer and text encoder) on clips.

    The 2D part of its autoencoder is that of shapes-flux. A second call with the same --run goes on where the first was
    stopped.
    """
    prepare(threads, device)
    video = video_autoencoder.build(kept_autoencoder(run, vae), seed).to(device)
    count = recipe.VideoVaeRecipe().clips
    frames = video_autoencoder.frames_pool(video, count, seed * 10_000_019 + 1, run / f"frames-{count}.pt")
    temporal = video_autoencoder.trainer(
        video, frames, Schedule(vae_steps, vae_minutes, rate=2e-3, warm_up=50), run, seed
    )
    temporal.resume()
    if not export_only:
        temporal.run()
    video_autoencoder.finish(video, temporal, frames)
    model = small_opensora.build(seed).to(device)
    taught = teach(
        text.T5Reader(model.t5, small_opensora.SIZES).to(device), small_opensora.of_clips, run, seed, export_only
    )
    how = recipe.LatentRecipe(phases=(recipe.Phase(1.0, recipe.PICTURE, batch),), pool=pool)
    clips = {}
    if not export_only:
        clips[recipe.PICTURE] = small_opensora.pool(video, pool, seed * 10_000_019 + 2, run / f"pool-{pool}.pt")
    trainer = Trainer(
        model,
        small_opensora.ClipLoss(model, clips, how),
        Schedule(steps, minutes, rate=rate),
        run,
        "flow",
        seed,
        small_opensora.groups(model),
    )
    captions = miniature.prompts("shapes-opensora", 8, seed)

    def show() -> Image.Image:
        pipe = small_opensora.pipeline(averaged(trainer, model), video)
        made = export.sample(pipe, captions, seed=seed, call=without_steps("shapes-opensora"))
        return export.grid([frame for clip in made for frame in clip], recipe.FRAMES)

    train(trainer, export_only, sample_every, show)
    pipe = small_opensora.pipeline(averaged(trainer, model), copy.deepcopy(video))
    parts = {"transformer": pipe.transformer, "text_encoder": pipe.text_encoder, "vae": video}
    unseen = video_autoencoder.sample_clips(16, seed + 2, "held-out")
    found = {
        **told_by(trainer, how, parts),
        **taught,
        **facts.of_stage("temporal", temporal),
        "vae_psnr_db": round(video_autoencoder.psnr(video, unseen), 2),
    }
    finish(pipe, out, found)


def kept_autoencoder(run: Path, source: Path) -> AutoencoderKL:
    """The autoencoder of this run: that of `source`, with its shift inside, at the run's first call.

    The run keeps its copy: pools, checkpoints and exports belong to one autoencoder, whatever becomes of `source`.
    """
    if not (run / "vae").is_dir():
        try:
            vae = autoencoder.with_shift_inside(autoencoder.load(source))
        except FileNotFoundError as error:
            raise typer.BadParameter(str(error), param_hint="--vae") from error
        write_whole(run / "vae", vae.save_pretrained)
    return autoencoder.load(run)


def sized(how: Recipe, batch: int) -> Recipe:
    """The recipe with `batch` samples a step in its last phase, and in proportion before."""
    last = how.phases[-1].batch
    return replace(how, phases=tuple(replace(phase, batch=phase.batch * batch // last) for phase in how.phases))


def pools(
    make: Callable[[AutoencoderKL, int, int, int, Path], Pool],
    vae: AutoencoderKL,
    how: recipe.LatentRecipe,
    seed: int,
    run: Path,
    export_only: bool,
) -> dict[int, Pool]:
    """The pool of each size of picture; none where nothing is to be trained."""
    sides = [] if export_only else sorted({phase.side for phase in how.phases})
    return {
        side: make(vae, how.pool, side, seed * 10_000_019 + side, run / f"pool-{side}px-{how.pool}.pt")
        for side in sides
    }


def sheet(pipe: Any, prompts: list[str], seed: int, name: str) -> Image.Image:
    """A grid of pictures at 28 steps, called as the finished model `name` is."""
    return export.grid(export.sample(pipe, prompts, seed=seed, call=without_steps(name)), 8, zoom=2)


def told_by(trainer: Trainer, how: recipe.LatentRecipe, parts: dict[str, nn.Module]) -> dict[str, Any]:
    """The facts of the transformer's training, for recipe.json."""
    return {
        **facts.of_call(trainer.seed),
        trainer.name: asdict(how),
        **facts.of_stage(trainer.name, trainer),
        "parameters": facts.parameters(parts),
        **facts.of_machine(trainer.module),
    }


def finish(pipe: Any, out: Path, found: dict[str, Any], index: dict[str, Any] | None = None) -> None:
    """Writes the folder and says how large it is."""
    export.write_folder(pipe, out, found, index)
    typer.echo(f"{out}: {export.mebibytes(out):.1f} MiB")


def teach(reader: text.T5Reader, told: text.Told, run: Path, seed: int, export_only: bool) -> dict[str, Any]:
    """Teaches the T5 of `reader`, the model's own, its language; returns the facts."""
    how = recipe.TextRecipe()
    schedule = Schedule(how.steps, rate=2e-3, warm_up=50)
    trainer = Trainer(
        reader, lambda random, _: text.t5_loss(reader, told, how.batch, random), schedule, run, "text", seed
    )
    trainer.resume()
    if not export_only:
        trainer.run()
    reader.load_state_dict(trainer.averaged())
    return {
        "text_steps": trainer.step,
        "text_minutes": round(trainer.seconds / 60, 1),
        "text_accuracy": round(text.t5_accuracy(reader, told, 512, seed + 3), 4),
    }


def without_steps(name: str) -> dict[str, Any]:
    """The arguments of the finished model's calls, but the number of steps."""
    return {key: value for key, value in miniature.defaults(name).items() if key != "num_inference_steps"}
