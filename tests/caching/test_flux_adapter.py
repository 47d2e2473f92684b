"""What the FLUX adapter does with tensors, apart from whole models."""

from __future__ import annotations

import pytest
import torch

from dita.caching.adapters.flux import _joint, _rejoin, _sample, _sampled
from dita.caching.probe import Common


@pytest.mark.parametrize("batch", [1, 3])
def test_a_sequence_that_was_split_is_rejoined_without_a_copy(batch: int) -> None:
    joint = torch.randn(batch, 7, 4)
    whole = _rejoin(joint[:, :3], joint[:, 3:])
    assert torch.equal(whole, joint)
    assert whole.data_ptr() == joint.data_ptr()


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: (x[:, :3].clone(), x[:, 3:]),
        lambda x: (x[:, 3:6], x[:, :3]),  # the other order
        lambda x: (x[:, :3], x[:, 4:]),  # a gap
        lambda x: (x[:, :3], x[:, 2:]),  # an overlap
        lambda x: (x[:, 1:3], x[:, 3:]),  # only a part of the sequence
        lambda x: (x[..., :2][:, :3], x[..., :2][:, 3:]),  # a part of the channels
    ],
)
def test_other_pairs_are_joined_by_a_copy(parts) -> None:
    text, hidden = parts(torch.randn(2, 7, 4))
    assert torch.equal(_rejoin(text, hidden), torch.cat([text, hidden], dim=1))


@pytest.mark.parametrize("text", [0, 1, 6, 7, 12, 39])
@pytest.mark.parametrize("count", [1, 5, 13, 39])
def test_sampled_rows_of_two_streams_are_those_of_the_joint_sequence(text: int, count: int) -> None:
    streams = {"main": torch.randn(2, 40 - text, 3)}
    if text:
        streams["text"] = torch.randn(2, text, 3)
    sample = _sample(streams, count, Common(), None)
    numbers = sample.joint
    assert torch.equal(_sampled(streams, sample), _joint(streams).index_select(1, numbers))
    assert torch.equal(numbers, numbers.unique()) and len(numbers) == count
    assert abs(sum(numbers < text) - text * count / 40) < 1, "each stream has its share"
