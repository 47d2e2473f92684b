"""What the parity tests of all families share: the cases of ../shared/golden, and the scores that were sorted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dita
from dita.caching import selection
from dita.caching.live import LiveSelection
from dita.caching.run import Run
from dita.caching.selecting import Selector
from dita.shapes import Kind, Site

Scores = dict[tuple[int, Site], torch.Tensor]


def load_case(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """(facts, tensors) of one case."""
    return json.loads((folder / "data.json").read_text()), load_file(folder / "data.safetensors")


def method_of(facts: dict) -> dita.Method:
    """The method of a case, with the quirks of its reference."""
    if "params" in facts:
        given = facts["params"]
        return dita.TGate(given["gate_step"], given["warm_up"], given["sp_interval"], given["fi_interval"])
    config, cycle = facts["method_config"], facts["N"]
    if cycle == 1:
        return dita.Plain()
    if "interval" in config or config.get("taylor_cache"):
        return dita.TaylorSeer(cycle, config["max_order"])
    if config.get("Delta-DiT"):
        return dita.DeltaDiT(cycle, strict=True)
    if config["fresh_ratio"] == 0:
        return dita.FORA(cycle)
    schedule = next(config[key] for key in ("fresh_ratio_schedule", "schedule", "ratio_scheduler") if key in config)
    settings = dict(
        cycle=cycle,
        ratio=1 - config["fresh_ratio"],
        score=config["cache_type"],
        schedule=schedule.replace("ToCa", "toca"),
        age_weight=config["soft_fresh_weight"],
        strict=True,
    )
    if facts["case"].startswith("duca"):
        return dita.DuCa(**settings, aggressive="reuse" if "reuse" in facts["case"] else "skip")
    return dita.ToCa(**settings)


def capture_scores(monkeypatch: pytest.MonkeyPatch) -> Scores:
    """Fills with the scores that were sorted, (B, N), by step and site."""
    captured: Scores = {}
    sorting: list[tuple[list[int], list[Site]]] = []  # the steps and the sites that the next sorts are for
    base_scores, best_first = Selector._base_scores, selection.best_first
    before_call, now = Run.before_call, [0]
    live_selection, live_rows = Selector.live, LiveSelection.rows

    def watched_base(self: Selector, branch, step: int, stack: str, module: str, layers: list[int], counts):
        sites = [Site(stack, layer, module) for layer in layers]
        steps = range(step + 1, len(branch.plan.steps))
        sorting[:] = [([s for s in steps if branch.plan.steps[s][sites[0]].kind is not Kind.SKIP], sites)]
        return base_scores(self, branch, step, stack, module, layers, counts)

    def watched_call(self: Run, inputs):
        now[:] = [self.step]
        return before_call(self, inputs)

    def watched_live_selection(self: Selector, branch, site: Site):
        live = live_selection(self, branch, site)
        live.where = lambda: (list(now), [site])
        return live

    def watched_rows(self: LiveSelection, count: int, tokens: torch.Tensor, stored: torch.Tensor):
        sorting[:] = [self.where()]
        return live_rows(self, count, tokens, stored)

    def watched_sort(scores: torch.Tensor, count: int) -> torch.Tensor:
        (step, *later), sites = sorting[0]
        sorting[0] = (later, sites)
        stacked = scores if scores.ndim == 3 else scores[None]
        captured.update({(step, site): stacked[number] for number, site in enumerate(sites)})
        return best_first(scores, count)

    monkeypatch.setattr(Selector, "_base_scores", watched_base)
    monkeypatch.setattr(Run, "before_call", watched_call)
    monkeypatch.setattr(Selector, "live", watched_live_selection)
    monkeypatch.setattr(LiveSelection, "rows", watched_rows)
    monkeypatch.setattr(selection, "best_first", watched_sort)
    return captured


def assert_selections(summary, data: dict[str, torch.Tensor], site_of) -> None:
    """Every recorded set of tokens. `site_of`: words of a recorded name -> (step, site), and the samples it holds."""
    for name, expected in data.items():
        if name.startswith("idx."):
            chosen = summary.selections[site_of(name)].long()
            assert torch.equal(chosen[: len(expected)], expected.sort(dim=-1).values), name


def assert_scores(scores: Scores, data: dict[str, torch.Tensor], site_of) -> None:
    for name, expected in data.items():
        if name.startswith("score."):
            got = scores[site_of(name)]
            torch.testing.assert_close(got.expand_as(expected), expected, atol=1e-5, rtol=0, msg=name)
