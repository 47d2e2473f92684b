"""dita on a transformer whose tokens two processes share, as diffusers' `enable_parallelism` divides them (gloo)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

import dita
from dita.caching import context_parallel, scores
from tests import tiny_flux
from tests.launched import launched
from tests.nearness import distance
from tests.sampling_loop import sample

STEPS = 8
METHODS = ["toca:1:0.9", "fora:3", "taylorseer:3:1", "duca:3:0.5:k-norm", "toca:3:0.5", "toca:3:0.5:random"]


def divided() -> torch.nn.Module:
    """The tiny transformer, its tokens divided among the ranks."""
    model = tiny_flux.tiny_transformer()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    return model


def run(model: torch.nn.Module, method: str | None) -> torch.Tensor:
    if method is not None:
        dita.enable(model, method, steps=STEPS, record=True)
    return sample(tiny_flux, model, tiny_flux.transformer_inputs(batch=2), STEPS)


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
        found = {"plain": run(model, None)}
        for method in METHODS:
            found[method] = run(model, method)
            chosen = dita.summary(model, show=False).selections
            found[f"{method} numbers"] = {f"{step} {site}": rows for (step, site), rows in chosen.items()}
            dita.disable(model)
        found["plain again"] = run(model, None)
        model = dita.enable(tiny_flux.tiny_transformer(), "toca:3:0.5", steps=STEPS)
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        found["enabled first"] = run(model, None)
        return found

    return on_both_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {method: run(tiny_flux.tiny_transformer(), method) for method in METHODS} | {
            "plain": run(tiny_flux.tiny_transformer(), None)
        }


def test_both_ranks_end_with_the_same_latents(ranks) -> None:
    for method in ("plain", *METHODS):
        assert torch.equal(ranks[0][method], ranks[1][method]), method


def test_where_nothing_is_skipped_the_output_is_that_of_the_parallel_model(ranks) -> None:
    assert torch.equal(ranks[0]["toca:1:0.9"], ranks[0]["plain"])
    assert torch.equal(ranks[0]["plain again"], ranks[0]["plain"]), "and nothing is left"


def test_it_does_not_matter_which_is_enabled_first(ranks) -> None:
    assert torch.equal(ranks[0]["enabled first"], ranks[0]["toca:3:0.5"])


@pytest.mark.parametrize("method", ["plain", "fora:3", "taylorseer:3:1"])
def test_what_chooses_no_tokens_is_that_of_one_process(ranks, alone, method: str) -> None:
    assert distance(ranks[0][method], alone[method]) < 1e-5


@pytest.mark.parametrize("method", ["toca:3:0.5", "toca:3:0.5:random", "duca:3:0.5:k-norm"])
def test_chosen_tokens_bring_the_ranks_as_near_to_plain_as_one_process(ranks, alone, method: str) -> None:
    own = distance(ranks[0][method], alone["plain"])
    assert own <= 1.25 * distance(alone[method], alone["plain"])
    if method.startswith("toca"):
        assert own < distance(ranks[0]["fora:3"], alone["plain"]), "and nearer than without"


@pytest.mark.parametrize("method", ["toca:3:0.5", "toca:3:0.5:random", "duca:3:0.5:k-norm"])
def test_ranks_choose_as_many_tokens_in_the_same_places_of_the_plan(ranks, method: str) -> None:
    first, second = (rank[f"{method} numbers"] for rank in ranks)
    assert first and first.keys() == second.keys()
    for place, rows in first.items():
        assert rows.shape == second[place].shape, place
        if method.endswith("random"):
            assert torch.equal(rows, second[place]), "numbers are drawn alike on all ranks"


def test_attention_is_scored_as_one_process_scores_it(tmp_path) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 10, 3, 8), torch.randn(2, 300, 3, 8)

    def work() -> dict:
        rank = dist.get_rank()
        own = query.chunk(2, dim=1)[rank], key.chunk(2, dim=1)[rank]
        return {"scores": context_parallel.received_attention(*own, dist.group.WORLD)}

    found = torch.cat([rank["scores"] for rank in on_both_ranks(work, tmp_path)], dim=1)
    torch.testing.assert_close(found, scores.received_attention(query, key))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


def test_unequal_parts_are_refused() -> None:
    model = tiny_flux.tiny_transformer()
    config = ContextParallelConfig(ulysses_degree=2, ulysses_anything=True)
    model._parallel_config = type("Parallel", (), {"context_parallel_config": config})()
    with pytest.raises(ValueError, match="ulysses_anything"):
        context_parallel.degree(model)
