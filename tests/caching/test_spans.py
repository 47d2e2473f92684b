"""Spans of blocks that a step passes by: nothing runs there, and what stands in for it is right."""

from __future__ import annotations

import pytest
import torch

import dita
from dita.caching.spans import SpanStore
from dita.plan import Span
from dita.shapes import Kind
from tests import tiny_pixart


def ran_in(model, method: str, steps: int = 8) -> list[int]:
    """How many MLPs ran in each step."""
    counts: list[int] = []
    handles = [
        block.ff.register_forward_hook(lambda *_: counts.__setitem__(-1, counts[-1] + 1))
        for block in model.transformer_blocks
    ]
    dita.enable(model, method, steps=steps)
    inputs = tiny_pixart.transformer_inputs()
    for s in range(steps):
        counts.append(0)
        tiny_pixart.forward(model, inputs, s / steps)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("taylorseer:4:1:lite=true", [3, 3, 0, 0, 0, 3, 0, 0]),
        ("taylorseer:4:1", [3, 3, 0, 0, 0, 3, 0, 0]),
        ("duca:4:0.5:schedule=constant", [3, 3, 0, 3, 3, 3, 0, 3]),
        ("deltadit:2:layers=2", [3, 1, 3, 1, 3, 1, 3, 1]),
    ],
)
def test_no_block_of_a_skipped_span_runs(method: str, expected: list[int]) -> None:
    model = tiny_pixart.tiny_transformer()
    assert ran_in(model, method) == expected
    summary = dita.summary(model, show=False)
    assert summary.kinds == summary.method.plan(summary.shape, 8).kinds
    assert [kind is Kind.FULL for kind in summary.kinds] == [
        count == 3 and not (method.startswith("duca") and s in (1, 3, 5, 7)) for s, count in enumerate(expected)
    ]


@pytest.mark.parametrize(("delta", "expected"), [(0, 7.0), (1, 10.0 + 4.0), (-1, 10.0 - 4.0)])
def test_a_skipping_step_gets_the_state_or_the_difference(delta: int, expected: float) -> None:
    store = SpanStore(Span(("block", 0), ("block", 2), delta=delta))
    store.entered = torch.tensor([3.0])
    store.left(torch.tensor([7.0]))
    assert float(store.restored(torch.tensor([10.0]))) == expected


def test_both_streams_of_a_state_are_kept() -> None:
    store = SpanStore(Span(("double", 0), ("single", 2), delta=1))
    store.entered = (torch.tensor([1.0]), torch.tensor([2.0]))
    store.left((torch.tensor([2.0]), torch.tensor([5.0])))
    text, image = store.restored((torch.tensor([10.0]), torch.tensor([20.0])))
    assert (float(text), float(image)) == (11.0, 23.0)


def test_a_skipped_span_whose_difference_is_exact_changes_nothing() -> None:
    """With the same input and timestep in each step, what a span adds is what it added."""
    model, inputs = tiny_pixart.tiny_transformer(), tiny_pixart.transformer_inputs()
    plain = tiny_pixart.forward(model, inputs, 0.5)
    for method in ("deltadit:3", "duca:4:1.0", "taylorseer:4:2", "taylorseer:4:2:lite=true:basis=hermite", "fora:3"):
        dita.enable(model, method, steps=8)
        for _ in range(8):
            torch.testing.assert_close(tiny_pixart.forward(model, inputs, 0.5), plain, atol=1e-4, rtol=1e-5)
