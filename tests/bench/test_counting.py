"""What a run executes is counted: rows by hooks, FLOPs and bytes by operation, memory by storage."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import dita
from dita.bench.contenders import blocks_of
from dita.bench.counting import Counting
from dita.bench.workloads import workload
from dita.methods import parse
from dita.plan import Plan
from dita.shapes import FluxShape, Kind
from tests.bench.test_workloads import TINY


def test_products_bytes_and_operations_of_known_operations() -> None:
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    query = torch.randn(1, 2, 6, 8)
    with torch.no_grad(), Counting([]) as counting:
        counting.next_step()
        F.linear(x, weight, bias).view(6, 5).transpose(0, 1)
        counting.next_step()
        F.scaled_dot_product_attention(query, query, query)
    linear, attention = counting.steps
    assert linear.flops == 2 * 6 * 4 * 5
    assert linear.operations == 1, "views compute nothing"
    assert linear.bytes == 4 * (24 + 20 + 5 + 30)
    assert attention.flops == 2 * (2 * 2 * 6 * 6 * 8), "scores and weighted values of two heads"


def test_peak_memory_is_that_of_tensors_that_live_at_once() -> None:
    with torch.no_grad(), Counting([]) as counting:
        counting.next_step()
        a = torch.ones(1000)
        b = a + a
        del a
        c = b + b
        del b, c
    assert counting.peak_bytes == 8000, "never all three"


@pytest.mark.parametrize("name", ["cpu-flux", "cpu-pixart", "cpu-opensora", "dit-xl-2-256"])
def test_counted_flops_of_plain_are_those_of_the_shape(name: str) -> None:
    """The shapes leave nothing out but what is no product, and a handful of embeddings."""
    work = workload(name, scale=TINY[name])
    model, inputs = work.build(torch.float32, "cpu"), work.inputs(torch.float32, "cpu")
    with torch.no_grad(), Counting(blocks_of(model)) as counting:
        counting.next_step()
        work.predict(model, inputs, 0.5)
    plan = dita.Plain().plan(work.shape, 1)
    assert counting.steps[0].flops == pytest.approx(plan.plain_flops, rel=2e-3)


@pytest.mark.parametrize("name", ["cpu-flux", "cpu-pixart", "cpu-opensora"])
@pytest.mark.parametrize("method", ["fora:3", "toca:3:0.7"])
def test_counted_flops_of_a_method_are_those_of_its_plan_and_its_scores(name: str, method: str) -> None:
    """FLOPs that dita reports are not only computed from a plan: torch counts the same, but for the text, which cached
    steps do not project again, for the modulations of FLUX's cached blocks, of which only the part that is used is
    multiplied, and for the attention's half of the projections of FLUX's single-stream blocks, which is stored."""
    work = workload(name, scale=TINY[name])
    model, inputs = work.build(torch.float32, "cpu"), work.inputs(torch.float32, "cpu")
    dita.enable(model, method, steps=6)
    with torch.no_grad(), Counting(blocks_of(model)) as counting:
        for step in range(6):
            counting.next_step()
            work.predict(model, inputs, step / 6)
    plan = parse(method).plan(work.shape, 6)
    counted = sum(step.flops for step in counting.steps)
    saved = kept_text_flops(plan) + unused_modulation_flops(plan) + stored_projection_flops(plan)
    expected = plan.flops() + plan.score_flops - saved
    assert counted == pytest.approx(expected, rel=2e-3)


def unused_modulation_flops(plan: Plan) -> float:
    """Shifts, scales and gates that FLUX's cached blocks do without: in double-stream blocks two of six for each stream
    that computes tokens and four for each that does not, in single-stream ones two of three where none is computed."""
    shape = plan.shape
    if not isinstance(shape, FluxShape):
        return 0.0
    unused = 0
    for step in plan.steps:
        for site, action in step.items():
            if action.kind is not Kind.FULL and site.module in ("mlp", "text_mlp"):
                unused += 2 if action.kind is Kind.PARTIAL else 4
            elif action.kind is Kind.REUSE and site.module == "single":
                unused += 2
    return 2.0 * shape.rows * unused * shape.width**2


def stored_projection_flops(plan: Plan) -> float:
    """What the chosen tokens' attention adds to the projection at the end of single-stream blocks is stored as such."""
    shape = plan.shape
    if not isinstance(shape, FluxShape):
        return 0.0
    actions = [action for step in plan.steps for site, action in step.items() if site.module == "single"]
    tokens = sum(action.tokens for action in actions if action.kind is Kind.PARTIAL)
    return 2.0 * shape.batch * tokens * shape.width**2


def kept_text_flops(plan: Plan) -> float:
    """What cached steps do not compute of the text: its projection for all blocks, and keys and values of those whose
    cross-attention computes tokens."""
    shape = plan.shape
    if isinstance(shape, FluxShape):
        return 0.0
    one = 2 * shape.rows * shape.text_tokens * shape.width
    saved = 0.0
    for step, kind in zip(plan.steps, plan.kinds, strict=True):
        if kind is not Kind.FULL:
            crosses = [a for site, a in step.items() if site.module == "cross_attn" and a.kind is Kind.PARTIAL]
            saved += one * (shape.caption_width + shape.width + 2 * shape.width * len(crosses))
    return saved


def test_a_layer_whose_forward_another_hook_replaces_is_not_counted() -> None:
    work = workload("cpu-flux", scale=0.05)
    model, inputs = work.build(torch.float32, "cpu"), work.inputs(torch.float32, "cpu")
    block = model.transformer_blocks[0]
    zeros = torch.zeros(1, work.shape.image_tokens, work.shape.mlp_width)
    block.ff.net[0].proj.forward = lambda *_: zeros
    with torch.no_grad(), Counting(blocks_of(model)) as counting:
        counting.next_step()
        work.predict(model, inputs, 0.5)
    assert counting.steps[0].blocks[0]["mlp"] == work.shape.text_tokens, "of the text's MLP alone"
