"""What `dita generate` costs beside the pipeline: its overhead, two processes against one, memory over many prompts.

    python benchmarks/generate.py              everything, some five minutes on two idle cores
    python benchmarks/generate.py --json       the same as JSON, and nothing else on the standard output
    python benchmarks/generate.py overhead     bare pipeline calls against the job, interleaved, the bundled shapes-flux
    python benchmarks/generate.py processes    seconds of one process and of two, a thread each; needs two idle cores
    python benchmarks/generate.py memory       memory after every thousand of 5,000 prompts, a tiny random FLUX

Beside seconds that passed stand those of this process's processors, which a busy machine lengthens less. The overhead
is that of the pictures themselves; what a job costs once (opening its folder, the weights' fingerprint) stands apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import psutil
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image

import dita
from dita import models
from dita.generation import runner
from dita.generation.job import Item, Settings, items
from dita.generation.progress import Progress
from dita.generation.prompts import Prompt
from dita.miniature import world


def settings(method: str, steps: int, call: dict[str, Any], *, exact: bool) -> Settings:
    return Settings(
        model="shapes-flux",
        method=dita.methods.parse(method).as_json(),
        steps=steps,
        dtype="float32",
        device="cpu",
        format="png",
        call=call,
        exact=exact,
    )


@dataclass(frozen=True)
class Seconds:
    """That passed, and of the processors."""

    passed: float
    worked: float

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.passed - other.passed, self.worked - other.worked)


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def timed(run: Callable[[], object]) -> Seconds:
    start = now()
    run()
    return now() - start


class Steady(Progress):
    """Times a job from its first call to its last file: what it costs once comes before."""

    spent = Seconds(0, 0)

    def start(self, total: int, worker: int = 0, workers: int = 1) -> None:
        self.spent = now()

    def stop(self) -> None:
        self.spent = now() - self.spent


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians over repeats of bare calls and jobs in turn; overheads are over the bare calls of the same repeat."""
    pipe, call = models.load("shapes-flux", "float32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    call.pop("num_inference_steps")
    found: dict[str, Any] = {"steps": arguments.steps, "images": arguments.images, "method": arguments.method}
    for batch in map(int, arguments.batches.split(",")):
        found[f"batch {batch}"] = overhead_at(pipe, call, batch, arguments)
    return found | {"the job around a pipeline that costs nothing, a picture": job_alone()}


def overhead_at(pipe: Any, call: dict[str, Any], batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    count, steps = arguments.images, arguments.steps
    todo = items([Prompt(f"{i:05d}", text) for i, text in enumerate(world.prompts(count, seed=0))], (0,))
    once: list[float] = []

    def bare() -> Seconds:
        if arguments.method != "plain":
            dita.enable(pipe, arguments.method)
        start = now()
        for first in range(0, count, batch):
            part: list[Item] = todo[first : first + batch]
            generators = [torch.Generator().manual_seed(item.noise_seed) for item in part]
            pipe([item.prompt for item in part], num_inference_steps=steps, generator=generators, **call)
        spent = now() - start
        dita.disable(pipe)
        return spent

    def job(exact: bool) -> Seconds:
        steady = Steady(quiet=True)
        with tempfile.TemporaryDirectory() as folder:
            whole = timed(
                lambda: runner.run(
                    settings(arguments.method, steps, call, exact=exact),
                    todo,
                    Path(folder) / "out",
                    batch_size=batch,
                    progress=steady,
                    load=lambda *_, **__: (pipe, {}),
                )
            )
        once.append((whole - steady.spent).passed)
        return steady.spent

    sides: dict[str, Callable[[], Seconds]] = {
        "bare calls": bare,
        "job, not exact": lambda: job(False),
        "job": lambda: job(True),
    }
    bare()
    measured: dict[str, list[Seconds]] = {name: [] for name in sides}
    for repeat in range(arguments.repeats):
        names = list(sides)
        for name in names[repeat % 3 :] + names[: repeat % 3]:
            measured[name].append(sides[name]())
        say(f"batch {batch}, repeat {repeat + 1} of {arguments.repeats}")
    base = measured["bare calls"]
    return {
        name: {
            "seconds a picture": median(one.passed for one in times) / count,
            "cpu seconds a picture": median(one.worked for one in times) / count,
            "overhead": quartiles([one.passed / other.passed - 1 for one, other in zip(times, base, strict=True)]),
            "cpu overhead": quartiles([one.worked / other.worked - 1 for one, other in zip(times, base, strict=True)]),
        }
        for name, times in measured.items()
    } | {"once for each job, seconds": median(once)}


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": middle, "from": low, "to": high}


def say(remark: str) -> None:
    print(remark, file=sys.stderr, flush=True)


def processes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Whole commands: both sides start Python and load the model, which is measured alone, too, by a job of one."""
    count, steps = arguments.shared, 2 * arguments.steps
    found: dict[str, Any] = {"images": count, "steps": steps, "method": arguments.method}
    prompts = world.prompts(count, seed=0)
    for name, launcher, made in (
        ("start", [sys.executable], 1),
        ("one", [sys.executable], count),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"], count),
    ):
        say(f"processes: {name}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "prompts.txt"
            file.write_text("\n".join(prompts[:made]))
            command = [*launcher, "-m", "dita", "generate", "--prompts", str(file), "--out", str(Path(folder) / "out")]
            command += ["--steps", str(steps), "--batch-size", "4"]
            start, worked = time.perf_counter(), _cpu_seconds_of_children()
            subprocess.run(
                [*command, "--method", arguments.method],
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            found[f"{name}, seconds"] = time.perf_counter() - start
            found[f"{name}, cpu seconds"] = _cpu_seconds_of_children() - worked
    start, one, two = (found[f"{name}, seconds"] for name in ("start", "one", "two"))
    found["speed-up of two"] = one / two
    found["speed-up of two, without the start"] = (one - start) / (two - start)
    return found


def _cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Free:
    """A pipeline that costs nothing: what is measured with it is the job itself."""

    components: ClassVar[dict[str, Any]] = {}

    def set_progress_bar_config(self, **config: Any) -> None:
        pass

    def __call__(
        self, prompt: list[str], num_inference_steps: int = 1, output_type: str = "", generator: Any = None
    ) -> Any:
        picture = Image.fromarray(world.draw(world.evaluation_scenes(1, 0, ("one",))[0]))
        return SimpleNamespace(images=[picture] * len(prompt))


def job_alone(count: int = 400) -> dict[str, float]:
    """Seconds of a picture of 64x64 pixels: encoding, syncing, listing; mostly in the thread that writes."""
    with tempfile.TemporaryDirectory() as folder:
        spent = timed(
            lambda: runner.run(
                settings("plain", 1, {}, exact=True),
                items([Prompt(f"{i:05d}", "a") for i in range(count)], (0,)),
                Path(folder) / "out",
                batch_size=4,
                progress=Progress(quiet=True),
                load=lambda *_, **__: (Free(), {}),
            )
        )
    return {"seconds": spent.passed / count, "cpu seconds": spent.worked / count}


class TinyFlux:
    """A random FLUX whose text is the hash of the prompt."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.pipe = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4, shift_factor=0.0).eval(),
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=24,
                pooled_projection_dim=12,
                axes_dims_rope=(4, 6, 6),
            ).eval(),
        )
        self.components = self.pipe.components

    def set_progress_bar_config(self, **config: Any) -> None:
        self.pipe.set_progress_bar_config(**config)

    def __call__(self, prompt: list[str], num_inference_steps: int = 1, generator: Any = None, **call: Any) -> Any:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in prompt]
        draws = [torch.randn(6, 24, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        embeds = torch.stack(draws)
        return self.pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=embeds[:, 0, :12],
            num_inference_steps=num_inference_steps,
            generator=generator,
            height=16,
            width=16,
            **{name: value for name, value in call.items() if name == "output_type"},
        )


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    held: list[float] = []
    done = 0

    class Watching(Progress):
        def advance(self, made: int = 0, failed: int = 0) -> None:
            nonlocal done
            done += made
            if done % 1000 == 0:
                held.append(psutil.Process().memory_info().rss / 2**20)
                say(f"memory: {done} of {arguments.prompts}")

    todo = items([Prompt(f"{i:05d}", f"prompt {i}") for i in range(arguments.prompts)], (0,))
    with tempfile.TemporaryDirectory() as folder:
        runner.run(
            settings("plain", 1, {}, exact=True),
            todo,
            Path(folder) / "out",
            batch_size=8,
            progress=Watching(quiet=True),
            load=lambda *_, **__: (TinyFlux(), {}),
        )
    grown = held[-1] - held[0] if held else 0.0
    return {"prompts": arguments.prompts, "MiB after every thousand": held, "grown from the first to the last": grown}


PARTS = {"memory": memory, "overhead": overhead, "processes": processes}
"""In this order, as memory wants a young process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on the standard output")
    parser.add_argument("--images", type=int, default=8, help="of each side of the overhead, and repeat")
    parser.add_argument("--steps", type=int, default=14, help="of the overhead; processes take twice as many")
    parser.add_argument("--batches", default="1,4", help="sizes of the overhead's calls")
    parser.add_argument("--repeats", type=int, default=9, help="of the overhead")
    parser.add_argument("--shared", type=int, default=48, help="pictures of one process, and of two")
    parser.add_argument("--method", default="plain")
    parser.add_argument("--prompts", type=int, default=5000, help="of memory")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    found: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "load at the start": os.getloadavg(),
            "threads": arguments.threads,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
    }
    found |= {name: part(arguments) for name, part in PARTS.items() if not arguments.parts or name in arguments.parts}
    found["seconds of this benchmark"] = time.perf_counter() - start
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(lines(found)))


def lines(found: Any, indent: str = "") -> Iterator[str]:
    """The same for people, a line a number."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from lines(value, indent + "    ")
        elif name in ("median", "from", "to"):
            yield f"{indent}{name:<6} {value:+.2%}"
        elif isinstance(value, (list, tuple)):
            yield f"{indent}{name}: {', '.join(f'{one:.1f}' for one in value)}"
        else:
            yield f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}"


if __name__ == "__main__":
    main()
