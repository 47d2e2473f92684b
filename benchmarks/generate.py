"""What `dita generate` costs beside the pipeline: its overhead, two processes against one, memory over many prompts.

    python benchmarks/generate.py overhead     bare pipeline calls against the job, interleaved, the bundled shapes-flux
    python benchmarks/generate.py processes    seconds of one process and of two, a thread each; needs two idle cores
    python benchmarks/generate.py memory       memory after every thousand of 5,000 prompts, a tiny random FLUX

`overhead` prints seconds that passed and seconds of this process's processors, which a busy machine lengthens less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, ClassVar

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


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and those of the processors."""
    passed, worked = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - passed, time.process_time() - worked


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    pipe, call = models.load("shapes-flux", "float32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    call.pop("num_inference_steps")
    count, steps, batch = arguments.images, arguments.steps, arguments.batch
    todo = items([Prompt(f"{i:05d}", text) for i, text in enumerate(world.prompts(count, seed=0))], (0,))

    def bare() -> None:
        if arguments.method != "plain":
            dita.enable(pipe, arguments.method)
        for start in range(0, count, batch):
            part: list[Item] = todo[start : start + batch]
            generators = [torch.Generator().manual_seed(item.noise_seed) for item in part]
            pipe([item.prompt for item in part], num_inference_steps=steps, generator=generators, **call)
        dita.disable(pipe)

    def job(exact: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            runner.run(
                settings(arguments.method, steps, call, exact=exact),
                todo,
                Path(folder) / "out",
                batch_size=batch,
                progress=Progress(quiet=True),
                load=lambda *_, **__: (pipe, {}),
            )

    sides: dict[str, Callable[[], None]] = {
        "bare": bare,
        "job, not exact": lambda: job(False),
        "job, exact": lambda: job(True),
    }
    bare()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repeat in range(arguments.repeats):
        names = list(sides)
        for name in names[repeat % 3 :] + names[: repeat % 3]:
            measured[name].append(timed(sides[name]))
    return {
        "images": count,
        "steps": steps,
        "batch": batch,
        "method": arguments.method,
        "job around a pipeline that costs nothing, a picture": job_alone(),
        **{
            name: {
                "seconds": median(passed for passed, _ in times),
                "cpu_seconds": median(worked for _, worked in times),
                "cpu_overhead": median(
                    worked / other - 1 for (_, worked), (_, other) in zip(times, measured["bare"], strict=True)
                ),
            }
            for name, times in measured.items()
        },
    }


def processes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Whole commands: both sides start Python and load the model, which is measured alone, too, by a job of one."""
    found: dict[str, Any] = {"images": arguments.images, "steps": arguments.steps, "method": arguments.method}
    prompts = world.prompts(arguments.images, seed=0)
    for name, launcher, count in (
        ("start", [sys.executable], 1),
        ("one", [sys.executable], arguments.images),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"], arguments.images),
    ):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "prompts.txt"
            file.write_text("\n".join(prompts[:count]))
            command = [*launcher, "-m", "dita", "generate", "--prompts", str(file), "--out", str(Path(folder) / "out")]
            command += ["--steps", str(arguments.steps), "--batch-size", str(arguments.batch)]
            start, worked = time.perf_counter(), _cpu_seconds_of_children()
            subprocess.run(
                [*command, "--method", arguments.method],
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
            )
            found[name] = time.perf_counter() - start
            found[f"{name}, cpu"] = _cpu_seconds_of_children() - worked
    found["speedup"] = found["one"] / found["two"]
    found["speedup without the start"] = (found["one"] - found["start"]) / (found["two"] - found["start"])
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
        picture = Image.fromarray(world.draw(world.evaluation_scenes(1, 0)[0]))
        return SimpleNamespace(images=[picture] * len(prompt))


def job_alone(count: int = 400) -> dict[str, float]:
    """Seconds of a picture of 64x64 pixels: encoding, syncing, listing; mostly in the thread that writes."""
    with tempfile.TemporaryDirectory() as folder:
        passed, worked = timed(
            lambda: runner.run(
                settings("plain", 1, {}, exact=True),
                items([Prompt(f"{i:05d}", "a") for i in range(count)], (0,)),
                Path(folder) / "out",
                batch_size=4,
                progress=Progress(quiet=True),
                load=lambda *_, **__: (Free(), {}),
            )
        )
    return {"seconds": passed / count, "cpu_seconds": worked / count}


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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"prompts": arguments.prompts, "MiB after every thousand": held, "peak MiB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "processes", "memory"))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--method", default="plain")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = {"overhead": overhead, "processes": processes, "memory": memory}[arguments.what]
    print(json.dumps(run(arguments), indent=1))


if __name__ == "__main__":
    main()
