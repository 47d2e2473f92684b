"""The feature store: what it holds is what was forecast, in every precision, on every device, below every bound."""

from __future__ import annotations

import warnings

import pytest
import torch

import dita
from dita.caching.branch import Branch
from dita.caching.keeping import Keeper, Packed, near, packed, rows_of, tensor_of, write_rows
from dita.caching.room import CacheMemoryError
from dita.fitting import with_store
from dita.footprint import Compiled, peak_bytes
from dita.methods import parse
from dita.shapes import Kind
from tests import tiny_dit, tiny_flux, tiny_opensora, tiny_pixart
from tests.for_family import method_for

FAMILIES = [tiny_flux, tiny_pixart, tiny_dit, tiny_opensora]
METHODS = (
    "fora:3",
    "toca:4:0.6:schedule=constant",
    "toca:4:0.6:norm:schedule=constant",
    "toca:3:0.6:schedule=constant:forecast=1",
    "duca:4:0.6:schedule=constant",
    "taylorseer:3:2",
    "taylorseer:3:2:lite=true",
    "taylorseer:3:2:modules=attention",
    "deltadit:3",
    "tgate:5",
    "pab:2:mlp=true:low=0:high=1000",
)
STORES = {
    "default": dita.Store(),
    "bf16": dita.Store("bf16"),
    "fp16": dita.Store("fp16"),
    "fp8": dita.Store("fp8"),
    "host": dita.Store(device="cpu"),
    "fp8-host": dita.Store("fp8", "cpu"),
}
STEPS = 8


@pytest.fixture(params=FAMILIES, ids=lambda module: module.FAMILY, scope="module")
def family(request):
    """The module that makes tiny transformers of one family, and calls them."""
    return request.param


@pytest.fixture(params=METHODS)
def method(request, family) -> dita.Method:
    """Every kind of plan that the family has."""
    return method_for(family.FAMILY, request.param)


def sample(family, model, method, steps: int = STEPS, **options) -> tuple[torch.Tensor, dita.Summary]:
    """The latents after a run of the bare transformer, and what was executed."""
    arguments = family.transformer_inputs(batch=2)
    dita.enable(model, method, steps=steps, **options)
    for s in range(steps):
        out = family.forward(model, arguments, s / steps)
        arguments["hidden_states"] = arguments["hidden_states"] - out / steps
    summary = dita.summary(model, show=False)
    dita.disable(model)
    return arguments["hidden_states"], summary


def independently_measured(monkeypatch) -> list[int]:
    """The bytes of all storages that slots and spans hold, and of the numbers beside them, at every moment at which the
    engine looks at them."""
    seen: list[int] = []
    original = Branch.held_bytes

    def looked_at(branch: Branch, inside: bool = False) -> int:
        storages = {}
        stored = [slot for state in branch.states for slot in state.slots.values()]
        for one in [*stored, *branch.spans.values(), branch.steady, branch.modulations]:
            for tensor in one.tensors():
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        numbers = [rows for queue in branch.selected.values() for rows in queue if rows is not None]
        numbers += [] if inside else [state.probe.scores for state in branch.states if state.probe.scores is not None]
        numbers += [slot.rows for slot in stored if slot.live is not None and slot.rows is not None and not inside]
        seen.append(sum(storages.values()) + sum(tensor.nbytes for tensor in numbers))
        return original(branch, inside)

    monkeypatch.setattr(Branch, "held_bytes", looked_at)
    return seen


# ------------------------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_what_is_held_is_what_was_forecast(family, method, store, monkeypatch) -> None:
    seen = independently_measured(monkeypatch)
    _, summary = sample(family, family.tiny_transformer(), method, store=store)
    plan = with_store(method.plan(summary.shape, STEPS), store)
    assert summary.cache_bytes == plan.cache_bytes == max(seen)
    assert summary.store == store and summary.dropped == 0


