"""Bipartite soft matching: the golden vectors of tomesd, and cases that can be worked by hand."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from dita.merges import Cells
from dita.merging.matching import Matching, cell_order, match

CASES = (
    "a_8x8_s2_r16",
    "b_8x8_s2_r32",
    "c_8x8_s2_rmax",
    "d_12x8_s3x2_r40",
    "e_7x9_s2_r20",
    "f_10x6_s4x3_r25",
    "g_8x8_r0",
)


def top_left(cells: Cells) -> torch.Tensor:
    return cell_order(cells, torch.zeros(cells.destinations, dtype=torch.int64))


# ---------------------------------------------------------------------------------------- the reference's values


@pytest.fixture(scope="module")
def cases(golden):
    folder = golden / "tome"
    return json.loads((folder / "data.json").read_text()), load_file(folder / "data.safetensors")


def golden_matching(cases, name: str) -> tuple[dict, dict[str, torch.Tensor], Matching]:
    facts, tensors = cases
    case = facts[name]
    stored = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    cells = Cells((case["h"], case["w"]), (case["sy"], case["sx"]))
    offsets = stored.get("rand_idx", torch.zeros(cells.destinations, dtype=torch.int64))
    removed = cells.removed(case["r_requested"] / cells.tokens)
    assert removed == case.get("r_used", 0)
    return case, stored, match(stored["metric"], cell_order(cells, offsets.flatten()), cells.destinations, removed)


def test_every_golden_case_is_checked(cases) -> None:
    assert set(cases[0]) == set(CASES)


@pytest.mark.parametrize("name", CASES[:-1])
def test_the_chosen_tokens_are_the_references(cases, name: str) -> None:
    case, stored, matching = golden_matching(cases, name)
    cells, alone = Cells((case["h"], case["w"]), (case["sy"], case["sx"])), matching.kept.shape[1] - case["num_dst"]
    assert cells.destinations == case["num_dst"]
    assert torch.equal(matching.kept[0, alone:], stored["dst_positions"].flatten().sort().values)
    assert torch.equal(matching.merged, stored["src_merged_positions"])
    assert torch.equal(matching.kept[:, :alone], stored["unmerged_positions"])
    into = matching.row.gather(1, matching.merged)
    assert torch.equal(matching.kept.gather(1, into), stored["src_merged_into"])


@pytest.mark.parametrize("name", CASES)
def test_merged_and_unmerged_values_are_the_references(cases, name: str) -> None:
    case, stored, matching = golden_matching(cases, name)
    x, alone = stored["x"], matching.kept.shape[1] - case.get("num_dst", 16)
    merged = matching.merge(x)
    order = torch.arange(merged.shape[1])
    if "dst_row_order" in stored:  # the reference's destinations come in another order, which is not defined there
        order = torch.cat([order[:alone], alone + stored["dst_row_order"].argsort().argsort()])
    else:  # nothing merged: the reference hands out its input
        order = matching.row[0]
    for ours, expected in ((merged, stored["merged"]), (matching.total(x), stored["merged_sum"])):
        assert torch.allclose(ours[:, order], expected, atol=1e-5, rtol=0)
    assert torch.allclose(matching.unmerge(merged), stored["unmerged"], atol=1e-5, rtol=0)
    back = torch.empty_like(stored["processed"])
    back[:, order] = stored["processed"]
    assert torch.allclose(matching.unmerge(back), stored["processed_unmerged"], atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ by hand


def test_a_row_of_four_tokens_by_hand() -> None:
    """Destinations are tokens 0 and 2. Token 3 is nearly token 0, token 1 is between both: one merge takes token 3."""
    metric = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [2.0, 0.1]]])
    cells = Cells((4,), (2,))
    matching = match(metric, top_left(cells), cells.destinations, cells.removed(0.25))
    assert matching.merged.tolist() == [[3]]
    assert matching.kept.tolist() == [[1, 0, 2]]
    assert matching.size.tolist() == [[1, 2, 1]]
    x = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
    merged = matching.merge(x)
    assert merged.flatten().tolist() == [20, 25, 30]
    assert matching.unmerge(merged).flatten().tolist() == [25, 20, 30, 25]


def test_nothing_removed_is_the_identity() -> None:
    x = torch.randn(2, 12, 5)
    cells = Cells((3, 4), (2, 2))
    matching = match(x, top_left(cells), cells.destinations, 0)
    assert torch.equal(matching.unmerge(matching.merge(x)), x)


def test_tokens_that_are_equal_within_their_groups_come_back_as_they_were() -> None:
    values = torch.randn(1, 3, 6)
    x = values[:, torch.arange(36) % 3]
    cells = Cells((6, 6), (2, 2))
    matching = match(x, top_left(cells), cells.destinations, cells.removed(0.75))
    assert matching.kept.shape == (1, 9)
    assert torch.allclose(matching.unmerge(matching.merge(x)), x, atol=1e-6)


def test_equal_similarities_merge_the_lowest_number_first() -> None:
    cells = Cells((2, 4), (2, 2))
    matching = match(torch.ones(1, 8, 3), top_left(cells), cells.destinations, 3)
    assert matching.merged.tolist() == [[1, 3, 4]]
    assert matching.row.gather(1, matching.merged).tolist() == [[3, 3, 3]], "and the first destination takes them"


def test_tokens_without_any_length_are_no_trouble() -> None:
    cells = Cells((2, 2), (2, 2))
    matching = match(torch.zeros(1, 4, 3), top_left(cells), 1, 2)
    assert torch.isfinite(matching.merge(torch.zeros(1, 4, 3))).all()


def test_what_is_left_over_at_the_edge_is_a_source() -> None:
    cells = Cells((3, 5), (2, 2))
    assert (cells.tokens, cells.destinations) == (15, 2)
    assert top_left(cells).tolist() == [0, 2, *sorted({*range(15)} - {0, 2})]


def test_offsets_count_row_by_row_in_a_cell() -> None:
    cells = Cells((4, 6), (2, 3))
    destinations = cell_order(cells, torch.tensor([0, 5, 3, 1]))[:4]
    assert destinations.tolist() == [0, 11, 16, 18]


def test_cells_in_space_and_time() -> None:
    cells = Cells((2, 2, 2), (2, 1, 2))
    assert cell_order(cells, torch.tensor([3, 0])).tolist()[:2] == [2, 5]


def test_the_mean_of_many_half_precision_tokens_is_exact_to_their_precision() -> None:
    x = torch.full((1, 4096, 1), 0.1, dtype=torch.bfloat16)
    cells = Cells((64, 64), (64, 64))
    matching = match(x, top_left(cells), 1, 4095)
    assert torch.equal(matching.merge(x)[0, 0], x[0, 0])


# ------------------------------------------------------------------------------------------------ for any sizes


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1), st.integers(0, 99))
def test_every_token_is_stood_for_by_one_row(height, width, sy, sx, ratio, seed) -> None:
    if height < sy or width < sx:
        with pytest.raises(ValueError, match=f"{sy}x{sx} tokens does not fit into a grid of {height}x{width}"):
            Cells((height, width), (sy, sx))
        return
    cells = Cells((height, width), (sy, sx))
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(sy * sx, (cells.destinations,), generator=generator)
    order = cell_order(cells, offsets)
    assert sorted(order.tolist()) == list(range(cells.tokens))
    x = torch.randn(2, cells.tokens, 3, generator=generator)
    matching = match(x, order, cells.destinations, cells.removed(ratio))
    assert torch.equal(matching.size.sum(dim=1), torch.full((2,), float(cells.tokens)))
    assert torch.equal(torch.cat([matching.kept, matching.merged], dim=1).sort().values[0], torch.arange(cells.tokens))
    assert torch.equal(matching.row.gather(1, matching.kept)[1], torch.arange(matching.kept.shape[1]))
    merged = matching.merge(x)
    assert torch.allclose((merged * matching.size[..., None]).sum(dim=1), x.sum(dim=1), atol=1e-4)
    assert torch.allclose(matching.merge(matching.unmerge(merged)), merged, atol=1e-5), "merging again changes nothing"
