"""Calls of which one half is computed."""

from __future__ import annotations

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from dita.caching.guidance import first_half, twice


def test_the_first_half_is_taken_of_what_holds_the_samples() -> None:
    inputs = {
        "hidden_states": torch.arange(8).view(4, 2),
        "encoder_hidden_states": torch.zeros(4, 3),
        "timestep": torch.tensor(5.0),
        "added_cond_kwargs": {"resolution": torch.ones(4, 2), "aspect_ratio": None},
        "table": torch.zeros(7, 2),
        "return_dict": False,
    }
    half = first_half(inputs, 4)
    assert half["hidden_states"].tolist() == [[0, 1], [2, 3]]
    assert half["encoder_hidden_states"].shape == (2, 3)
    assert half["added_cond_kwargs"]["resolution"].shape == (2, 2) and half["added_cond_kwargs"]["aspect_ratio"] is None
    assert half["timestep"] is inputs["timestep"] and half["table"] is inputs["table"] and half["return_dict"] is False
    assert len(inputs["hidden_states"]) == 4


def test_outputs_come_back_for_both_halves_in_their_own_form() -> None:
    out = torch.tensor([[1.0], [2.0]])
    assert twice((out,))[0].tolist() == [[1.0], [2.0], [1.0], [2.0]]
    whole = twice(Transformer2DModelOutput(sample=out))
    assert isinstance(whole, Transformer2DModelOutput) and whole.sample.shape == (4, 1)
