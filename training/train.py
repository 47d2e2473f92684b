"""Command line: python -m training.train flux."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from diffusers import AutoencoderKL
from PIL import Image

from dita.miniature import world
from training import SHIPPED, autoencoder, export, facts, flow, recipe, stages, text, train_evaluators, train_models
from training.loop import Schedule, Trainer

app = typer.Typer(add_completion=False, help="Train the miniature models that dita ships.")


@app.callback()
def main() -> None:
    """Train the miniature models that dita ships."""


@app.command()
def flux(
    steps: Annotated[int, typer.Option(help="Steps of the flow training.")] = 40000,
    minutes: Annotated[float | None, typer.Option(help="End the flow training after so many minutes.")] = None,
    batch: stages.Batch = 16,
    rate: stages.Rate = 1e-3,
    vae_steps: Annotated[int, typer.Option(help="Steps of the autoencoder's training.")] = 3000,
    vae_minutes: Annotated[float | None, typer.Option(help="End it after so many minutes.")] = None,
    pool: stages.PoolSize = 32768,
    seed: stages.Seed = 0,
    device: stages.Device = "cpu",
    threads: stages.Threads = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the transformer.")] = False,
    sample_every: stages.SampleEvery = 1000,
    run: stages.Run = Path("runs/shapes-flux"),
    out: stages.Out = SHIPPED / "shapes-flux",
    export_only: stages.ExportOnly = False,
) -> None:
    """Trains shapes-flux (autoencoder, then transformer and text encoders) and writes its diffusers folder.

    A second call with the same --run goes on where the first was stopped.
    """
    stages.prepare(threads, device)
    vae_trainer = autoencoder.trainer(run, Schedule(vae_steps, vae_minutes, rate=2e-3, warm_up=50), seed, device)
    stages.train(vae_trainer, export_only)
    vae = autoencoder.finished(vae_trainer, seed)

    how = train_models.sized(recipe.FlowRecipe(pool=pool), batch)
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
    captions = world.prompts(32, seed, split="held-out", kinds=tuple(world.KINDS))

    def show() -> Image.Image:
        call = {"max_sequence_length": recipe.TEXT_TOKENS}
        pipe = export.pipeline(stages.averaged(trainer, model), vae)
        return export.grid(export.sample(pipe, captions, seed=seed, call=call), 8, zoom=2)

    stages.train(trainer, export_only, sample_every, show)
    found = report(trainer, vae_trainer, vae, seed, asdict(how)) | {
        "text_steps": text_trainer.step,
        "text_minutes": round(text_trainer.seconds / 60, 1),
        "text_accuracy": {"t5": round(read[0], 4), "clip": round(read[1], 4)},
    }
    train_models.finish(export.pipeline(stages.averaged(trainer, model), copy.deepcopy(vae)), out, found)


def text_encoders_trainer(reader: text.Reader, run: Path, seed: int) -> Trainer:
    """The trainer of the text encoders and the heads that read from them."""
    how = recipe.TextRecipe()
    schedule = Schedule(how.steps, rate=2e-3, warm_up=50)
    return Trainer(reader, lambda random, _: text.loss(reader, how.batch, random), schedule, run, "text", seed)


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


COMMANDS: tuple[Callable[..., None], ...] = (
    train_models.pixart,
    train_models.dit,
    train_models.opensora,
    train_evaluators.judge,
    train_evaluators.clip,
    train_evaluators.reward,
)
for command in COMMANDS:
    app.command()(command)

if __name__ == "__main__":
    app()
