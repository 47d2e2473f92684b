"""A picture of the demo is what the pipeline makes alone; it is seen while it is made, and can be stopped."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest
import torch

import dita
from dita.caching.attachment import attachment_of
from dita.demo import figures
from dita.demo.loaded import Loaded
from dita.demo.previews import LARGEST, _smaller
from dita.demo.request import Limits, Request, checked
from dita.demo.sampling import Seen, Stopped, frames_per_second, sample
from dita.methods import FORA, FewerSteps, Method, Plain
from tests.demo.small import PROMPTS, small

SMALL = 64  # bytes: pipelines keep the timestep at which they were stopped


def request_of(loaded: Loaded, **changes) -> Request:
    return checked(loaded, Limits(), **{"prompt": PROMPTS[loaded.family], **changes})


def make(loaded: Loaded, method: Method, watch=lambda seen: None, stop=None, **more):
    return sample(loaded, request_of(loaded), method, watch, stop or threading.Event(), **more)


def alone(loaded: Loaded, method: Method | None = None) -> np.ndarray:
    """The picture of the pipeline without the demo."""
    request = request_of(loaded)
    if method is not None:
        dita.enable(loaded.pipe, method)
    made = loaded.pipe(
        **request.call(loaded),
        num_inference_steps=request.steps,
        generator=[torch.Generator().manual_seed(0)],
        output_type="pil",
    )
    dita.disable(loaded.pipe)
    pictures = made.images if hasattr(made, "images") else made.frames[0]
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def test_watching_changes_no_pixel(loaded):
    assert np.array_equal(make(loaded, Plain()).frames, alone(loaded))
    assert np.array_equal(make(loaded, FORA(2)).frames, alone(loaded, FORA(2)))


def test_every_step_is_seen_and_previews_have_the_pictures_proportions(loaded):
    seen: list[Seen] = []
    made = make(loaded, FORA(2), seen.append)
    assert [one.step for one in seen] == [1, 2, 3, 4, 5, 6] == list(range(1, made.steps + 1))
    assert {one.steps for one in seen} == {6}
    previews = [one.preview for one in seen if one.preview is not None]
    assert len(previews) == 5  # the last step is followed by the picture itself
    for preview in previews:
        assert preview.dtype == np.uint8
        assert preview.shape == made.frames.shape[1:]


def test_the_pipeline_is_plain_afterwards_whatever_happens(loaded):
    before = alone(loaded)

    def fail(seen: Seen) -> None:
        raise RuntimeError("the visitor's browser exploded")

    for method in (Plain(), FORA(2)):
        with pytest.raises(RuntimeError, match="exploded"):
            make(loaded, method, fail)
        assert "step" not in loaded.pipe.scheduler.__dict__
        assert attachment_of(loaded.pipe) is None
    assert np.array_equal(alone(loaded), before)


def test_stopping_ends_at_the_next_step_and_frees_the_memory(loaded):
    make(loaded, FORA(2))
    stop, seen = threading.Event(), []

    def watch(one: Seen) -> None:
        seen.append(one.step)
        if one.step == 3:
            stop.set()

    before = _bytes()
    with pytest.raises(Stopped):
        make(loaded, FORA(2), watch, stop)
    assert seen == [1, 2, 3]
    assert _bytes() <= before + SMALL


def _bytes() -> int:
    """Of all tensors that live."""
    gc.collect()
    return sum(one.nbytes for one in gc.get_objects() if type(one) is torch.Tensor)


def test_previews_are_not_counted():
    loaded = small("flux")
    ticks = itertools.count()  # every look at the clock takes a second

    def clock() -> float:
        return float(next(ticks))

    plain = make(loaded, Plain(), clock=clock)
    looks = next(ticks)
    assert looks == 2 + 2 * 6  # start and end, and both ends of each step's look
    assert plain.seconds == looks - 1 - 6  # each step's look took the second between its two


def test_fewer_steps_are_fewer(loaded):
    made = make(loaded, FewerSteps(0.5))
    assert made.steps == 3
    assert made.summary is None


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="leaves 1 step, and tiny-pixart takes at least 2"):
        make(small("pixart"), FewerSteps(0.2))


def test_a_recorded_run_keeps_its_tokens():
    loaded = small("flux")
    made = make(loaded, FORA(2), record=True)
    assert made.summary.tokens.steps == 6
    assert make(loaded, Plain(), record=True).summary.tokens.steps == 6


def test_large_latents_are_previewed_small():
    assert _smaller(torch.zeros(1, 4, 128, 96)).shape == (1, 4, LARGEST, 24)
    assert _smaller(torch.zeros(1, 4, 3, 60, 106)).shape == (1, 4, 3, 15, 26)
    assert _smaller(torch.ones(1, 4, 128, 128)).mean() == 1


def test_videos_play_for_about_two_seconds():
    assert [frames_per_second(count) for count in (4, 16, 34, 51, 408)] == [8, 8, 17, 24, 24]


@pytest.mark.parametrize("method", [Plain(), FewerSteps(0.5), FORA(2)], ids=lambda method: method.name)
def test_a_picture_of_broken_numbers_is_told(loaded, method):
    parameter = next(iter(loaded.pipe.vae.parameters()))
    kept = parameter.detach().clone()
    assert not make(loaded, method).broken
    weights = [p for p in loaded.pipe.vae.parameters() if p.ndim > 1]
    stored = [p.detach().clone() for p in weights]
    try:
        for p in weights:
            p.data.fill_(float("nan"))
        made = make(loaded, method)
    finally:
        for p, was in zip(weights, stored, strict=True):
            p.data.copy_(was)
    assert made.broken and torch.equal(parameter, kept)
    assert figures.fault(made) == "holds NaN or infinity"
    assert not make(loaded, method).broken