@pytest.mark.parametrize("score", ["attention-sampled", "random", "cluster", "norm"])
@pytest.mark.parametrize("calls", [1, 2])
def test_attention_is_kept_for_the_selected_tokens_alone(score: str, calls: int) -> None:
    """FLUX deep enough that tokens are selected inside of the full step."""
    method = parse(f"toca:4:0.8:{score}:schedule=constant")
    model, arguments = tiny_flux.tiny_transformer(0, 1, 19), tiny_flux.transformer_inputs()
    dita.enable(model, method, steps=STEPS, calls_per_step=calls)
    for s in range(STEPS):
        for _ in range(calls):
            tiny_flux.forward(model, arguments, s / STEPS)
    summary = dita.summary(model, show=False)
    plan = method.plan(type(summary.shape)(**{**vars(summary.shape), "branches": calls}), STEPS)
    if calls == 1:
        assert summary.cache_bytes == plan.cache_bytes
    else:  # the calls of a step store one after the other
        assert 0.95 * plan.cache_bytes <= summary.cache_bytes <= plan.cache_bytes
    if score != "norm":
        assert plan.cache_bytes < 0.95 * peak_bytes(plan, Compiled.WHOLE)


def test_selecting_inside_of_a_full_step_selects_the_same(monkeypatch) -> None:
    runs = []
    for block_count in (3, 100):
        monkeypatch.setattr("dita.plan.SETTLED", block_count)
        latents, summary = sample(tiny_flux, tiny_flux.tiny_transformer(0, 1, 8), "toca:4:0.7", record=True)
        runs.append((latents, summary.selections))
    (one, selected), (other, selected_at_once) = runs
    assert torch.equal(one, other) and selected.keys() == selected_at_once.keys()
    assert all(torch.equal(index, selected_at_once[key]) for key, index in selected.items())


def test_the_host_is_asked_for_its_memory(monkeypatch) -> None:
    model = tiny_dit.tiny_transformer()
    with pytest.raises(CacheMemoryError, match=r"available on cpu; .*max_cache_bytes"):
        sample(tiny_dit, model, "fora:3", store=dita.Store(device="cpu"), memory_limit=1000)
    dita.disable(model)


# ------------------------------------------------------------------------------------------------ what comes out


def test_the_host_s_memory_changes_no_bit(family, method) -> None:
    model = family.tiny_transformer()
    expected, _ = sample(family, model, method)
    assert torch.equal(sample(family, model, method, store=dita.Store())[0], expected)
    assert torch.equal(sample(family, model, method, store=dita.Store(device="cpu"))[0], expected)
    packed_here = sample(family, model, method, store=dita.Store("fp8"))[0]
    assert torch.equal(sample(family, model, method, store=dita.Store("fp8", "cpu"))[0], packed_here)


@pytest.mark.parametrize(("dtype", "bound"), [("fp16", 0.005), ("bf16", 0.03), ("fp8", 0.2)])
def test_fewer_bits_cost_little(family, dtype: str, bound: float) -> None:
    """Relative error of the latents after a run: large random weights, so that features matter more than in a model."""
    model = family.tiny_transformer()
    for method in ("fora:3", "toca:4:0.6:random:schedule=constant", "taylorseer:3:1"):
        expected, _ = sample(family, model, method)
        latents, _ = sample(family, model, method, store=dita.Store(dtype))
        error = float((latents - expected).norm() / expected.norm())
        assert 0 < error < bound, method


def test_a_store_in_the_model_s_own_precision_is_bit_equal() -> None:
    model = tiny_flux.tiny_transformer().to(torch.bfloat16)
    arguments = {
        key: value.bfloat16() if value.ndim != 2 or key == "pooled_projections" else value
        for key, value in tiny_flux.transformer_inputs().items()
    }

    def run(store: dita.Store | None) -> torch.Tensor:
        dita.enable(model, "toca:3:0.5", steps=5, store=store)
        for s in range(5):
            out = model(**arguments, timestep=torch.tensor([1 - s / 5], dtype=torch.bfloat16), return_dict=False)[0]
        return out

    assert torch.equal(run(dita.Store("bf16")), run(None))
    assert not torch.equal(run(dita.Store("fp8")), run(None))


def test_full_steps_are_stock_whatever_the_store(family) -> None:
    model, inputs = family.tiny_transformer(), family.transformer_inputs(batch=2)
    expected = family.forward(model, inputs, 0.0)
    for store in STORES.values():
        dita.enable(model, parse("fora:2"), steps=4, store=store)
        assert torch.equal(family.forward(model, inputs, 0.0), expected)
        dita.disable(model)


