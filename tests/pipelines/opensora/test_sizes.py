"""Sizes and lengths: the official tables, and what is said of anything outside of them."""

from __future__ import annotations

import json

import pytest

from dita.pipelines.opensora.sizes import DURATIONS, SIZES, VideoFormat, check_size, frame_count, frame_size


def test_tables_are_the_official_ones(golden) -> None:
    official = json.loads((golden / "opensora" / "sizes.json").read_text())
    ours = {name: {ratio: list(size) for ratio, size in sizes.items()} for name, sizes in SIZES.items()}
    assert ours == official["sizes_h_w"]
    assert dict(DURATIONS) == official["num_frames"]


def test_defaults_are_those_of_the_official_sampler() -> None:
    assert VideoFormat.choose() == VideoFormat(240, 426, 51, 24)
    assert VideoFormat.choose(resolution="480p") == VideoFormat(480, 854, 51, 24)
    assert VideoFormat.choose(height=480, width=854, num_frames="4s") == VideoFormat(480, 854, 102, 24)


def test_the_default_of_another_table_does_not_depend_on_its_order() -> None:
    small, large = {"1:1": (32, 32)}, {"1:2": (48, 96), "2:1": (96, 48)}
    for table in ({"32p": small, "64p": large}, {"64p": large, "32p": small}):
        assert VideoFormat.choose(table=table) == VideoFormat(48, 96, 51, 24)
        assert VideoFormat.choose(resolution="32p", table=table) == VideoFormat(32, 32, 51, 24)


@pytest.mark.parametrize("frames", [1, 4, 16, 17, 51, 85, 816, "2s", "16x"])
def test_allowed_lengths(frames) -> None:
    assert frame_count(frames) == DURATIONS.get(frames, frames)


@pytest.mark.parametrize(
    ("frames", "nearest"), [(50, "34 and 51"), (52, "51 and 68"), (2, "1 and 4"), (900, "799 and 816"), (0, "1 and 4")]
)
def test_other_lengths_name_the_nearest(frames, nearest) -> None:
    with pytest.raises(ValueError, match=f"num_frames {frames} is not allowed; the nearest are {nearest}"):
        frame_count(frames)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown num_frames '3s'; known: 2s, 4s"):
        frame_count("3s")
    with pytest.raises(ValueError, match="unknown resolution '500p'; known: 144p, 240p"):
        frame_size("500p", "9:16")
    with pytest.raises(ValueError, match=r"unknown aspect_ratio '10:16'.* the nearest is '5:8'"):
        frame_size("240p", "10:16")
    with pytest.raises(ValueError, match="unknown aspect_ratio 'wide'"):
        frame_size("240p", "wide")


def test_other_sizes_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"480x848 is not in the size table; the nearest are 480x854 \(480p 9:16\)"):
        check_size(480, 848)
    with pytest.raises(ValueError, match="must be positive, got 0x848"):
        check_size(0, 848)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(height=240, width=426, resolution="240p"), "not both"),
        (dict(height=240), "must be given together"),
        (dict(fps=0), "fps must be above 0"),
    ],
)
def test_conflicting_arguments_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        VideoFormat.choose(**arguments)
