"""The drop-in PixArt and DiT pipelines: they load, share, save and call as the stock classes, plus `method=`."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DiTPipeline, PixArtAlphaPipeline, PixArtSigmaPipeline

import dita
from dita.pipelines import AcceleratedDiTPipeline, AcceleratedPixArtAlphaPipeline, AcceleratedPixArtSigmaPipeline
from tests import tiny_dit, tiny_pixart

PIPELINES = [
    (tiny_pixart, PixArtAlphaPipeline, AcceleratedPixArtAlphaPipeline),
    (tiny_pixart, PixArtSigmaPipeline, AcceleratedPixArtSigmaPipeline),
    (tiny_dit, DiTPipeline, AcceleratedDiTPipeline),
]


@pytest.fixture(params=PIPELINES, ids=lambda entry: entry[2].__name__)
def entry(request):
    return request.param


def test_it_shares_weights_takes_a_method_and_leaves_the_first_pipeline_plain(entry) -> None:
    family, stock, accelerated = entry
    pipe = family.tiny_pipeline(pipeline=stock)
    plain = family.call(pipe)
    fast = accelerated.from_pipe(pipe, method="toca:3:0.7")
    assert fast.transformer is pipe.transformer
    quick = family.call(fast)
    assert not torch.equal(quick, plain)
    assert torch.equal(family.call(fast, method=None), plain)
    assert torch.equal(family.call(fast, method="steps:0.5"), family.call(pipe, steps=4))
    assert torch.equal(family.call(fast), quick)
    assert torch.equal(family.call(pipe), plain)


def test_enabled_on_the_stock_class_it_does_the_same(entry) -> None:
    family, stock, accelerated = entry
    pipe = family.tiny_pipeline(pipeline=stock)
    fast = family.call(accelerated.from_pipe(pipe, method="toca:3:0.7"))
    assert torch.equal(family.call(dita.enable(pipe, "toca:3:0.7")), fast)


def test_saved_it_is_a_folder_of_the_stock_class(entry, tmp_path) -> None:
    family, stock, accelerated = entry
    fast = accelerated.from_pipe(family.tiny_pipeline(pipeline=stock), method="toca:3:0.7")
    expected = family.call(fast)
    fast.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == stock.__name__
    absent = {} if family is tiny_dit else {"tokenizer": None, "text_encoder": None}
    loaded = accelerated.from_pretrained(tmp_path, method="toca:3:0.7", **absent)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(family.call(loaded), expected)


def test_the_class_names_of_dit_come_along() -> None:
    pipe = tiny_dit.tiny_pipeline()
    pipe.labels = {"white shark": 2}
    assert AcceleratedDiTPipeline.from_pipe(pipe).get_label_ids(["white shark"]) == [2]
