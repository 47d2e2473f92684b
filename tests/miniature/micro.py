"""Sizes of the recipes that train in milliseconds, and what the tests of all families do with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from training import autoencoder, recipe, train
from training.loop import Trainer

MICRO_VAE = {"block_out_channels": [8, 8]}


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that all families share, small, and few pictures."""
    monkeypatch.setattr(recipe, "VAE", recipe.VAE | MICRO_VAE)
    monkeypatch.setattr(autoencoder, "MEASURED", 8)
    monkeypatch.setattr(recipe, "T5", recipe.T5 | {"num_layers": 1})
    monkeypatch.setattr(recipe.TextRecipe, "__init__", two_steps(recipe.TextRecipe.__init__))


def write_autoencoder(folder: Path, shift: float = 0.4) -> None:
    """An untrained autoencoder as a pipeline's folder has it, with a scale and a shift."""
    vae = autoencoder.build(seed=3)
    vae.register_to_config(shift_factor=shift, scaling_factor=0.7)
    vae.save_pretrained(folder / "vae")


def same_bits_after_a_break(make, folder: Path) -> None:
    """`make(folder)` gives a trainer of 4 steps: a run that is broken off ends as one that is not."""
    unbroken: Trainer = make(folder / "unbroken")
    unbroken.run()
    broken: Trainer = make(folder / "broken")
    broken.advance()
    broken.advance()
    broken.save()
    broken.advance()  # lost: it came after the checkpoint
    resumed: Trainer = make(folder / "broken")
    assert resumed.resume()
    assert resumed.step == 2
    resumed.run()
    assert resumed.step == unbroken.step == 4
    for mine, theirs in zip(resumed.averaged().values(), unbroken.averaged().values(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(resumed.weights, unbroken.weights, strict=True):
        assert torch.equal(mine, theirs)


def trained_by_command(place: Path, name: str, *options: str) -> None:
    """Runs `train NAME` for two steps into `place`/out, and its export a second time; on sizes made small before."""
    command = [name, "--steps", "2", "--batch", "2", "--pool", "4", "--vae", str(place / "flux"), "--threads", "1"]
    command += ["--run", str(place / "run"), "--out", str(place / "out"), *options]
    threads = torch.get_num_threads()
    for more in ([], ["--export-only"]):
        result = CliRunner().invoke(train.app, [*command, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    torch.set_num_threads(threads)


def two_steps(plain: Callable[..., None]) -> Callable[..., None]:
    """Another `__init__` of a recipe: two steps of two samples."""
    return lambda self: plain(self, steps=2, batch=2)
