"""The training loop that every stage shares: schedule, EMA, checkpoints, loss log, progress bar."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns.

    It ends after `steps`, or after `minutes` of training where that comes first; `progress` runs from 0 to 1 by
    whichever is further. On a CPU these are minutes of its threads' own time, which does not run while other programs
    have the processor. With `minutes` the learning rates depend on the machine's speed: the loss log
    holds what they were.
    """

    steps: int
    minutes: float | None = None
    rate: float = 1e-3
    warm_up: int = 200
    decay: float = 0.4
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    save_every: int = 500

    def progress(self, step: int, seconds: float) -> float:
        """Share of the stage that is done after `step` steps and `seconds` of training, 0 to 1."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def rate_at(self, step: int, progress: float) -> float:
        """Learning rate: linear warm-up, level, then in the last part `decay` a straight line to zero."""
        return self.rate * min(1.0, (step + 1) / self.warm_up, (1 - progress) / self.decay)


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step. They depend on nothing before it, so a resumed run repeats an unbroken one."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name and renames it: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


@dataclass(frozen=True)
class Group:
    """Weights that learn alike: at `scale` times the schedule's rate, by Muon (matrices only) or else by AdamW.

    Muon (K. Jordan, 2024; as scaled by Liu et al., arXiv 2502.16982, section 2.2) orthogonalises the momentum of each
    matrix. On the miniatures it halves the time to a given loss.
    """

    weights: tuple[nn.Parameter, ...]
    scale: float = 1.0
    muon: bool = False

    def optimiser(self, schedule: Schedule) -> torch.optim.Optimizer:
        """Its optimiser."""
        rate, decay = schedule.rate * self.scale, schedule.weight_decay
        if self.muon:
            scaled = "match_rms_adamw"
            return torch.optim.Muon(self.weights, lr=rate, weight_decay=decay, momentum=0.95, adjust_lr_fn=scaled)
        return torch.optim.AdamW(self.weights, lr=rate, betas=(0.9, 0.99), weight_decay=decay)


class Trainer:
    """A module in training: its weights, their moving average, the optimisers and the count of steps and seconds.

    `loss(generator, progress)` returns the scalar loss of one step; all its random numbers come from `generator`.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[torch.Generator, float], Tensor],
        schedule: Schedule,
        folder: Path,
        name: str,
        seed: int = 0,
        groups: Sequence[Group] | None = None,
    ) -> None:
        self.module, self.loss, self.schedule, self.seed, self.name = module, loss, schedule, seed, name
        self.checkpoint, self.log = folder / f"{name}.pt", folder / f"{name}-loss.csv"
        self.weights = [weight for weight in module.parameters() if weight.requires_grad]
        self.average = [weight.detach().clone() for weight in self.weights]
        self.groups = groups or [Group(tuple(self.weights))]
        self.optimisers = [group.optimiser(schedule) for group in self.groups]
        self.step, self.seconds = 0, 0.0

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "weights": self.module.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.seed,
            "rng": torch.get_rng_state(),
        }

    def save(self) -> None:
        """Writes the checkpoint."""
        write_whole(self.checkpoint, lambda part: torch.save(self.state(), part))

    def resume(self) -> bool:
        """Takes up the checkpoint, and cuts the loss log back to it. False where there is none.

        Raises:
            ValueError: the checkpoint was made with another seed.
        """
        if not self.take_up():
            return False
        if self.log.exists():
            kept = [line for i, line in enumerate(self.log.read_text().splitlines()) if self._keeps(i, line)]
            write_whole(self.log, lambda part: part.write_text("".join(line + "\n" for line in kept)))
        return True

    def take_up(self) -> bool:
        """Reads the checkpoint, and changes no file. False where there is none; raises as `resume` does."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state["seed"] != self.seed:
            raise ValueError(
                f"{self.checkpoint} was trained with seed {state['seed']}, not {self.seed}: remove it first"
            )
        self.module.load_state_dict(state["weights"])
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["rng"])
        return True

    def _keeps(self, index: int, line: str) -> bool:
        return index == 0 or int(line.split(",")[0]) <= self.step

    def advance(self) -> tuple[float, float]:
        """One step. Returns its loss and its learning rate."""
        began = self._time()
        progress = self.schedule.progress(self.step, self.seconds)
        rate = self.schedule.rate_at(self.step, progress)
        for group, optimiser in zip(self.groups, self.optimisers, strict=True):
            for settings in optimiser.param_groups:
                settings["lr"] = rate * group.scale
        loss = self.loss(generator(self.seed, self.step), progress)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, self.schedule.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        keep = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [weight.detach() for weight in self.weights], 1 - keep)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.name}: the loss is {value} at step {self.step}")
        self.step += 1
        self.seconds += self._time() - began
        return value, rate

    def _time(self) -> float:
        on_cpu = self.weights[0].device.type == "cpu"
        return time.process_time() / torch.get_num_threads() if on_cpu else time.perf_counter()

    def done(self) -> bool:
        """Whether the schedule is at its end."""
        return self.schedule.progress(self.step, self.seconds) >= 1

    def run(self, every: int = 0, then: Callable[[int], None] | None = None) -> None:
        """Trains to the end of the schedule; calls `then(step)` each `every` steps; saves on the way and at the end."""
        self.module.train()
        for value, rate in self._shown():
            if self.step % 10 == 0:
                self._write(value, rate)
            if self.step % self.schedule.save_every == 0:
                self.save()
            if then and every and self.step % every == 0:
                then(self.step)
        self.save()

    def _shown(self) -> Iterator[tuple[float, float]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.2f} steps/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        smooth, window = math.nan, 50
        with Progress(*columns, refresh_per_second=2) as bar:
            task = bar.add_task(self.name, total=self.schedule.steps, completed=self.step, loss=smooth, speed=0.0)
            began, first = time.perf_counter(), self.step
            while not self.done():
                value, rate = self.advance()
                smooth = value if math.isnan(smooth) else smooth + (value - smooth) / window
                speed = (self.step - first) / (time.perf_counter() - began)
                progress = self.schedule.progress(self.step, self.seconds)
                bar.update(
                    task, completed=self.step, total=round(self.step / max(progress, 1e-6)), loss=smooth, speed=speed
                )
                if not bar.console.is_terminal and self.step % 100 == 0:
                    print(f"{self.name} {self.step} {progress:.1%} loss {smooth:.4f} {speed:.2f}/s", flush=True)
                yield value, rate

    def _write(self, value: float, rate: float) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.log.exists()
        with self.log.open("a", newline="") as file:
            rows = csv.writer(file)
            if fresh:
                rows.writerow(["step", "loss", "rate", "seconds"])
            rows.writerow([self.step, f"{value:.6f}", f"{rate:.3e}", f"{self.seconds:.1f}"])

    def averaged(self) -> dict[str, Tensor]:
        """The state dict with the moving average in place of the trained weights."""
        averages = dict(zip(map(id, self.weights), self.average, strict=True))
        state = dict(self.module.state_dict())
        for name, weight in self.module.named_parameters(remove_duplicate=False):  # a shared one under all its names
            if id(weight) in averages:
                state[name] = averages[id(weight)].detach().clone()
        return state
