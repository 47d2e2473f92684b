import numpy as np
import pytest
import torch

import dita
from dita.generation.job import items
from dita.generation.prompts import Prompt
from dita.generation.sampling import OutOfMemory, Sampler, generate
from tests.generation.stand_in import StandIn, VideoStandIn, pixels, some_items


def test_generate_yields_pictures_of_all_prompts_and_seeds_in_order():
    made = list(generate(StandIn(), ["a", "b"], steps=2, seeds=(0, 3)))
    assert [(one.id, one.item.prompt, one.seed) for one in made] == [
        ("00000", "a", 0),
        ("00000", "a", 3),
        ("00001", "b", 0),
        ("00001", "b", 3),
    ]
    assert len({one.picture.tobytes() for one in made}) == 4
    assert all(one.seconds >= 0 for one in made)


def test_noise_does_not_depend_on_batches_or_order():
    some = some_items(5)
    alone = {one.id: pixels(one.picture) for one in Sampler(StandIn())(some)}
    for size, order in ((2, some), (5, some[::-1]), (3, some[2:])):
        for one in Sampler(StandIn(), batch_size=size)(order):
            assert np.array_equal(pixels(one.picture), alone[one.id])


def test_prompts_can_have_ids_of_their_own():
    made = list(dita.generate(StandIn(), [dita.Prompt("x", "a")], steps=2))
    assert made[0].id == "x"


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["a", Prompt("x", "b")], {}, "all texts, or all dita.Prompt"),
        ([Prompt("x", "a"), Prompt("x", "b")], {}, "ids of prompts must differ"),
        (["a", ""], {}, "the prompt is empty"),
        (["a"], {"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        (["a"], {"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        (["a"], {"seeds": (1, 1)}, "different numbers"),
        (["a"], {"hight": 8}, "StandIn takes no 'hight'"),
        (["a"], {"method": "steps:0.5"}, "needs the number of steps"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(prompts, options, message):
    pipe = StandIn()
    with pytest.raises(ValueError, match=message):
        generate(pipe, prompts, **options)
    assert not pipe.calls


def out_of_memory_above(limit):
    def trouble(prompts):
        if len(prompts) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return trouble


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered():
    said = []
    pipe = StandIn(out_of_memory_above(3))
    sampler = Sampler(pipe, batch_size=8, say=said.append)
    assert len(list(sampler(some_items(8)))) == 8
    assert [len(call) for call in pipe.calls] == [8, 4, 2, 2, 2, 2]
    assert said == [
        "out of memory with 8 items in a call: going on with 4",
        "out of memory with 4 items in a call: going on with 2",
    ]
    list(sampler(some_items(4)))
    assert [len(call) for call in pipe.calls[6:]] == [2, 2]


def test_an_item_that_does_not_fit_alone_is_an_error():
    def trouble(prompts):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(OutOfMemory, match=r"one item at a time does not fit into memory: .*9 bytes"):
        list(Sampler(StandIn(trouble), batch_size=2)(some_items(2)))


def test_other_errors_pass():
    def trouble(prompts):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(Sampler(StandIn(trouble))(some_items(1)))


def test_videos_are_made_one_at_a_time_as_whole_numbers():
    pipe = VideoStandIn()
    made = list(Sampler(pipe, batch_size=4)(some_items(2)))
    assert [len(call) for call in pipe.calls] == [1, 1]
    assert made[0].frames.dtype == np.uint8
    assert made[0].frames.shape == (4, 16, 16, 3)


def test_items_have_one_noise_each():
    assert len({item.noise_seed for item in items([Prompt("a", "x"), Prompt("b", "x")], (0, 1))}) == 4


@pytest.mark.parametrize(
    ("config", "asked", "shown"),
    [({}, None, True), ({"disable": True}, None, False), ({"disable": True}, True, True), ({}, False, False)],
)
def test_a_bar_counts_the_items_as_the_pipeline_or_the_call_says(capsys, config, asked, shown):
    pipe = StandIn()
    pipe.set_progress_bar_config(**config)
    making = generate(pipe, ["a", "b", "c"], steps=2, progress=asked)
    assert not capsys.readouterr().err  # nothing is made yet
    assert len(list(making)) == 3
    said = capsys.readouterr().err
    assert ("generating" in said and "3/3" in said) is shown and bool(said) is shown
    assert pipe._progress_bar_config == config


def test_the_bar_is_closed_where_generating_breaks_off(capsys):
    pipe = StandIn(out_of_memory_above(0))
    with pytest.raises(OutOfMemory):
        list(generate(pipe, ["a", "b"], steps=2))
    assert "0/2" in capsys.readouterr().err
    making = generate(StandIn(), ["a", "b"], steps=2)
    next(making)
    making.close()
    assert "1/2" in capsys.readouterr().err


def test_smaller_calls_are_said_and_logged(caplog):
    said = []
    made = list(generate(StandIn(out_of_memory_above(1)), ["a", "b"], steps=2, batch_size=2, say=said.append))
    assert len(made) == 2
    assert said == [record.getMessage() for record in caplog.records if record.name == "dita.generation.sampling"] != []
