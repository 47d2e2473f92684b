"""The mask strategy: parsed and applied as by the official sampler, and errors that name the position."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from dita.pipelines.opensora.mask_strategy import Entry, apply, parse


def test_strategies_are_parsed_and_applied_as_by_the_official_sampler(golden) -> None:
    for case in json.loads((golden / "opensora" / "mask_strategy.json").read_text())["cases"]:
        entries = parse(case["strategy"])
        assert [list(dataclasses.astuple(entry)) for entry in entries] == case["parsed"]
        latents = torch.full((1, case["T"], 1, 1), -1.0)
        references = [(100 * k + torch.arange(case["T_ref"]).float()).view(1, -1, 1, 1) for k in range(2)]
        placed, mask = apply(entries, latents, references, case["loop"], case["align"])
        assert mask.tolist() == case["mask"]
        assert placed.flatten().tolist() == case["z_after"]
        assert (latents == -1).all(), "the given latents are left as they were"


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("x", "loop of entry 1, at character 1, must be a whole number, at least 0, got 'x'"),
        ("0;", "loop of entry 2, at character 3"),
        ("-1", "loop of entry 1, at character 1, must be a whole number, at least 0, got '-1'"),
        ("0;0,0,a", "reference_start of entry 2, at character 7, must be a whole number, got 'a'"),
        ("0,0,0,0,0", "length of entry 1, at character 9, must be a whole number, at least 1, got '0'"),
        ("0,0,0,0,1,2", "edit of entry 1, at character 11, must be a number in [0, 1], got '2'"),
        ("0,0,0,0,1,nan", "edit of entry 1, at character 11"),
        ("1,2,3,4,5,0,7", "entry 1 at character 1 has 7 values, at most 6"),
    ],
)
def test_what_does_not_parse_is_named_with_its_position(strategy, message) -> None:
    with pytest.raises(ValueError) as error:
        parse(strategy)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Entry(reference=1), "asks for reference 1, but there are 1"),
        (Entry(target_start=15), "target_start 15 of the mask strategy is outside of 15 latent frames"),
        (Entry(target_start=-16), "target_start -16"),
        (Entry(reference_start=5), "reference_start 5 of the mask strategy is outside of 5 latent frames"),
    ],
)
def test_what_does_not_fit_is_refused(entry, message) -> None:
    with pytest.raises(ValueError, match=message):
        apply([entry], torch.zeros(1, 15, 2, 2), [torch.zeros(1, 5, 2, 2)], 0)


def test_a_reference_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference 0 has \(3, 2\) latent cells, the video \(2, 2\)"):
        apply([Entry()], torch.zeros(1, 15, 2, 2), [torch.zeros(1, 5, 3, 2)], 0)
