"""Pictures that would be made of NaN fail, whatever method makes them; those of one colour are noted."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

import dita
from dita.caching.attachment import attachment_of
from dita.caching.stand_in import is_stand_in
from dita.generation import runner
from dita.generation.job import items
from dita.generation.prompts import Prompt
from dita.generation.sampling import Sampler
from tests import tiny_dit, tiny_pixart
from tests.generation.stand_in import StandIn, loading, settings, some_items


class Autoencoder:
    def decode(self, latents):
        return SimpleNamespace(sample=latents)


class BreakingStandIn(StandIn):
    """Its latents are NaN for the prompts in `broken`, and one colour for those in `black`."""

    def __init__(self, broken=(), black=()):
        super().__init__()
        self.broken, self.black = broken, black
        self.vae = Autoencoder()

    def __call__(self, prompt, num_inference_steps=28, generator=None, output_type="pil"):
        self.calls.append(list(prompt))
        latents = torch.stack([torch.rand(3, 8, 8, generator=g) for g in generator])
        for row, one in enumerate(prompt):
            if one in self.broken:
                latents[row, 0, 0, 0] = float("nan")
            if one in self.black:
                latents[row] = 0
        pictures = self.vae.decode(latents).sample
        pixels = (pictures.nan_to_num().permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
        return SimpleNamespace(images=[Image.fromarray(one) for one in pixels])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_item_with_broken_numbers_is_listed_and_tried_again_once(tmp_path, batch_size: int) -> None:
    pipe, todo = BreakingStandIn(broken=["prompt 2"]), some_items(5)
    outcome = runner.run(settings(), todo, tmp_path, batch_size=batch_size, load=loading(pipe))
    assert (outcome.made, [failure["id"] for failure in outcome.failures]) == (4, ["p2"])
    assert "BrokenNumbersError: the latents or the decoded picture of 'p2' hold NaN" in outcome.failures[0]["error"]
    assert [call for call in pipe.calls if call == ["prompt 2"]] == [["prompt 2"]] * 2
    listed = [json.loads(line)["id"] for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert sorted(listed) == ["p0", "p1", "p3", "p4"]
    assert len(list(tmp_path.glob("images/**/*.png"))) == 4, "no black picture is there"
    pipe.broken = []
    outcome = runner.run(settings(), todo, tmp_path, batch_size=batch_size, load=loading(pipe))
    assert (outcome.made, outcome.found, outcome.failures) == (1, 4, [])


def test_a_picture_of_one_colour_is_noted(tmp_path) -> None:
    pipe = BreakingStandIn(black=["prompt 1"])
    outcome = runner.run(settings(), some_items(3), tmp_path, batch_size=2, load=loading(pipe))
    assert (outcome.made, outcome.constant, outcome.failures) == (3, 1, [])
    entries = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in entries if entry.get("constant")] == ["p1"]


@pytest.mark.parametrize("method", ["plain", "steps:0.5", "fora:3"])
@pytest.mark.parametrize("where", ["transformer", "vae"])
def test_every_method_is_looked_at(method: str, where: str) -> None:
    pipe = tiny_dit.tiny_pipeline()
    part = pipe.transformer if where == "transformer" else pipe.vae.decoder
    next(iter(part.parameters())).data.fill_(float("nan"))
    sampler = Sampler(pipe, method, steps=4)
    pipe.labels = {"1": 1}
    (item,) = items([Prompt("p", "1")], (0,))
    pipe.get_label_ids = lambda names: [1 for _ in names]
    with pytest.raises(dita.BrokenNumbersError, match="NaN or infinity"):
        list(sampler([item]))
    assert type(pipe.vae).decode is AutoencoderKL.decode and not is_stand_in(type(pipe.vae))


def test_what_was_told_to_go_on_goes_on_and_is_enabled_as_it_was_afterwards() -> None:
    pipe = tiny_dit.tiny_pipeline()
    pipe.get_label_ids = lambda names: [1 for _ in names]
    pipe.labels = {"1": 1}
    next(iter(pipe.vae.decoder.parameters())).data.fill_(float("nan"))
    dita.enable(pipe, "fora:3", on_nan="warn", guard=0.5)
    (item,) = items([Prompt("p", "1")], (0,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(list(Sampler(pipe, steps=4)([item]))) == 1
        with pytest.raises(dita.BrokenNumbersError):
            list(Sampler(pipe, "fora:2", steps=4)([item]))
    checks = attachment_of(pipe).checks
    assert (checks.on_nan, checks.guard) == ("warn", 0.5)


def test_one_step_of_pixart_is_refused_before_anything_is_made() -> None:
    pipe = tiny_pixart.tiny_pipeline()
    with pytest.raises(ValueError, match=r"'steps:0\.1' leaves 1 step: PixArtAlphaPipeline"):
        Sampler(pipe, "steps:0.1", steps=8)
    with pytest.raises(ValueError, match="takes a run of 1 step for a distilled model's"):
        Sampler(pipe, "plain", steps=1)
