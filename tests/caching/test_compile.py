"""torch.compile with dita: whole graphs, as many as there are kinds of step and block, at the published depths too."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

import dita
from dita.caching import cuda_graphs
from dita.shapes import Kind
from tests import tiny_flux, tiny_opensora, tiny_pixart

FAMILIES = [tiny_flux, tiny_pixart, tiny_opensora]
PUBLISHED = {"flux": 19, "pixart": 28, "opensora": 28}
"""Layers of a stack; FLUX has twice as many single-stream blocks as double-stream ones."""


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY)
def family(request) -> ModuleType:
    return request.param


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def transformer(family: ModuleType, depth: int) -> torch.nn.Module:
    if family is tiny_flux:
        return family.tiny_transformer(1, double_layers=depth, single_layers=2 * depth)
    return family.tiny_transformer(1, num_layers=depth)


@torch.no_grad()
def run(family: ModuleType, model, steps: int) -> torch.Tensor:
    inputs = family.transformer_inputs()
    for step in range(steps):
        out = family.forward(model, inputs, step / steps)
        inputs["hidden_states"] = inputs["hidden_states"] - out / steps
    return inputs["hidden_states"]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()), rtol=0)


def graphs(family: ModuleType, method: str, depth: int, steps: int, whole: bool) -> int:
    """How many graphs a run compiles, all of them without a break; it must give what an eager one does."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    eager = run(family, dita.enable(transformer(family, depth), method, steps=steps), steps)
    model = transformer(family, depth)
    if whole:
        model.compile(fullgraph=True, backend=counter)
    else:
        for block in family.blocks(model):
            block.compile(fullgraph=True, backend=counter)
    dita.enable(model, method, steps=steps)
    with torch._dynamo.config.patch(recompile_limit=16):
        assert close(run(family, model, steps), eager)
        found = int(counter.frame_count)
        run(family, model, steps)
    assert counter.frame_count == found, "a second run compiles nothing"
    return found


def kinds(family: ModuleType, method: str, steps: int) -> set[object]:
    """The kinds of step that a run has: what sites do, and what they keep of it. One token is a kind of its own:
    dynamo takes a size of 1 for a constant."""
    model = transformer(family, 3)
    dita.enable(model, method, steps=steps)
    run(family, model, steps)
    plan = dita.summary(model, show=False).plan
    return {
        (
            plan.skips.get(s),
            frozenset(span for span in plan.spans if plan.holds_span(s, span)),
            frozenset(
                (
                    site,
                    action.kind,
                    action.kind is Kind.PARTIAL and action.tokens == 1,
                    site in plan.kept[s],
                    action.kind is Kind.FULL and any(plan.cycle_tokens(s, site)),
                )
                for site, action in step.items()
            ),
        )
        for s, step in enumerate(plan.steps)
    }


def longer_run(family: ModuleType, method: str, steps: int) -> int:
    """Another number of steps, at least twice as many, whose runs have the same kinds of step as those of `steps`."""
    wanted = kinds(family, method, steps)
    return next(number for number in range(2 * steps, 4 * steps) if kinds(family, method, number) == wanted)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["toca:4:0.5", "fora:3"])
def test_blocks_at_the_published_depth_share_the_graphs_of_a_shallow_model(family, method: str) -> None:
    shallow = graphs(family, method, depth=3, steps=12, whole=False)
    assert graphs(family, method, depth=PUBLISHED[family.FAMILY], steps=12, whole=False) == shallow
    assert graphs(family, method, depth=3, steps=longer_run(family, method, 12), whole=False) == shallow


@pytest.mark.slow
def test_a_whole_transformer_of_the_published_depth_is_a_graph_for_each_kind_of_step(family) -> None:
    method = "toca:4:0.5"
    assert graphs(family, method, depth=PUBLISHED[family.FAMILY], steps=10, whole=True) == len(
        kinds(family, method, 10)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        "fora:3",
        "toca:4:0.5:norm",
        "duca:4:0.6",
        "taylorseer:3:2",
        "taylorseer:3:1:lite=true",
        "taylorseer:3:1:modules=attention",
        "deltadit:3",
        "toca:4:0.5:full=0/3/4/8",
        "taylorseer:3:2:full=0/1/4/6",
        "tgate:5",
    ],
)
def test_the_graphs_of_a_whole_transformer_depend_on_neither_depth_nor_steps(family, method: str) -> None:
    if family.FAMILY not in dita.methods.parse(method).families:
        pytest.skip("not for this family")
    found = graphs(family, method, depth=3, steps=10, whole=True)  # three layers have every kind of layer
    assert graphs(family, method, depth=6, steps=10, whole=True) == found
    more = kinds(family, method, 17) - kinds(family, method, 10)
    assert graphs(family, method, depth=3, steps=17, whole=True) <= found + len(more)


@pytest.mark.slow
@pytest.mark.parametrize("enable_first", [True, False])
def test_a_pipeline_whose_transformer_is_compiled_in_place(enable_first: bool) -> None:
    from torch._dynamo.testing import CompileCounter

    counter, pipe = CompileCounter(), tiny_flux.tiny_pipeline()
    eager = tiny_flux.call(dita.enable(tiny_flux.tiny_pipeline(), "toca:4:0.5"))
    if enable_first:
        dita.enable(pipe, "toca:4:0.5")
    pipe.transformer.compile(fullgraph=True, backend=counter)
    dita.enable(pipe, "toca:4:0.5")
    assert close(tiny_flux.call(pipe), eager)
    found = counter.frame_count
    tiny_flux.call(pipe)
    assert counter.frame_count == found


