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


def as_16_bits(grey: np.ndarray) -> PIL.Image.Image:
    return PIL.Image.fromarray(grey.astype(np.uint16) * 257)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "La", "RGBa", "RGBX", "YCbCr", "HSV", "I;16"])
def test_pictures_of_every_mode(mode: str) -> None:
    picture = PIL.Image.fromarray(PIXELS)
    if mode == "I;16":
        given, wanted = as_16_bits(np.asarray(picture.convert("L"))), picture.convert("L").convert("RGB")
    else:
        given = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
        wanted = given.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert("RGB")
    assert given.mode == mode
    for reference in (given, [given, picture]):
        video = reference_video(reference, 48, 96, RATIOS)
        expected = torch.from_numpy(np.asarray(wanted).copy()).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(video[0, :, 0], expected.float(), atol=1e-5, rtol=0)


def test_a_palette_with_an_opaque_entry_for_transparency() -> None:
    picture = PIL.Image.fromarray(PIXELS).convert("P")
    picture.info["transparency"] = bytes([255] * 256)
    assert reference_video(picture, 48, 96, RATIOS).shape == (1, 3, 1, 48, 96)
    picture.info["transparency"] = bytes([0] * 256)
    with pytest.raises(ValueError, match="reference of mode P is transparent in places"):
        reference_video(picture, 48, 96, RATIOS)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("CMYK", "mode CMYK has colours that depend on a profile"),
        ("LAB", "mode LAB has colours"),
        ("I", "mode I has numbers of unknown range"),
        ("F", "mode F has numbers"),
        ("RGBA", "mode RGBA is transparent in places"),
        ("LA", "mode LA is transparent in places"),
    ],
)
def test_modes_that_say_too_little_are_named(mode: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reference_video(PIL.Image.new(mode, (96, 48)), 48, 96, RATIOS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_the_camera_was_held(orientation: int, tmp_path) -> None:
    upright = PIL.Image.fromarray(np.kron(PIXELS[::16, ::16], np.ones((16, 16, 1), np.uint8)))
    names = PIL.Image.Transpose
    undone = {2: names.FLIP_LEFT_RIGHT, 3: names.ROTATE_180, 4: names.FLIP_TOP_BOTTOM, 5: names.TRANSPOSE}
    undone |= {6: names.ROTATE_90, 7: names.TRANSVERSE, 8: names.ROTATE_270}
    stored = upright.transpose(undone[orientation]) if orientation in undone else upright
    exif = PIL.Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "held.png", exif=exif)
    with PIL.Image.open(tmp_path / "held.png") as picture:
        video = reference_video(picture, 48, 96, RATIOS)
    torch.testing.assert_close(video, reference_video(upright, 48, 96, RATIOS))


def test_a_file_of_several_frames_and_frames_of_several_sizes(tmp_path) -> None:
    frames = [PIL.Image.new("RGB", (96, 48), (shade, 0, 0)) for shade in (0, 100, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with PIL.Image.open(tmp_path / "moving.gif") as picture, pytest.raises(ValueError, match="has 3 frames"):
        reference_video(picture, 48, 96, RATIOS)
    with pytest.raises(ValueError, match=r"must have one size, got 24x48, 48x96"):
        reference_video([frames[0], PIL.Image.new("L", (48, 24))], 48, 96, RATIOS)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (PIXELS.astype(np.int64), "must be bytes .* got int64"),
        (PIXELS.astype(np.uint16), "must be bytes .* got uint16"),
        (torch.from_numpy(PIXELS).permute(2, 0, 1).int(), r"must be bytes .* got torch\.int32"),
        (PIXELS.astype(np.float32), r"must be in \[0, 1\], got numbers from 0 to 255"),
        (PIXELS / 127.5 - 1, r"must be in \[0, 1\], got numbers from -1 to 1"),
        (np.full((48, 96, 3), np.nan), "got numbers from nan to nan"),
        (np.zeros((48, 96, 4)), r"got ndarray of shape \(1, 48, 96, 4\)"),
        (torch.zeros(1, 48, 96), r"got Tensor of shape \(1, 1, 48, 96\)"),
        (np.zeros((0, 48, 96, 3)), r"got ndarray of shape \(0, 48, 96, 3\)"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(reference, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reference_video(reference, 48, 96, RATIOS)
