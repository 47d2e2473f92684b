"""The commands that train the miniatures beside FLUX: python -m dita.miniature.train pixart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from dita import miniature
from dita.miniature import autoencoder, export, facts, recipe, text, world
from dita.miniature import pixart as small_pixart
from dita.miniature.denoising import NoiseLoss
from dita.miniature.loop import Schedule, Trainer, write_whole

HERE = Path(__file__).parent
Module = TypeVar("Module", bound=nn.Module)

Steps = Annotated[int, typer.Option(help="Steps of the transformer's training.")]
Minutes = Annotated[float | None, typer.Option(help="End the transformer's training after so many minutes.")]
Batch = Annotated[int, typer.Option(help="Pictures a step at the native size; twice as many at half of it.")]
Rate = Annotated[float, typer.Option(help="Highest learning rate.")]
Vae = Annotated[Path, typer.Option(help="Pipeline or run of flux whose autoencoder to use; a run keeps its first.")]
PoolSize = Annotated[int, typer.Option(help="Drawings to encode for each size.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, drawings and noise.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's own choice.")]
SampleEvery = Annotated[int, typer.Option(help="Steps between sample grids.")]
Run = Annotated[Path, typer.Option(help="Folder of checkpoints, logs and samples.")]
Out = Annotated[Path, typer.Option(help="Folder of the finished pipeline.")]
ExportOnly = Annotated[bool, typer.Option("--export-only", help="Write the folder from the checkpoint.")]


def pixart(
    steps: Steps = 40000,
    minutes: Minutes = None,
    batch: Batch = 16,
    rate: Rate = 1e-3,
    vae: Vae = HERE / "shapes-flux",
    pool: PoolSize = 32768,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 0,
    sample_every: SampleEvery = 1000,
    run: Run = Path("runs/shapes-pixart"),
    out: Out = HERE / "shapes-pixart",
    export_only: ExportOnly = False,
) -> None:
    """Trains shapes-pixart (text encoder, then both) on the autoencoder of shapes-flux; writes its diffusers folder.

    A second call with the same --run goes on where the first was stopped.
    """
    prepare(threads, device)
    kept = kept_autoencoder(run, vae)
    how = sized(recipe.NoiseRecipe(pool=pool), batch)
    model = small_pixart.build(seed).to(device)
    taught = teach(text.T5Reader(model.t5).to(device), text.of_scenes, run, seed, export_only)
    pools = {}
    if not export_only:
        for side in sorted({phase.side for phase in how.phases}):
            pools[side] = small_pixart.pool(
                kept.to(device), pool, side, seed * 10_000_019 + side, run / f"pool-{side}px-{pool}.pt"
            )
    loss = NoiseLoss(model, pools, how)
    trainer = Trainer(model, loss, Schedule(steps, minutes, rate=rate), run, "noise", seed, small_pixart.groups(model))
    captions = world.prompts(32, seed, split="held-out", kinds=tuple(world.KINDS))
    call = without_steps("shapes-pixart")

    def show() -> Image.Image:
        pipe = small_pixart.pipeline(averaged(trainer, model), kept)
        return export.grid(export.sample(pipe, captions, seed=seed, call=call), 8, zoom=2)

    train(trainer, sample_every, show, export_only)
    parts = {"transformer": model.transformer, "text_encoder": model.t5, "vae": kept}
    found = {
        **facts.of_call(seed),
        "noise": asdict(how),
        **facts.of_stage("noise", trainer),
        **taught,
        "parameters": facts.parameters(parts),
        **facts.of_machine(model),
    }
    export.write_folder(small_pixart.pipeline(averaged(trainer, model), copy.deepcopy(kept)), out, found)
    typer.echo(f"{out}: {export.mebibytes(out):.1f} MiB")


def prepare(threads: int, device: str) -> None:
    """Sets the threads. Raises `typer.BadParameter` for an unknown device."""
    if threads:
        torch.set_num_threads(threads)
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r}: choose cpu or cuda")


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


def sized(how: recipe.NoiseRecipe, batch: int) -> recipe.NoiseRecipe:
    """The recipe with `batch` samples a step in its last phase, and in proportion before."""
    last = how.phases[-1].batch
    return replace(how, phases=tuple(replace(phase, batch=phase.batch * batch // last) for phase in how.phases))


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


def train(trainer: Trainer, sample_every: int, show: Callable[[], Image.Image], export_only: bool) -> None:
    """Takes up the run and trains it to its end, with pictures of `show` on the way; or only takes it up."""
    resumed = trainer.resume()
    if export_only:
        if not resumed:
            raise typer.BadParameter(f"{trainer.checkpoint} does not exist: train first", param_hint="--export-only")
        return

    def shown(step: int) -> None:
        sheet = show()
        file = trainer.checkpoint.parent / "samples" / f"{step:06d}.png"
        write_whole(file, lambda part: sheet.save(part, format="png"))

    trainer.run(sample_every, shown)
    shown(trainer.step)


def averaged(trainer: Trainer, model: Module) -> Module:
    """A copy of the trainer's model with the averaged weights."""
    made = copy.deepcopy(model).eval()
    made.load_state_dict(trainer.averaged())
    return made.requires_grad_(False)


def without_steps(name: str) -> dict[str, Any]:
    """The arguments of the finished model's calls, but the number of steps."""
    return {key: value for key, value in miniature.defaults(name).items() if key != "num_inference_steps"}
