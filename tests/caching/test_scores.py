"""Token scores against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dita.caching import scores
from dita.caching.selection import best_first


def test_received_attention_is_the_column_mean_of_the_attention_map() -> None:
    query, key = torch.randn(2, 700, 3, 8), torch.randn(2, 700, 3, 8)  # three chunks of queries
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / 8**0.5
    expected = logits.softmax(dim=-1).mean(dim=(1, 2))
    torch.testing.assert_close(scores.received_attention(query, key), expected)


def test_received_attention_sums_to_one() -> None:
    received = scores.received_attention(torch.randn(1, 5, 2, 4), torch.randn(1, 9, 2, 4))
    torch.testing.assert_close(received.sum(dim=-1), torch.ones(1))


def test_sampled_queries_estimate_the_exact_score() -> None:
    torch.manual_seed(0)
    common = torch.randn(1, 1, 4, 16)
    query = common + torch.randn(1, 2048, 4, 16)
    key = torch.randn(1, 2048, 4, 16)
    exact = scores.received_attention(query, key)[0]
    sample = scores.staggered(256, 2048, query.device)
    estimate = scores.received_attention(query[:, sample], key)[0]
    ranks = torch.stack([exact.argsort().argsort(), estimate.argsort().argsort()]).float()
    assert torch.corrcoef(ranks)[0, 1] > 0.95


def test_sampling_as_many_queries_as_tokens_is_exact() -> None:
    assert scores.staggered(256, 70, torch.device("cpu")).tolist() == list(range(70))
    assert scores.evenly_spaced(256, 70, torch.device("cpu")).tolist() == list(range(70))


@given(st.integers(1, 300), st.integers(1, 20_000))
def test_a_staggered_sample_has_one_token_of_each_part(count: int, tokens: int) -> None:
    sample = scores.staggered(count, tokens, torch.device("cpu"))
    count = min(count, tokens)
    parts = torch.arange(count)
    assert torch.equal(sample, sample.unique())
    assert (sample >= parts * tokens // count).all() and (sample < (parts + 1) * tokens // count).all()


@pytest.mark.parametrize(("count", "width"), [(32, 32), (64, 32), (96, 32), (128, 64)])
def test_a_staggered_sample_looks_at_all_columns_of_a_picture_alike(count: int, width: int) -> None:
    columns = scores.staggered(count, width * width, torch.device("cpu")) % width
    eighths = torch.bincount(columns // (width // 8), minlength=8)
    assert eighths.min() >= 0.5 * count / 8 and eighths.max() <= 1.5 * count / 8


def test_mean_length_by_hand() -> None:
    vectors = torch.tensor([[[[3.0, 4.0], [6.0, 8.0]]]])  # one token, heads of length 5 and 10
    assert scores.mean_length(vectors).tolist() == [[7.5]]


def test_live_scores_by_hand() -> None:
    tokens = torch.tensor([[[3.0, 4.0], [0.0, 12.0], [1.0, 0.0]]])
    stored = torch.tensor([[[3.0, 4.0], [0.0, -1.0], [0.0, 1.0]]])
    lengths = torch.tensor([5.0, 12.0, 1.0])
    torch.testing.assert_close(scores.live("norm", tokens, stored)[0], lengths)
    distance = torch.tensor([0.0, 2.0, 1.0])
    torch.testing.assert_close(scores.live("similarity", tokens, stored)[0], distance)


def test_random_scores_depend_on_every_part_of_the_seed() -> None:
    cpu = torch.device("cpu")
    draws = {tuple(scores.random_scores(4, s, cpu).tolist()) for s in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0)]}
    assert len(draws) == 5
    assert torch.equal(scores.random_scores(4, (1, 2), cpu), scores.random_scores(4, (1, 2), cpu))


@given(st.integers(4, 40), st.integers(4, 40), st.floats(0.1, 0.9))
def test_a_share_of_the_spread_covers_every_quarter_of_the_grid(height: int, width: int, share: float) -> None:
    chosen = (scores.spread(height * width, (height, width), torch.device("cpu")) < share).view(height, width)
    assert abs(chosen.float().mean() - share) < 0.6 / min(height, width)
    for half in (chosen[: height // 2], chosen[height // 2 :], chosen[:, : width // 2], chosen[:, width // 2 :]):
        assert abs(half.float().mean() - share) < 0.3


def test_the_entropy_of_attention_to_the_text_is_that_of_the_guided_pairs_mean_map() -> None:
    """Against the reference's own definition: one map over the text of both halves (spec/methods.md 3.4)."""
    query, key = torch.randn(2, 40, 3, 8), torch.randn(2, 5, 3, 8)
    bias = torch.zeros(2, 1, 1, 5)
    bias[0, ..., 3:] = -10000.0  # padding
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / 8**0.5 + bias
    maps = logits.softmax(dim=-1).mean(dim=1)  # (2, N, T)
    pair = torch.cat([maps[0], maps[1]], dim=-1) / 2  # the halves share no column
    entropy = -(pair * (pair + 1e-7).log()).sum(dim=-1)
    got = scores.entropy_score(scores.attention_entropy(query, key, bias), halves=True)
    torch.testing.assert_close(got[0], (1 + entropy) / (1 + entropy).norm())