# ------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_bound_holds_and_the_summary_says_what_it_costs(family, method, share: float) -> None:
    model = family.tiny_transformer()
    free, unbounded = sample(family, model, method)
    store = dita.Store(max_cache_bytes=int(share * unbounded.cache_bytes))
    latents, summary = sample(family, model, method, store=store)
    plan = with_store(method.plan(summary.shape, STEPS), store)
    assert summary.cache_bytes == plan.cache_bytes <= store.max_cache_bytes
    assert summary.flops == plan.flops() > unbounded.flops
    assert summary.kinds == plan.kinds and summary.dropped == len(plan.dropped) > 0
    assert f"computed in full  {summary.dropped} of {len(summary.shape.sites())} sites" in str(summary)
    assert not torch.equal(latents, free)
    if not share:
        plain, _ = sample(family, model, "plain")
        assert torch.equal(latents, plain)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_bound_holds_in_a_pipeline_whose_timesteps_are_known(family, share: float) -> None:
    pipe = family.tiny_pipeline()
    plain = family.call(pipe)
    dita.enable(pipe, "toca:4:0.6")
    family.call(pipe)
    limit = int(share * dita.summary(pipe, show=False).cache_bytes)
    dita.enable(pipe, "toca:4:0.6", store=dita.Store(max_cache_bytes=limit))
    out, summary = family.call(pipe), dita.summary(pipe, show=False)
    assert summary.cache_bytes <= limit and summary.dropped
    assert torch.equal(out, plain) == (set(summary.kinds) == {Kind.FULL}) == (share < 0.5)


def test_cross_attention_behind_the_end_of_guidance_is_not_given_up() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    dita.enable(pipe, "tgate:3", store=dita.Store(max_cache_bytes=0))
    with pytest.raises(ValueError, match=r"max_cache_bytes is 0, and tgate:3 on pixart needs [1-9]\d* at least"):
        tiny_pixart.call(pipe)
    dita.enable(pipe, "tgate:3", store=dita.Store(max_cache_bytes=10**6))
    tiny_pixart.call(pipe)


def test_two_calls_of_a_step_share_a_bound() -> None:
    model, arguments = tiny_flux.tiny_transformer(), tiny_flux.transformer_inputs()
    limit = 40_000
    dita.enable(model, "fora:3", steps=5, calls_per_step=2, store=dita.Store(max_cache_bytes=limit))
    for s in range(5):
        for _ in range(2):
            tiny_flux.forward(model, arguments, s / 5)
    assert 0.5 * limit < dita.summary(model, show=False).cache_bytes <= limit


def test_true_guidance_in_two_calls_shares_a_bound() -> None:
    pipe = tiny_flux.tiny_pipeline()
    negative = {f"negative_{key}": value for key, value in tiny_flux.prompts(seed=5).items()}
    dita.enable(pipe, "fora:3")
    tiny_flux.call(pipe, true_cfg_scale=3.0, **negative)
    limit = dita.summary(pipe, show=False).cache_bytes // 2
    dita.enable(pipe, "fora:3", store=dita.Store(max_cache_bytes=limit))
    tiny_flux.call(pipe, true_cfg_scale=3.0, **negative)
    summary = dita.summary(pipe, show=False)
    assert 0.5 * limit < summary.cache_bytes <= limit
    halves = [[call.flops for call in summary.executed if call.branch == branch] for branch in (0, 1)]
    assert halves[0] == halves[1]


# ------------------------------------------------------------------------------------------------ no trace, and errors


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_nothing_is_held_afterwards_and_disable_leaves_no_trace(family, store) -> None:
    pipe = family.tiny_pipeline()
    plain = family.call(pipe)
    dita.enable(pipe, "toca:4:0.6", store=store)
    family.call(pipe)
    for block in family.blocks(pipe.transformer):
        assert all(not list(slot.tensors()) for slot in block._dita.slots.values())
    dita.enable(pipe, "toca:4:0.6")
    assert dita.summary.__name__ == "summary"
    dita.disable(pipe)
    assert torch.equal(family.call(pipe), plain)


def test_a_store_must_be_one() -> None:
    with pytest.raises(ValueError, match=r"store must be a dita.Store such as Store\(dtype='fp8'\), got 'fp8'"):
        dita.enable(tiny_dit.tiny_transformer(), "fora:3", steps=4, store="fp8")


# ------------------------------------------------------------------------------------------------ compiled


