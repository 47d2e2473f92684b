"""Command line: python -m dita.miniature.train flux."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL

from dita.miniature import autoencoder, export, facts, flow, recipe, text, train_evaluators, train_models, world
from dita.miniature.loop import Schedule, Trainer, write_whole

app = typer.Typer(add_completion=False, help="Train the miniature models that dita ships.")
SHIPPED = Path(__file__).parent / "shapes-flux"


@app.callback()
def main() -> None:
    """Train the miniature models that dita ships."""


@app.command()
def flux(
    steps: Annotated[int, typer.Option(help="Steps of the flow training.")] = 40000,
    minutes: Annotated[float | None, typer.Option(help="End the flow training after so many minutes.")] = None,
    batch: Annotated[int, typer.Option(help="Pictures a step at the native size; twice as many at half of it.")] = 16,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    vae_steps: Annotated[int, typer.Option(help="Steps of the autoencoder's training.")] = 3000,
    vae_minutes: Annotated[float | None, typer.Option(help="End it after so many minutes.")] = None,
    pool: Annotated[int, typer.Option(help="Drawings to encode for each size.")] = 32768,
    seed: Annotated[int, typer.Option(help="Seed of weights, drawings and noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's own choice.")] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the transformer.")] = False,
    sample_every: Annotated[int, typer.Option(help="Steps between sample grids.")] = 1000,
    run: Annotated[Path, typer.Option(help="Folder of checkpoints, logs and samples.")] = Path("runs/shapes-flux"),
    out: Annotated[Path, typer.Option(help="Folder of the finished pipeline.")] = SHIPPED,
    export_only: Annotated[bool, typer.Option("--export-only", help="Write the folder from the checkpoint.")] = False,
) -> None:
    """Trains shapes-flux (autoencoder, then transformer and text encoders) and writes its diffusers folder.

    A second call with the same --run goes on where the first was stopped.
    """
    if threads:
        torch.set_num_threads(threads)
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r}: choose cpu or cuda")
    vae_trainer = autoencoder.trainer(run, Schedule(vae_steps, vae_minutes, rate=2e-3, warm_up=50), seed, device)
    resumed = vae_trainer.resume()
    if not export_only:
        vae_trainer.run()
    elif not resumed:
        raise typer.BadParameter(f"{vae_trainer.checkpoint} does not exist: train first", param_hint="--export-only")
    vae = autoencoder.finished(vae_trainer, seed)

    phases = recipe.FlowRecipe().phases
    how = recipe.FlowRecipe(
        phases=tuple(replace(phase, batch=phase.batch * batch // phases[-1].batch) for phase in phases), pool=pool
    )
    pools = {}
    if not export_only:
        for side in sorted({phase.side for phase in how.phases}):
            file = run / f"pool-{side}px-{pool}-vae-{vae_trainer.step}.pt"
            pools[side] = flow.pool(vae, pool, side, seed * 10_000_019 + side, file)
    model = flow.build(seed).to(device)
    reader = text.Reader(model.t5, model.clip).to(device)
    text_trainer = text_encoders_trainer(reader, run, seed)
    text_trainer.resume()
    if not export_only:
        text_trainer.run()
    reader.load_state_dict(text_trainer.averaged())  # the encoders are the model's own
    read = text.accuracy(reader, 512, seed + 3)
    loss = flow.FlowLoss(model, pools, how, compiled)
    trainer = Trainer(model, loss, Schedule(steps, minutes, rate=rate), run, "flow", seed, flow.groups(model))
    resumed = trainer.resume()
    if export_only and not resumed:
        raise typer.BadParameter(f"{trainer.checkpoint} does not exist: train first", param_hint="--export-only")

    captions = world.prompts(32, seed, split="held-out", kinds=tuple(world.KINDS))

    def show(step: int) -> None:
        call = {"max_sequence_length": recipe.TEXT_TOKENS}
        pictures = export.sample(export.pipeline(averaged(trainer), vae), captions, seed=seed, call=call)
        file = run / "samples" / f"{step:06d}.png"
        write_whole(file, lambda part: export.grid(pictures, 8, zoom=2).save(part, format="png"))

    if not export_only:
        trainer.run(sample_every, show)
        show(trainer.step)
    found = report(trainer, vae_trainer, vae, seed, asdict(how)) | {
        "text_steps": text_trainer.step,
        "text_minutes": round(text_trainer.seconds / 60, 1),
        "text_accuracy": {"t5": round(read[0], 4), "clip": round(read[1], 4)},
    }
    export.write_folder(export.pipeline(averaged(trainer), copy.deepcopy(vae)), out, found)
    typer.echo(f"{out}: {export.mebibytes(out):.1f} MiB")


def text_encoders_trainer(reader: text.Reader, run: Path, seed: int) -> Trainer:
    """The trainer of the text encoders and the heads that read from them."""
    how = recipe.TextRecipe()
    schedule = Schedule(how.steps, rate=2e-3, warm_up=50)
    return Trainer(reader, lambda random, _: text.loss(reader, how.batch, random), schedule, run, "text", seed)


def averaged(trainer: Trainer) -> flow.Flux:
    """A copy of the models with their averaged weights."""
    assert isinstance(trainer.module, flow.Flux)
    model = copy.deepcopy(trainer.module).eval()
    model.load_state_dict(trainer.averaged())
    return model.requires_grad_(False)


def report(
    trainer: Trainer, vae_trainer: Trainer, vae: AutoencoderKL, seed: int, how: dict[str, Any]
) -> dict[str, Any]:
    """The facts of the run, for recipe.json."""
    model = trainer.module
    assert isinstance(model, flow.Flux)
    parts = {"transformer": model.transformer, "text_encoder": model.clip, "text_encoder_2": model.t5, "vae": vae}
    return {
        **facts.of_call(seed),
        "flow": how,
        **facts.of_stage("flow", trainer),
        **facts.of_stage("vae", vae_trainer),
        "vae_psnr_db": round(autoencoder.psnr(vae, world.pictures(256, seed + 2)[0]), 2),
        "parameters": facts.parameters(parts),
        **facts.of_machine(model),
    }


for command in (train_models.pixart, train_evaluators.judge, train_evaluators.clip, train_evaluators.reward):
    app.command()(command)

if __name__ == "__main__":
    app()