# ------------------------------------------------------------------------------------------------ CUDA graphs


class Replays:
    """A backend that does to memory what CUDA graphs do: what a graph puts out lies in memory, and is a tensor object,
    that stay its own from replay to replay; with the next step it is written over."""

    def __init__(self) -> None:
        self.places: dict[tuple, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.graphs: list[torch.fx.GraphModule] = []
        self.calls = self.begun = 0

    def begin_step(self) -> None:
        self.calls, self.begun = 0, self.begun + 1
        for place in self.places.values():
            for memory, _ in place:
                memory.fill_(float("nan") if memory.is_floating_point() else 0)

    def __call__(self, graph: torch.fx.GraphModule, _: list) -> object:
        self.graphs.append(graph)  # kept, so that its id stays its own

        def replay(*args: object) -> tuple[torch.Tensor, ...]:
            outputs = graph(*args)
            key = (id(graph), self.calls, *(one.shape for one in outputs))  # a shape has a recording of its own
            if key not in self.places:
                memories = [torch.empty_like(one) for one in outputs]
                self.places[key] = [(memory, memory.detach()) for memory in memories]
            self.calls += 1
            for (memory, _), output in zip(self.places[key], outputs, strict=True):
                memory.copy_(output)
            return tuple(tensor for _, tensor in self.places[key])

        return replay


METHODS = ["toca:4:0.5", "toca:4:0.5:norm", "duca:4:0.6", "taylorseer:3:2", "tome:0.5:force=true:reuse_steps=2+fora:3"]


def replayed(family: ModuleType, method: str, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """What a run puts out eagerly, and by graphs whose memory is written over."""
    steps, replays = 8, Replays()
    eager = run(family, dita.enable(transformer(family, 2), method, steps=steps), steps)
    model = transformer(family, 2)
    for block in family.blocks(model):
        block.compile(fullgraph=True, backend=replays)
    monkeypatch.setattr(cuda_graphs, "may_own_outputs", lambda device, compiled: compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", replays.begin_step)
    dita.enable(model, method, steps=steps)
    with torch._dynamo.config.patch(recompile_limit=16):
        out = run(family, model, steps)
    assert replays.begun == steps, "graphs are told of every step"
    return out, eager


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_survives_the_replay_of_its_graph(family, method: str, monkeypatch) -> None:
    out, eager = replayed(family, method, monkeypatch)
    assert close(out, eager)


@pytest.mark.slow
def test_it_would_not_survive_unless_it_were_copied(monkeypatch) -> None:
    monkeypatch.setattr(cuda_graphs.Rescue, "moved", lambda self, tensor: tensor)
    with pytest.raises(dita.BrokenNumbersError, match="first in what is stored of"):
        replayed(tiny_flux, "fora:3", monkeypatch)


def test_each_tensor_is_copied_out_once_and_the_graphs_own_is_left_as_it_is() -> None:
    rescue, graphs_own = cuda_graphs.Rescue(), torch.arange(4.0)
    place = graphs_own.data_ptr()
    copy = rescue.moved(graphs_own)
    assert copy.data_ptr() != place == graphs_own.data_ptr()
    graphs_own.zero_()
    assert torch.equal(copy, torch.arange(4.0))
    copy[0] = 9  # a partial step writes into it
    assert rescue.moved(copy) is copy
    assert rescue.moved(copy[1:]).data_ptr() == copy[1:].data_ptr()


def test_inference_tensors_are_copied_too() -> None:
    with torch.inference_mode():
        tensor = torch.arange(4.0)
        assert cuda_graphs.Rescue().moved(tensor).data_ptr() != tensor.data_ptr()


def test_nothing_is_copied_on_a_cpu_or_without_compiling() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not cuda_graphs.may_own_outputs(cpu, True) and not cuda_graphs.may_own_outputs(cuda, False)
    assert cuda_graphs.may_own_outputs(cuda, True)


# ------------------------------------------------------------------------------------------------ between blocks


def test_a_run_that_is_broken_off_leaves_compiled_calls_as_they_were() -> None:
    model, inputs = tiny_pixart.tiny_transformer(), tiny_pixart.transformer_inputs()
    for block in model.transformer_blocks:
        block.compile(fullgraph=True, backend="eager")
    calls = [block._compiled_call_impl for block in model.transformer_blocks]
    dita.enable(model, "fora:3", steps=6)
    with torch.no_grad():
        tiny_pixart.forward(model, inputs, 0.0)
        assert [block._compiled_call_impl for block in model.transformer_blocks] != calls
        dita.disable(model)
        assert [block._compiled_call_impl for block in model.transformer_blocks] == calls
        dita.enable(model, "fora:3", steps=6)
        broken = dict(inputs, hidden_states=torch.full_like(inputs["hidden_states"], torch.nan))
        with pytest.raises(ValueError, match="NaN"):
            tiny_pixart.forward(model, broken, 0.0)
    assert [block._compiled_call_impl for block in model.transformer_blocks] == calls


def test_a_block_that_is_compiled_again_during_a_run_stays_so() -> None:
    model, inputs = tiny_pixart.tiny_transformer(), tiny_pixart.transformer_inputs()
    first = model.transformer_blocks[0]
    first.compile(fullgraph=True, backend="eager")
    dita.enable(model, "fora:3", steps=6)
    with torch.no_grad():
        tiny_pixart.forward(model, inputs, 0.0)
        first.compile(fullgraph=True, backend="eager")
        call = first._compiled_call_impl
        dita.disable(model)
    assert first._compiled_call_impl is call
