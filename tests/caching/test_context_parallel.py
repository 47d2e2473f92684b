"""dita on a transformer whose tokens two processes share, as diffusers' `enable_parallelism` divides them (gloo)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

import dita
from dita.caching import context_parallel, scores
from dita.caching.context_parallel import Divided, Ranks
from dita.methods import SCORES, ToCa
from tests import tiny_dit, tiny_flux
from tests.launched import launched
from tests.nearness import distance
from tests.sampling_loop import sample

STEPS = 8
BY_SCORE = {score: ToCa(3, 0.5, score=score) for score in SCORES if score != "frame-uniqueness"}
CHOOSING: dict[str, Any] = BY_SCORE | {
    "few tokens": ToCa(3, 0.95),
    "forecast": ToCa(3, 0.5, forecast=1),
    "spatial bonus": ToCa(3, 0.5, spatial_bonus=0.8, spatial_grid=2),
    "duca": "duca:3:0.5:k-norm",
}
METHODS: dict[str, Any] = CHOOSING | {
    "nothing skipped": "toca:1:0.9",
    "fora": "fora:3",
    "taylorseer": "taylorseer:3:1",
    "of attention alone": "taylorseer:3:1:modules=attention",
}
STORES = {"host": dita.Store(device="cpu"), "fp8": dita.Store("fp8"), "bounded": dita.Store(max_cache_bytes=60_000)}


def divided() -> torch.nn.Module:
    """The tiny transformer, its tokens divided among the ranks."""
    model = tiny_flux.tiny_transformer()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    return model


def run(model: torch.nn.Module, method: Any = None, batch: int = 2, **kwargs) -> dict[str, Any]:
    """What comes out; with a method also what its summary says."""
    if method is not None:
        dita.enable(model, method, steps=STEPS, record=True, **kwargs)
    found: dict[str, Any] = {"out": sample(tiny_flux, model, tiny_flux.transformer_inputs(batch=batch), STEPS)}
    if method is not None:
        summary = dita.summary(model, show=False)
        chosen = {f"{step} {site}": tokens for (step, site), tokens in summary.selections.items()}
        found |= {"chosen": chosen, "flops": summary.flops, "tokens": summary.executed[1].tokens}
        found |= {"bytes": summary.cache_bytes, "dropped": summary.dropped}
        dita.disable(model)
    return found


def on_both_ranks(work, folder: Path) -> list[dict]:
    """What `work()` returned on each of two ranks, tensors."""

    def rank() -> None:
        torch.set_num_threads(1)
        torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and a CPU is none
        dist.init_process_group("gloo")
        with torch.no_grad():
            torch.save(work(), folder / f"{dist.get_rank()}.pt")
        dist.barrier()
        dist.destroy_process_group()

    assert launched(rank) == [0, 0]
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    def work() -> dict:
        model = divided()
        found = {"plain": run(model)}
        for name, method in METHODS.items():
            found[name] = run(model, method)
        for name, store in STORES.items():
            found[name] = run(model, ToCa(3, 0.5), store=store)
        found["one sample"] = run(model, ToCa(3, 0.5), batch=1)
        found["plain again"] = run(model)
        model = dita.enable(tiny_flux.tiny_transformer(), ToCa(3, 0.5), steps=STEPS)
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        found["enabled first"] = run(model)
        return found

    return on_both_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    model = tiny_flux.tiny_transformer()
    with torch.no_grad():
        found = {"plain": run(model), "one sample": run(model, ToCa(3, 0.5), batch=1)}
        found |= {name: run(model, method) for name, method in METHODS.items()}
        return found | {name: run(model, ToCa(3, 0.5), store=store) for name, store in STORES.items()}


def test_both_ranks_end_with_the_same_latents(ranks) -> None:
    for name, found in ranks[0].items():
        assert torch.equal(found["out"], ranks[1][name]["out"]), name


def test_where_nothing_is_skipped_the_output_is_that_of_the_parallel_model(ranks) -> None:
    assert torch.equal(ranks[0]["nothing skipped"]["out"], ranks[0]["plain"]["out"])
    assert torch.equal(ranks[0]["plain again"]["out"], ranks[0]["plain"]["out"]), "and nothing is left"


def test_it_does_not_matter_which_is_enabled_first(ranks) -> None:
    assert torch.equal(ranks[0]["enabled first"]["out"], ranks[0]["attention-sampled"]["out"])


@pytest.mark.parametrize("name", ["plain", "one sample", *METHODS, "host", "fp8"])
def test_the_output_is_that_of_one_process(ranks, alone, name: str) -> None:
    # in eight bits, another order of additions can round a number to the next of few
    assert distance(ranks[0][name]["out"], alone[name]["out"]) < (2e-3 if name == "fp8" else 1e-5)


@pytest.mark.parametrize("name", [*CHOOSING, "one sample"])
def test_both_ranks_choose_the_tokens_that_one_process_chooses(ranks, alone, name: str) -> None:
    expected = alone[name]["chosen"]
    assert expected
    for rank in ranks:
        assert rank[name]["chosen"].keys() == expected.keys()
        for place, tokens in expected.items():
            assert torch.equal(rank[name]["chosen"][place], tokens), place


def test_one_rank_may_hold_more_of_them_than_the_other(ranks) -> None:
    unequal = empty = 0
    for place, tokens in ranks[0]["few tokens"]["chosen"].items():
        if place.endswith(".mlp"):
            held = (tokens < 32).sum(dim=1)  # of 64 image tokens, the first half
            unequal += int((2 * held != tokens.shape[1]).sum())
            empty += int((held == 0).sum())
    assert unequal and empty


def test_counts_are_those_of_all_ranks_together(ranks, alone) -> None:
    for name in METHODS:
        assert ranks[0][name]["flops"] == alone[name]["flops"]
        assert ranks[0][name]["tokens"] == alone[name]["tokens"]


def test_a_rank_holds_its_part_of_the_store(ranks, alone) -> None:
    # beside the features, the record and modulations are of all
    for name in ("fora", "taylorseer"):
        assert 0.5 <= ranks[0][name]["bytes"] / alone[name]["bytes"] < 0.6


def test_the_bound_of_the_store_is_that_of_a_rank(ranks, alone) -> None:
    assert alone["bounded"]["dropped"] > ranks[0]["bounded"]["dropped"] > 0
    assert ranks[0]["bounded"]["bytes"] <= 60_000


@pytest.mark.slow
def test_compiled_blocks_take_whatever_number_a_rank_holds(tmp_path, alone) -> None:
    def work() -> dict:
        found: dict[str, Any] = {}
        model = divided()
        model.compile_repeated_blocks(fullgraph=True, backend="eager")
        for times in range(2):  # the second time, nothing is new
            found["out"] = run(model, ToCa(3, 0.5))["out"]
            found[f"graphs {times}"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        return found

    for rank in on_both_ranks(work, tmp_path):
        assert distance(rank["out"], alone["attention-sampled"]["out"]) < 1e-5
        assert 0 < rank["graphs 0"] == rank["graphs 1"]


def test_attention_is_scored_as_one_process_scores_it(tmp_path) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 10, 3, 8), torch.randn(2, 300, 3, 8)

    def work() -> dict:
        ranks = Ranks(dist.group.WORLD)
        own = key.chunk(2, dim=1)[ranks.number]
        unequal = query.split([3, 7], dim=1)[ranks.number]
        return {
            "equal": ranks.received_attention(query.chunk(2, dim=1)[ranks.number], own),
            "unequal": ranks.received_attention(unequal, own, [3, 7]),
        }

    found = on_both_ranks(work, tmp_path)
    for name in ("equal", "unequal"):
        joined = torch.cat([rank[name] for rank in found], dim=1)
        torch.testing.assert_close(joined, scores.received_attention(query, key))
        torch.testing.assert_close(joined.sum(dim=1), torch.ones(2))


def ranks_of_three(number: int) -> Any:
    return SimpleNamespace(count=3, number=number)


def order_of(rank: int, tokens: int, text: int) -> list[int]:
    """Which of all tokens a rank of three holds, in its own order."""
    numbers = torch.arange(tokens)
    return torch.cat([numbers[:text].chunk(3)[rank] if text else numbers[:0], numbers[text:].chunk(3)[rank]]).tolist()


@pytest.mark.parametrize("text", [0, 6, 12])
def test_chosen_rows_are_found_among_those_that_a_rank_holds(text: int) -> None:
    rows = torch.tensor([[0, 1, 5, 6, 7, 17, 20], [2, 3, 4, 11, 12, 13, 14]]) + torch.tensor([[0], [21]])
    rows, none = rows.flatten(), rows.flatten()[:0]
    values, found = torch.randn(2 * 21, 4), []
    for number in range(3):
        order = order_of(number, 21, text)
        own = values.view(2, 21, 4)[:, order].reshape(-1, 4)
        held, empty = Divided(ranks_of_three(number), 21, text).own([rows, none])
        assert len(empty) == 0
        assert held.tolist() == sorted(held.tolist())
        found.append(own[held])
    both = torch.cat(found)
    assert len(both) == rows.numel(), "every one is held once"
    assert {tuple(row) for row in both.tolist()} == {tuple(row) for row in values[rows].tolist()}


@pytest.mark.parametrize("text", [0, 6, 30])
@pytest.mark.parametrize("count", [1, 7, 39])
def test_a_sample_of_queries_is_divided_as_their_tokens_are(text: int, count: int) -> None:
    by_rank = Divided(ranks_of_three(0), 39, text).staggered(count)
    taken = [order_of(rank, 39, text)[number] for rank, numbers in enumerate(by_rank) for number in numbers]
    assert sorted(taken) == scores.staggered(count, 39, torch.device("cpu")).tolist()


def parallel(model: torch.nn.Module, **config) -> torch.nn.Module:
    """`model` as if a process were one of two that share its tokens."""
    settings = ContextParallelConfig(ulysses_degree=2, **config)
    settings._flattened_mesh = SimpleNamespace(get_group=lambda: None)
    model._parallel_config = SimpleNamespace(context_parallel_config=settings)
    return model


@pytest.fixture
def one_of_two(monkeypatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "get_rank", lambda group: 0)


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="ulysses_anything"):
        context_parallel.ranks_of_model(parallel(tiny_flux.tiny_transformer(), ulysses_anything=True))


def test_merging_is_refused(one_of_two) -> None:
    model = parallel(dita.enable(tiny_flux.tiny_transformer(), "tome:0.5:force=true", steps=STEPS))
    with pytest.raises(ValueError, match="each rank holds a part"):
        run(model)


def test_selection_inside_of_compiled_blocks_is_refused(one_of_two) -> None:
    model = dita.enable(tiny_flux.tiny_transformer(), ToCa(3, 0.5, score="norm"), steps=STEPS)
    model.compile_repeated_blocks(fullgraph=True)
    with pytest.raises(ValueError, match="take another score, or do not compile"):
        run(parallel(model))


def test_a_family_that_dita_does_not_divide_is_refused(one_of_two) -> None:
    model = parallel(dita.enable(tiny_dit.tiny_transformer(), "fora:3", steps=STEPS))
    with pytest.raises(ValueError, match="on FLUX only, not on dit"):
        sample(tiny_dit, model, tiny_dit.transformer_inputs(), STEPS)
