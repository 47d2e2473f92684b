"""Linear layers of few rows on a CPU, in parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dita
from dita.caching import few_rows
from dita.caching.few_rows import FewRows, in_parts
from tests import tiny_flux, tiny_pixart


@pytest.fixture
def parts(monkeypatch) -> list[tuple[int, ...]]:
    """The rows that went through in parts, of weights however small."""
    monkeypatch.setattr(few_rows, "LARGE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    seen: list[tuple[int, ...]] = []
    stock = few_rows.in_parts
    monkeypatch.setattr(few_rows, "in_parts", lambda x, *others: (seen.append(tuple(x.shape)), stock(x, *others))[1])
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 12), (1, 7, 12), (2, 3, 12), (12,)])
@pytest.mark.parametrize("width", [8, 6, 7])
def test_the_parts_are_the_product(bias: bool, shape: tuple[int, ...], width: int) -> None:
    linear, x = nn.Linear(12, width, bias=bias), torch.randn(shape)
    torch.testing.assert_close(in_parts(x, linear.weight, linear.bias), linear(x))


def test_rows_that_do_not_follow_each_other_in_memory() -> None:
    linear, x = nn.Linear(12, 8), torch.randn(12, 5).T
    torch.testing.assert_close(in_parts(x, linear.weight, linear.bias), linear(x))


def test_only_large_layers_of_few_rows_are_taken_apart(parts, monkeypatch) -> None:
    linear = nn.Linear(12, 8)
    with FewRows():
        linear(torch.randn(3, 12))
        assert parts == [(3, 12)]
        linear(torch.randn(few_rows.FEW, 12))
        linear.double()(torch.randn(3, 12).double())
        nn.Linear(12, 1)(torch.randn(3, 12))
        monkeypatch.setattr(few_rows, "LARGE", 97)
        linear.float()(torch.randn(3, 12))
    linear(torch.randn(3, 12))
    assert parts == [(3, 12)]


def test_one_core_has_nothing_to_share(monkeypatch) -> None:
    monkeypatch.setattr(few_rows, "LARGE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(few_rows, "in_parts", lambda *_: pytest.fail("in parts"))
    with FewRows():
        nn.Linear(12, 8)(torch.randn(3, 12))


def test_gradients_flow() -> None:
    linear, x = nn.Linear(12, 8), torch.randn(3, 12, requires_grad=True)
    in_parts(x, linear.weight, linear.bias).square().sum().backward()
    found, x.grad = x.grad, None
    linear(x).square().sum().backward()
    torch.testing.assert_close(found, x.grad)


@pytest.mark.parametrize("family", [tiny_flux, tiny_pixart], ids=["flux", "pixart"])
def test_partial_steps_use_them_and_full_ones_do_not(family, parts) -> None:
    model = family.tiny_transformer()

    def run() -> torch.Tensor:
        inputs = family.transformer_inputs()
        dita.enable(model, "toca:3:0.5", steps=6)
        for step in range(6):
            before = len(parts)
            out = family.forward(model, inputs, step / 6)
            inputs["hidden_states"] = inputs["hidden_states"] - out / 6
            counts.append(len(parts) - before)
        return inputs["hidden_states"]

    counts: list[int] = []
    found = run()
    kinds = dita.summary(model, show=False).plan.kinds
    assert [count > 0 for count in counts] == [kind is dita.shapes.Kind.PARTIAL for kind in kinds] and any(counts)
    few_rows.LARGE = 2**60  # undone by monkeypatch
    torch.testing.assert_close(run(), found, rtol=1e-4, atol=1e-5)
