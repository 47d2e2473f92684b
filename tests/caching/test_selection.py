"""Selections of a cycle: highest scores first, ages, ties, the spatial bonus."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dita.caching.rows import gather_rows, row_numbers, scatter_rows
from dita.caching.selection import SpatialBonus, best_first, select_cycle
from dita.caching.state import held_bytes


def one_layer(scores: list[float]) -> torch.Tensor:
    return torch.tensor(scores)[None, None]


def test_the_highest_scores_are_chosen_in_ascending_order_of_tokens() -> None:
    chosen = select_cycle(lambda j: one_layer([0.1, 0.9, 0.3, 0.8]), [[2]], age_weight=0.0)
    assert chosen[0][0].tolist() == [[1, 3]]


def test_ties_break_towards_the_lowest_token() -> None:
    assert best_first(torch.tensor([0.5, 0.7, 0.5, 0.7, 0.5]), 5).tolist() == [1, 3, 0, 2, 4]
    many = torch.zeros(3000)
    assert best_first(many, 100).tolist() == list(range(100))


@given(
    st.lists(st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0]), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_the_best_are_those_of_a_stable_sort(scores: list[float], share: float) -> None:
    values, count = torch.tensor(scores), round(share * len(scores))
    expected = values.sort(descending=True, stable=True).indices[:count]
    assert torch.equal(best_first(values, count), expected)


def test_ages_bring_the_others_forward() -> None:
    """N = 4 tokens, k = 1, age weight .3: worked by hand."""
    chosen = select_cycle(lambda j: one_layer([0.9, 0.5, 0.4, 0.0]), [[1], [1], [1], [1]], age_weight=0.3)
    # j=0: .9 .5 .4 0 -> 0; j=1: .9 .8 .7 .3 -> 0; j=2: .9 1.1 1.0 .6 -> 1; j=3: 1.2 .5 1.3 .9 -> 2
    assert [c[0].tolist() for c in chosen] == [[[0]], [[0]], [[1]], [[2]]]


def test_scores_drawn_anew_are_asked_for_at_each_step() -> None:
    draws = [one_layer([0.0, 1.0]), one_layer([1.0, 0.0])]
    chosen = select_cycle(lambda j: draws[j], [[1], [1]], age_weight=0.0)
    assert [c[0].tolist() for c in chosen] == [[[1]], [[0]]]


def test_samples_and_layers_choose_apart_and_layers_their_own_number() -> None:
    scores = torch.tensor([[[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], [[5.0, 1.0, 2.0], [2.0, 3.0, 0.0]]])  # (L, B, N)
    chosen = select_cycle(lambda j: scores, [[1, 2], [0, 1]], age_weight=0.0)
    assert chosen[0][0].tolist() == [[2], [0]]
    assert chosen[0][1].tolist() == [[0, 2], [0, 1]]
    assert chosen[1][0] is None
    assert chosen[1][1].tolist() == [[0], [1]]


@given(st.integers(1, 60), st.lists(st.integers(0, 60), min_size=1, max_size=5), st.floats(0, 2), st.integers(0, 9))
def test_selections_equal_a_naive_rendering(tokens: int, counts: list[int], weight: float, seed: int) -> None:
    base = torch.rand(1, 1, tokens, generator=torch.Generator().manual_seed(seed))
    counts = [min(k, tokens) for k in counts]
    chosen = select_cycle(lambda j: base, [[k] for k in counts], age_weight=weight)
    age = [0] * tokens
    for k, index in zip(counts, chosen, strict=True):
        scores = base[0, 0] + weight * torch.tensor(age, dtype=torch.float32)
        expected = sorted(sorted(range(tokens), key=lambda i: (-float(scores[i]), i))[:k])
        assert (index[0][0].tolist() if k else []) == expected
        age = [0 if i in expected else a + 1 for i, a in enumerate(age)]


def test_the_spatial_bonus_lifts_the_best_token_of_each_cell() -> None:
    grid = torch.arange(16.0).view(1, 16)  # 4x4, rows of 4: the best of a 2x2 cell is its lower right
    lifted = SpatialBonus(bonus=0.5, cell=2, grid=(4, 4)).apply(grid)
    expected = torch.arange(16.0)
    for best in (5, 7, 13, 15):
        expected[best] *= 1.5
    torch.testing.assert_close(lifted[0], expected)


def test_the_spatial_bonus_leaves_text_tokens_alone() -> None:
    scores = torch.tensor([[9.0, 9.0, 1.0, 2.0, 3.0, 4.0]])
    lifted = SpatialBonus(bonus=1.0, cell=2, grid=(2, 2), start=2).apply(scores)
    assert lifted.tolist() == [[9.0, 9.0, 1.0, 2.0, 3.0, 8.0]]


def test_cells_at_the_edge_of_a_grid_they_do_not_divide_are_smaller() -> None:
    grid = torch.arange(15.0).view(1, 15)  # 3x5: cells of 2x2, 2x2, 2x1 and 1x2, 1x2, 1x1
    lifted = SpatialBonus(bonus=1.0, cell=2, grid=(3, 5)).apply(grid)
    expected = torch.arange(15.0)
    for best in (6, 8, 9, 11, 13, 14):
        expected[best] *= 2
    assert torch.equal(lifted[0], expected)


@pytest.mark.parametrize("batch", [1, 3])
def test_gather_and_scatter_work_on_the_rows_of_each_sample(batch: int) -> None:
    x = torch.randn(batch, 5, 4)
    index = torch.stack([torch.randperm(5)[:2].sort().values for _ in range(batch)])
    rows = row_numbers(index, batch, 5)
    chosen = gather_rows(x, rows)
    for b in range(batch):
        assert torch.equal(chosen[b], x[b, index[b]])
    out = torch.zeros_like(x)
    scatter_rows(out, rows, chosen)
    for b in range(batch):
        assert torch.equal(out[b, index[b]], x[b, index[b]])
        assert out[b].count_nonzero() == 8


def test_one_index_serves_all_samples() -> None:
    assert row_numbers(torch.tensor([[1, 3]]), batch=2, tokens=5).tolist() == [1, 3, 6, 8]


def test_an_index_of_half_the_samples_serves_both_halves() -> None:
    assert row_numbers(torch.tensor([[1], [3]]), batch=4, tokens=5).tolist() == [1, 8, 11, 18]


def test_held_bytes_counts_shared_storage_once() -> None:
    base = torch.zeros(10, 4)
    assert held_bytes(iter([base, base[2:], torch.zeros(3)])) == 160 + 12
