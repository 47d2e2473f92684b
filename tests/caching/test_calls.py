"""What surrounds a transformer's calls stands outside of what torch.compile makes of it, and leaves no trace."""

from __future__ import annotations

import pytest
import torch

import dita
from dita.caching.calls import Surrounded
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart


class Boom(Exception):
    pass


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor, fail: bool = False) -> torch.Tensor:
        if fail:
            raise Boom
        return 2 * x


@pytest.fixture
def seen() -> list:
    return []


@pytest.fixture
def model() -> Double:
    return Double()


def surround(model, seen, name: str = "") -> Surrounded:
    return Surrounded(
        model, lambda args, kwargs: seen.append(f"{name}before"), lambda out: seen.append((f"{name}after", out))
    )


def test_before_and_after_see_arguments_and_output_and_may_change_them(model) -> None:
    Surrounded(model, lambda args, kwargs: {"x": args[0] + 1}, lambda out: out * 10)
    assert model(torch.tensor(1)) == 40


def test_a_call_that_raises_is_told_as_none(model, seen) -> None:
    surround(model, seen)
    with pytest.raises(Boom):
        model(torch.tensor(1), fail=True)
    assert seen == ["before", ("after", None)]


def test_nothing_is_left_once_it_is_removed_whatever_the_order(model, seen) -> None:
    before = dict(vars(model))
    one, two = surround(model, seen, "1 "), surround(model, seen, "2 ")
    model(torch.tensor(1))
    assert [entry if isinstance(entry, str) else entry[0] for entry in seen] == [
        "1 before",
        "2 before",
        "1 after",
        "2 after",
    ]
    one.remove()
    seen.clear()
    model(torch.tensor(1))
    assert len(seen) == 2
    two.remove()
    two.remove()
    assert type(model) is Double and vars(model) == before


@pytest.mark.parametrize("compile_first", [True, False])
def test_a_model_that_is_compiled_in_place_is_one_graph_without_what_surrounds_it(compile_first: bool, model, seen):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    torch._dynamo.reset()
    if compile_first:
        model.compile(fullgraph=True, backend=counter)
    surround(model, seen)
    if not compile_first:
        model.compile(fullgraph=True, backend=counter)
    assert model(torch.tensor([1.0])) == 2 and model(torch.tensor([2.0])) == 4
    assert counter.frame_count == 1 and len(seen) == 4
    torch._dynamo.reset()


def test_enabling_inside_of_what_is_compiled_is_a_clear_error(model, seen) -> None:
    surround(model, seen)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"enable it on what torch\.compile"):
        torch.compile(model, fullgraph=True, backend="eager")(torch.tensor([1.0]))
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ no trace


@pytest.mark.parametrize("family", [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora], ids=lambda module: module.FAMILY)
def test_a_bare_transformer_has_nothing_of_dita_left_once_it_is_disabled(family) -> None:
    """Disabled costs nothing, because nothing is there: no class, attribute, hook or compiled wrapper."""
    model, untouched = family.tiny_transformer(), family.tiny_transformer()
    dita.enable(model, "toca:2:0.5", steps=3)
    for step in range(2):  # in the middle of a run
        family.forward(model, family.transformer_inputs(), step / 3)
    dita.disable(model)
    for (name, module), other in zip(model.named_modules(), untouched.modules(), strict=True):
        assert type(module) is type(other), name
        assert set(vars(module)) == set(vars(other)), name
        assert "forward" not in vars(module) and module._compiled_call_impl is None, name
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_backward_hooks")
        assert not any(getattr(module, hook) for hook in hooks), name
    assert list(model.state_dict()) == list(untouched.state_dict())
