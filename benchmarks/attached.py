"""What it costs to be attached: steps of plain, of dita attached with N = 1, and of dita attached and detached again.

Whole runs scatter by more than these differ. Here every round times one step of each, one right after another and in an
order that rotates, on the same input; ratios to plain are taken within a round. The figures are medians over the
rounds, and between which values the median lies in 95 % of the samples drawn from these rounds again. `plain again` is
a second plain model: what it differs by is what the measurement is worth.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor

from dita.bench.contenders import Contender, Control, twin
from dita.bench.sampling import without_collector
from dita.bench.workloads import SHAPES, workload
from dita.freed_memory import keep_freed_memory


@dataclass(frozen=True)
class Cost:
    """Of one step: median seconds, the median ratio to plain's, and its 95 % interval."""

    label: str
    seconds: float
    ratio: float
    low: float
    high: float


def interval(ratios: Tensor, draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(ratios), (draws, len(ratios)), generator=generator)
    low, high = ratios[chosen].median(dim=1).values.quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype))
    return float(low), float(high)


@torch.no_grad()
def measured(shape: str, scale: float, rounds: int, warm_up: int = 3) -> list[Cost]:
    """The costs of all four, plain first."""
    keep_freed_memory()
    work = workload(shape, scale=scale)
    model, inputs = work.build(torch.float32, "cpu"), work.inputs(torch.float32, "cpu")
    steps = warm_up + rounds
    contenders = [
        Contender("plain", twin(model), steps),
        Contender("plain again", twin(model), steps),
        Control(twin(model), steps, attached=True),
        Control(twin(model), steps, attached=False),
    ]
    seconds: dict[str, list[float]] = {contender.label: [] for contender in contenders}
    with without_collector():
        for step in range(steps):
            turn = step % len(contenders)
            for contender in contenders[turn:] + contenders[:turn]:
                before = time.perf_counter()
                work.predict(contender.model, inputs, step / steps)
                after = time.perf_counter()
                if step >= warm_up:
                    seconds[contender.label].append(after - before)
    costs = []
    for label, own in seconds.items():
        ratios = torch.tensor(own, dtype=torch.float64) / torch.tensor(seconds["plain"], dtype=torch.float64)
        costs.append(Cost(label, median(own), float(ratios.median()), *interval(ratios)))
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shape",
        action="append",
        choices=SHAPES,
        metavar="SHAPE",
        help="cpu-flux, cpu-pixart and cpu-opensora by default",
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    for shape in options.shape or ["cpu-flux", "cpu-pixart", "cpu-opensora"]:
        found[shape] = [asdict(cost) for cost in measured(shape, options.scale, options.rounds)]
        if not options.json:
            print(f"{shape}, {options.rounds} rounds")
            for cost in found[shape]:
                told = "{label:16} {seconds:.4f} s   {ratio:.4f} of plain   {low:.4f} to {high:.4f}"
                print(" ", told.format(**cost), flush=True)
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "steps": found}, indent=2))


if __name__ == "__main__":
    main()
