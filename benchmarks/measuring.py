"""The measuring loop of the benchmarks: plain and accelerated runs of one bare transformer, interleaved."""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import dita
from dita.caching.summary import Summary
from dita.methods import Method, parse

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A random transformer and its input.

    Attributes:
        sizes: what the result says of them.
        build: (dtype, device) -> the model.
        inputs: (dtype, device) -> a call's arguments by name, `hidden_states` among them.
        predict: (model, inputs, progress in [0, 1)) -> the prediction, of the shape of `hidden_states`.
    """

    sizes: dict[str, Any]
    build: Callable[[torch.dtype, str], nn.Module]
    inputs: Callable[[torch.dtype, str], Inputs]
    predict: Callable[[Any, Inputs, float], Tensor]


def sample(workload: Workload, model: nn.Module, inputs: Inputs, steps: int) -> float:
    """Seconds of `steps` transformer calls, each on the latents that the last one led to."""
    inputs = dict(inputs)
    device = inputs["hidden_states"].device
    _synchronise(device)
    start = time.perf_counter()
    for s in range(steps):
        inputs["hidden_states"] = inputs["hidden_states"] - workload.predict(model, inputs, s / steps) / steps
    _synchronise(device)
    return time.perf_counter() - start


def keep_freed_memory() -> bool:
    """Tells glibc to keep what it frees, for both sides of the comparison alike; False where there is no glibc.

    By default it hands memory back to the system and takes it again, page by page, in some steps and not in others.
    Those page faults are a tenth of a run here, and have nothing to do with what is measured. Servers avoid them in
    the same way, or with another allocator.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_* of malloc.h
    settings = ((trim_threshold, 2**31 - 1), (top_pad, 2**27), (mmap_threshold, 2**30))
    return all(mallopt(parameter, value) for parameter, value in settings)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    workload: Workload, method: Method, steps: int, repeats: int, dtype: torch.dtype, device: str
) -> dict[str, Any]:
    """Medians over `repeats` pairs of runs, one before them left out as the warm-up.

    `efficiency` is the ratio of seconds (plain / accelerated) over the ratio of FLOPs.
    """
    model, inputs = workload.build(dtype, device), workload.inputs(dtype, device)
    plain: list[float] = []
    fast: list[float] = []
    summary: Summary | None = None
    for repeat in range(repeats + 1):
        plain.append(sample(workload, model, inputs, steps))
        dita.enable(model, method, steps=steps)
        fast.append(sample(workload, model, inputs, method.run_steps(steps)))
        summary = dita.summary(model, show=False)
        dita.disable(model)
        print(f"repeat {repeat}: plain {plain[-1]:.2f} s, {method.label()} {fast[-1]:.2f} s", file=sys.stderr)
    assert summary is not None
    ratios = [a / b for a, b in zip(plain[1:], fast[1:], strict=True)]
    flops_ratio = summary.plain_flops / summary.flops
    return {
        "method": method.as_json(),
        "steps": steps,
        "shape": workload.sizes,
        "plain_seconds": plain[1:],
        "seconds": fast[1:],
        "seconds_ratio": median(ratios),
        "flops_ratio": flops_ratio,
        "efficiency": median(ratios) / flops_ratio,
        "step_milliseconds": {kind.value: 1e3 * median(times) for kind, times in summary.seconds.items()},
        "cache_bytes": summary.cache_bytes,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }


@torch.no_grad()
def main(workload: Workload, description: str | None, method: str, steps: int) -> None:
    """Reads the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--method", default=method, help="short form of a method")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    kept = keep_freed_memory()
    result = {"keeps_freed_memory": kept} | measure(
        workload, parse(options.method), options.steps, options.repeats, dtype, options.device
    )
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"seconds, plain / accelerated   {result['seconds_ratio']:.2f}")
    print(f"FLOPs, plain / accelerated     {result['flops_ratio']:.2f}")
    print(f"efficiency                     {result['efficiency']:.3f}")
