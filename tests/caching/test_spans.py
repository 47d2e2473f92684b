"""Spans of blocks that a step passes by: nothing runs there, and what stands in for it is right."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

import dita
from dita.caching.spans import SpanStore
from dita.plan import Span
from dita.shapes import Kind
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.for_family import method_for
from tests.nearness import distance


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


@pytest.mark.parametrize(("delta", "expected"), [(0, 7.0 - 0.5 + 3.0), (1, 10.0 + 3.0 + 3.5), (-1, 10.0 + 3.0 - 3.5)])
def test_what_is_added_between_the_blocks_is_that_of_the_step(delta: int, expected: float) -> None:
    """Stored: from 3 to 7 with 0.5 added on the way. Skipping: 10 enter, and 3 are added on the way."""
    store = SpanStore(Span(("block", 0), ("block", 2), delta=delta))
    store.begin(torch.tensor([3.0]))
    store.behind = torch.tensor([5.0])
    store.arrive(torch.tensor([5.5]))
    store.left(torch.tensor([7.0]))
    assert store.entered is store.behind is store.added is None
    if not delta:
        store.begin(torch.tensor([10.0]))
    assert float(store.restored(torch.tensor([13.0]))) == expected


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "method",
    ["deltadit:2", "duca:3:1.0", "duca:4:0.5", "taylorseer:3:1:lite=true", "fora:3", "toca:3:0.5", "taylorseer:3:1"],
)
@pytest.mark.parametrize("family", [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora], ids=lambda m: m.FAMILY)
def test_what_hooks_add_between_blocks_counts_once(
    family: ModuleType, method: str, before: bool, in_place: bool
) -> None:
    """As PuLID does on FLUX: on the same input every step gives what the full one gave."""
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    generator = torch.Generator().manual_seed(0)

    def add(x: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
        return x.add_(amount) if in_place else x + amount

    def behind(amount: torch.Tensor):
        def hook(block, args, out):
            return (out[0], add(out[1], amount)) if isinstance(out, tuple) else add(out, amount)

        return hook

    def in_front(amount: torch.Tensor):
        def hook(block, args, kwargs):
            if args:
                return (add(args[0], amount), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": add(kwargs["hidden_states"], amount)}

        return hook

    for block in family.blocks(model):
        amount = 3 * torch.randn(1, 1, width(family, model), generator=generator)
        if before:
            block.register_forward_pre_hook(in_front(amount), with_kwargs=True)
        else:
            block.register_forward_hook(behind(amount))
    with torch.no_grad():
        expected = family.forward(model, inputs, 0.5)
        dita.enable(model, method_for(family.FAMILY, method), steps=8)
        for _ in range(8):
            assert distance(family.forward(model, inputs, 0.5), expected) < 1e-5
    kinds = {kind.value for kind in dita.summary(model, show=False).kinds}
    assert len(kinds) > 1


def width(family: ModuleType, model) -> int:
    return model.proj_out.in_features if family in (tiny_flux, tiny_opensora) else model.inner_dim
