"""References: every form of picture and video, the check of their aspect, and which belongs to which prompt."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from dita.pipelines.opensora.mask_strategy import Entry
from dita.pipelines.opensora.references import Conditions, arrange, place, reference_video
from dita.pipelines.opensora.sizes import SIZES

RATIOS = SIZES["240p"]
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("reference", "frames"),
    [
        (PIL.Image.fromarray(PIXELS), 1),
        ([PIL.Image.fromarray(PIXELS)] * 3, 3),
        (PIXELS, 1),
        (PIXELS / 255, 1),
        (np.stack([PIXELS] * 2), 2),
        (torch.from_numpy(PIXELS).permute(2, 0, 1), 1),
        (torch.from_numpy(PIXELS / 255).permute(2, 0, 1)[None].expand(4, -1, -1, -1), 4),
    ],
    ids=["PIL", "PIL video", "bytes", "floats", "bytes video", "byte tensor", "tensor video"],
)
def test_all_forms_become_the_same_video(reference, frames) -> None:
    video = reference_video(reference, 48, 96, RATIOS)
    assert video.shape == (1, 3, frames, 48, 96)
    wanted = torch.from_numpy(PIXELS).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(video[0, :, -1], wanted.float(), atol=1e-5, rtol=0)


def test_a_reference_is_brought_to_the_size_of_the_video() -> None:
    assert reference_video(PIL.Image.new("RGB", (200, 100)), 48, 96, RATIOS).shape == (1, 3, 1, 48, 96)
    assert reference_video(PIL.Image.new("RGB", (426, 240)), 480, 854, RATIOS).shape == (1, 3, 1, 480, 854)


def test_another_aspect_is_refused_with_the_ratio_that_fits() -> None:
    with pytest.raises(ValueError, match=r"reference of 100x100 pixels .* video of 48x96; .*aspect_ratio='1:1'"):
        reference_video(PIL.Image.new("RGB", (100, 100)), 48, 96, RATIOS)


def test_another_aspect_may_be_cut_about_its_centre() -> None:
    stripes = np.zeros((90, 30, 3), dtype=np.uint8)
    stripes[30:60] = 255
    video = reference_video(stripes, 30, 30, RATIOS, crop=True)
    assert (video == 1).all()


@pytest.mark.parametrize("reference", ["cat.png", [], np.zeros((4, 4)), torch.zeros(2, 8, 8)])
def test_what_is_no_picture_is_refused(reference) -> None:
    with pytest.raises(ValueError, match="must be a picture or a video"):
        reference_video(reference, 48, 96, RATIOS)


def test_an_image_begins_the_video_of_every_prompt() -> None:
    assert arrange("image", None, None, 2, 1) == [(["image"], [Entry()])] * 2


def test_references_belong_to_their_prompts() -> None:
    assert arrange(None, ["a", "b"], "0;0,1,0,-1", 1, 1) == [
        (["a", "b"], [Entry(), Entry(reference=1, target_start=-1)])
    ]
    assert arrange(None, [["a"], []], ["0", ""], 2, 1) == [(["a"], [Entry()]), ([], [])]
    assert arrange(None, None, None, 2, 1) == [([], []), ([], [])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("i", ["a"], "0", 1, 1), "image stands for"),
        ((None, ["a"], None, 1, 1), "references were given without mask_strategy"),
        ((None, None, "0", 1, 1), "mask_strategy were given without references"),
        ((None, "a", "0", 1, 1), "references must be a list"),
        ((None, [["a"]], "0", 2, 1), "references must have one value for each of 2 prompts, got 1"),
        ((None, [["a"], ["b"]], ["0"], 2, 1), "mask_strategy must have one value for each of 2 prompts, got 1"),
        ((None, ["a"], "", 1, 1), "1 references were given, but the mask strategy '' places none"),
        ((None, ["a"], "0,1", 1, 1), "asks for reference 1, but 1 were given"),
        ((None, ["a"], "1", 1, 1), "asks for loop 1, but loop=1"),
    ],
)
def test_contradictions_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        arrange(*arguments)


def test_placing_touches_only_videos_that_have_references() -> None:
    noise = torch.randn(2, 4, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    conditions = [Conditions([], []), Conditions([Entry(target_start=2)], [torch.zeros(4, 1, 2, 2)])]
    placed, mask = place(noise, conditions, 0, None)
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]
    assert torch.equal(placed[0], noise[0]) and (placed[1, :, 2] == 0).all()
    assert place(noise, conditions, 1, None) == (noise, None)


def test_an_earlier_clip_becomes_a_reference() -> None:
    conditions = Conditions([Entry()], [torch.zeros(4, 1, 2, 2)])
    conditions.add(torch.ones(4, 10, 2, 2), loop=1, length=5, edit=0.25)
    assert conditions.entries[1] == Entry(1, 1, -5, 0, 5, 0.25)
    placed, mask = place(torch.zeros(1, 4, 10, 2, 2), [conditions], 1, 5)
    assert mask.tolist() == [[0.25] * 5 + [1.0] * 5] and (placed[0, :, :5] == 1).all()
