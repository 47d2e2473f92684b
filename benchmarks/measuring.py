"""What the cpu_*.py benchmarks share: `dita bench` on one of the small shapes, keyed as these always were."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

from dita.bench import table
from dita.bench.job import Benchmark, bench
from dita.bench.workloads import workload
from dita.methods import Method, parse


def keyed(result: Benchmark, method: Method, steps: int) -> dict[str, Any]:
    """The row of `method`; `efficiency` is the ratio of seconds (plain / accelerated) over the ratio of FLOPs."""
    row = result.row(method.label())
    return {
        "method": method.as_json(),
        "steps": steps,
        "shape": result.sizes,
        "plain_seconds": result.row("plain").seconds,
        "seconds": row.seconds,
        "seconds_ratio": row.seconds_ratio,
        "flops_ratio": row.flops_ratio,
        "efficiency": row.efficiency,
        "step_milliseconds": {kind: 1e3 * time.seconds for kind, time in row.steps.items()},
        "cache_bytes": row.cache_bytes,
        "torch": torch.__version__,
        "threads": result.threads,
        "machine": result.machine,
    }


def main(shape: str, description: str | None, methods: list[str], steps: int) -> None:
    """Reads the command line, measures and prints: the first method's keys, and those of all under `methods`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--method", action="append", help=f"short form of a method; {' and '.join(methods)} by default")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-controls", action="store_true", help="plain is timed once, not thrice")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    chosen = [parse(text) for text in options.method or methods]
    result = bench(
        workload(shape, dtype=dtype),
        chosen,
        steps=options.steps,
        repeats=options.repeats,
        controls=not options.no_controls,
        dtype=dtype,
        device=options.device,
        tell=lambda line: print(line, file=sys.stderr),
    )
    found = {method.label(): keyed(result, method, options.steps) for method in chosen}
    if options.json:
        first = found[chosen[0].label()]
        rest = {"methods": found, "benchmark": table.as_json(result)}
        print(json.dumps({"keeps_freed_memory": result.keeps_freed_memory, **first, **rest}, indent=2))
        return
    for row in result.rows[1:]:
        print(row.label)
        print(f"  seconds, plain / this    {row.seconds_ratio:.3f}")
        print(f"  FLOPs, plain / this      {row.flops_ratio:.3f}")
        print(f"  efficiency               {row.efficiency:.3f}")