@pytest.mark.parametrize("store", [dita.Store("fp8"), dita.Store("bf16", "cpu"), dita.Store(device="cpu")], ids=str)
@pytest.mark.parametrize("method", ["toca:3:0.6:random:schedule=constant", "taylorseer:3:1"])
def test_compiled_blocks_keep_what_eager_ones_keep(store: dita.Store, method: str) -> None:
    from torch._dynamo.testing import CompileCounter

    counts = {}
    for depth in (3, 6):
        torch._dynamo.reset()
        expected, _ = sample(tiny_flux, tiny_flux.tiny_transformer(0, depth, depth), method, store=store)
        model, counter = tiny_flux.tiny_transformer(0, depth, depth), CompileCounter()
        model.compile_repeated_blocks(fullgraph=True, backend=counter)
        with torch._dynamo.config.patch(recompile_limit=12):
            latents, summary = sample(tiny_flux, model, method, store=store)
        assert torch.allclose(latents, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = with_store(parse(method).plan(summary.shape, STEPS), store)
        assert summary.cache_bytes == peak_bytes(plan, Compiled.BLOCKS)
        counts[depth] = counter.frame_count
    assert counts[3] == counts[6], "graphs depend on what a block may do, not on depth"
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["toca:3:0.6:random:schedule=constant", "taylorseer:3:1"])
def test_between_compiled_blocks_memory_is_freed_and_inside_of_one_graph_it_is_not(method: str) -> None:
    held = {}
    for compiled in Compiled:
        torch._dynamo.reset()
        model = tiny_flux.tiny_transformer(0, 3, 20)
        if compiled is Compiled.BLOCKS:
            model.compile_repeated_blocks(fullgraph=True, backend="eager")
        if compiled is Compiled.WHOLE:
            model.compile(fullgraph=True, backend="eager")
        calls = {block: block._compiled_call_impl for block in model.single_transformer_blocks}
        with torch._dynamo.config.patch(recompile_limit=12):
            _, summary = sample(tiny_flux, model, method)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = parse(method).plan(summary.shape, STEPS)
        assert summary.cache_bytes == peak_bytes(plan, compiled)
        held[compiled] = summary.cache_bytes
        assert {block: block._compiled_call_impl for block in calls} == calls, "a run leaves nothing behind"
    assert held[Compiled.BLOCKS] <= held[Compiled.NOTHING]
    assert held[Compiled.BLOCKS] < held[Compiled.WHOLE]
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ numbers


def test_float8_keeps_every_number_to_a_sixteenth_of_itself_or_of_its_tokens_smallest_step() -> None:
    x = torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 50)[:, None]
    kept = Keeper(dita.Store("fp8")).keep(x)
    assert isinstance(kept, Packed) and kept.scale is not None and kept.scale.shape == (2, 50, 1)
    error = (tensor_of(kept) - x).abs()
    assert (error <= x.abs() / 16 + kept.scale * 2**-9).all()  # half of the last of 3 bits, or of a subnormal
    largest = x.abs().amax(-1)
    assert torch.allclose(tensor_of(kept).abs().amax(-1), largest, rtol=1e-6), "the largest of a token is exact"


def test_a_token_of_zeros_stays_zero() -> None:
    assert torch.equal(tensor_of(Keeper(dita.Store("fp8")).keep(torch.zeros(1, 3, 8))), torch.zeros(1, 3, 8))


def test_float16_saturates() -> None:
    values, _ = packed(torch.tensor([[1e6, -1e6, 3.0]]).bfloat16(), torch.float16)
    assert values.tolist() == [[65504.0, -65504.0, 3.0]]


@pytest.mark.parametrize("dtype", [None, "bf16", "fp16", "fp8"])
def test_rows_are_read_and_written_in_the_store_s_precision(dtype: str | None) -> None:
    keeper = Keeper(dita.Store(dtype))
    x, new = torch.randn(2, 5, 8), torch.randn(2, 2, 8)
    rows = torch.tensor([1, 3, 5, 9])
    kept = near(keeper.keep(x.clone()))
    assert torch.equal(tensor_of(rows_of(kept, rows)), tensor_of(keeper.keep(x)).reshape(-1, 8)[rows].view(2, 2, 8))
    write_rows(kept, rows, new)
    expected = tensor_of(keeper.keep(x.clone())).clone()
    expected.view(-1, 8)[rows] = tensor_of(keeper.keep(new)).reshape(-1, 8)
    assert torch.equal(tensor_of(kept), expected)
