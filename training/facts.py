"""What recipe.json of a finished model says of its training."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from training.loop import Trainer


def of_call(seed: int) -> dict[str, Any]:
    """The command, as it is to be repeated, the day and the seed."""
    return {
        "command": "python -m training.train " + " ".join(a for a in sys.argv[1:] if a != "--export-only"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": seed,
    }


def of_stage(name: str, trainer: Trainer) -> dict[str, Any]:
    """Steps, minutes and final loss of a stage."""
    return {
        f"{name}_steps": trainer.step,
        f"{name}_minutes": round(trainer.seconds / 60, 1),
        f"{name}_loss": last_loss(trainer),
    }


def of_machine(module: nn.Module) -> dict[str, Any]:
    """Where `module` was trained, and with what."""
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        + (torch.cuda.get_device_name() if next(module.parameters()).is_cuda else "cpu"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    }


def parameters(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Parameters of each part."""
    return {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}


def last_loss(trainer: Trainer, rows: int = 50) -> float | None:
    """Mean of the last `rows` losses of the log; None where there is no log."""
    if not trainer.log.exists():
        return None
    losses = [float(line.split(",")[1]) for line in trainer.log.read_text().splitlines()[1:][-rows:]]
    return round(sum(losses) / len(losses), 5) if losses else None