def test_attention_to_one_word_has_the_least_entropy_and_even_attention_the_most() -> None:
    key = torch.eye(4)[None, :, None]  # four words, one head
    query = torch.stack([torch.tensor([60.0, 0, 0, 0]), torch.zeros(4)])[None, :, None]
    one, even = scores.attention_entropy(query, key, None)[0].tolist()
    half = torch.tensor(0.5)
    assert abs(one + 0.5 * float(half.log())) < 1e-4  # -1/2 ln 1/2
    assert abs(even + 4 * 0.125 * float(torch.tensor(0.125).log())) < 1e-4


def test_a_sample_without_guidance_scores_as_a_pair_with_the_same_text() -> None:
    entropies = torch.rand(1, 6)
    alone = scores.entropy_score(entropies, halves=False)
    torch.testing.assert_close(alone, scores.entropy_score(entropies.repeat(2, 1), halves=True))


def test_halves_that_share_a_score_weigh_alike() -> None:
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[40.0, 30.0]])
    shared = scores.combined(torch.cat([first, second]), shared=True)
    torch.testing.assert_close(shared, torch.full((1, 2), 0.5**0.5))
    apart = scores.combined(torch.cat([first, second]), shared=False)
    torch.testing.assert_close(apart, torch.tensor([[0.6, 0.8], [0.8, 0.6]]))


def test_the_tokens_of_a_cluster_are_ranked_in_a_spread_order() -> None:
    """Two clusters on a line, tokens 0, 1, 2 and 3, 4; multiples of the golden ratio put them as 0, 2, 4, 1, 3."""
    features = torch.tensor([[[0.0], [1.0], [2.1], [10.0], [12.0]]])
    found = scores.cluster_score(features, clusters=2, rounds=4)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1 / 3, 1 / 2, 1 / 2, 1.0]]))


def test_one_token_of_every_cluster_is_chosen_before_the_second_of_any() -> None:
    torch.manual_seed(0)
    centres = torch.randn(1, 4, 8) * 20
    features = (centres[:, :, None] + torch.randn(1, 4, 6, 8)).flatten(1, 2)
    first = best_first(scores.cluster_score(features, clusters=4), 4)[0]
    assert sorted((first // 6).tolist()) == [0, 1, 2, 3]


def test_what_is_like_a_pivot_is_a_duplicate() -> None:
    """Pivots are tokens 0 and 2: 1 is a copy of 0, 3 is at right angles to both."""
    features = torch.tensor([[[1.0, 0, 0], [2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0]]])
    torch.testing.assert_close(scores.novelty(features, pivots=2), torch.tensor([[2.0, 0.0, 2.0, 1.0]]))


def test_the_token_unlike_its_frame_and_the_video_is_unique() -> None:
    features = torch.ones(1, 6, 2)
    features[0, 4] = torch.tensor([1.0, -1.0])
    found = scores.frame_uniqueness(features, frames=3)
    assert found.argmax() == 4
    assert found[0, 5] > found[0, 0], "a token of a frame that is unlike the others"
    torch.testing.assert_close(found[0, 0], found[0, 3])
