"""The tokens of a step over the picture: colours where they were computed, one for each group that was merged."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image

import dita
from dita.plots.theme import THEMES
from dita.shapes import Kind
from tests import tiny_flux, tiny_opensora


def record_of(family, method: str, count: int = 1) -> dita.TokenRecord:
    pipe = family.tiny_pipeline()
    dita.enable(pipe, method, record=True)
    family.call(pipe, count=count, size=32)
    record = dita.summary(pipe, show=False).tokens
    assert record is not None
    return record


@pytest.fixture(scope="module")
def cached() -> dita.TokenRecord:
    return record_of(tiny_flux, "toca:3:0.7:random:schedule=constant", count=2)


@pytest.fixture(scope="module")
def merged() -> dita.TokenRecord:
    return record_of(tiny_flux, "tome:0.6:force=true+toca:3:0.7:random")


@pytest.fixture(scope="module")
def video() -> dita.TokenRecord:
    return record_of(tiny_opensora, "toca:3:0.7:random:schedule=constant")


def cells(figure) -> np.ndarray:
    """What is laid over the picture, (rows, columns, 4)."""
    return np.asarray(figure.axes[0].images[-1].get_array())


def partial_step(record: dita.TokenRecord) -> int:
    return next(step for step in range(record.steps) if record.kind(step) is Kind.PARTIAL)


def picture(record: dita.TokenRecord) -> Image.Image:
    rows, columns = record.grid[-2:]
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (8 * rows, 8 * columns, 3), dtype=np.uint8))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_say_the_share_and_there_is_none_where_nothing_was_computed(cached, theme) -> None:
    step = partial_step(cached)
    share = cached.share(step)
    shown = cells(dita.plot_tokens(cached, step, picture(cached), theme=theme))
    assert shown.shape == (*cached.grid, 4)
    assert np.array_equal(shown[..., 3] > 0, share > 0) and 0 < (share > 0).sum() < share.size
    scale = colormaps[THEMES[theme].heat](np.linspace(0.05, 0.95, 256))[:, :3]
    place = np.array([np.abs(scale - colour).sum(axis=1).argmin() for colour in shown[share > 0][:, :3]])
    np.testing.assert_allclose(place, 255 * np.sqrt(share[share > 0]), atol=1.5)
    whole = cells(dita.plot_tokens(cached, 0, theme=theme))
    assert (whole[..., 3] == 1).all() and np.allclose(whole[..., :3], scale[-1])


def test_layer_module_and_sample_choose_what_is_shown(cached) -> None:
    step = partial_step(cached)
    for layer, module, sample in ((0, "mlp", 0), (("single", 2), None, 0), (None, None, 1)):
        shown = cells(dita.plot_tokens(cached, step, layer=layer, module=module, sample=sample))
        assert np.array_equal(shown[..., 3] > 0, cached.share(step, layer, module, sample=sample) > 0)
    assert (cells(dita.plot_tokens(cached, step, layer=0, module="attn"))[..., 3] == 0).all()


def test_merged_tokens_share_a_colour_and_single_ones_have_none(merged) -> None:
    assert merged.kind(0) is Kind.FULL
    figure = dita.plot_tokens(merged, 0, picture(merged))
    shown, groups = cells(figure), merged.groups(0)
    sizes = np.bincount(groups.ravel(), minlength=groups.size)[groups]
    assert np.array_equal(shown[..., 3] > 0, sizes > 1) and (sizes > 1).any() and (sizes == 1).any()
    for number in np.unique(groups[sizes > 1]):
        assert len(np.unique(shown[groups == number], axis=0)) == 1
    colours = {tuple(shown[groups == number][0]) for number in np.unique(groups[sizes > 1])}
    assert len(colours) == len(np.unique(groups[sizes > 1]))
    dots = figure.axes[0].collections[-1].get_offsets()
    destinations = {(int(y) * groups.shape[1] + int(x)) for x, y in dots}
    assert destinations == set(np.unique(groups[sizes > 1]).tolist())
    assert figure.axes[0].get_title("left") == f"step 0: {groups.size} tokens merged into {len(np.unique(groups))}"


def test_steps_between_merged_ones_show_what_they_computed(merged) -> None:
    step = partial_step(merged)
    assert np.array_equal(cells(dita.plot_tokens(merged, step))[..., 3] > 0, merged.share(step) > 0)


def test_the_picture_lies_below_paled_and_fills_the_same_frame(cached) -> None:
    given = picture(cached)
    axes = dita.plot_tokens(cached, partial_step(cached), given).axes[0]
    below, above = axes.images
    assert below.get_extent() == above.get_extent()
    shown, original = np.asarray(below.get_array(), dtype=float), np.asarray(given, dtype=float)
    assert shown.shape == original.shape
    assert shown.std() < original.std() and np.corrcoef(shown.mean(-1).ravel(), original.mean(-1).ravel())[0, 1] > 0.99
    assert len(dita.plot_tokens(cached, 0).axes[0].images) == 1


@pytest.mark.parametrize(
    "convert",
    [lambda p: p, lambda p: p.convert("RGBA"), lambda p: np.asarray(p), lambda p: np.asarray(p) / 255],
    ids=["pil", "rgba", "bytes", "floats"],
)
def test_pictures_of_any_kind_look_the_same(cached, convert) -> None:
    expected = dita.plot_tokens(cached, 0, picture(cached)).axes[0].images[0].get_array()
    shown = dita.plot_tokens(cached, 0, convert(picture(cached))).axes[0].images[0].get_array()
    assert np.abs(np.asarray(shown, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1


def test_a_video_shows_one_frame_over_the_picture_of_its_time(video) -> None:
    step, (frames, rows, columns) = partial_step(video), video.grid
    assert frames == 2
    pictures = [Image.new("RGB", (16 * columns, 16 * rows), (shade, shade, shade)) for shade in (0, 40, 80, 120)]
    for frame, shade in ((0, 40), (1, 120)):
        figure = dita.plot_tokens(video, step, pictures, frame=frame)
        assert np.array_equal(cells(figure)[..., 3] > 0, video.share(step)[frame] > 0)
        page = np.array(to_rgb(THEMES["light"].page)) * 255
        assert np.allclose(figure.axes[0].images[0].get_array()[0, 0], 0.75 * shade + 0.25 * page, atol=1)
        assert figure.axes[0].get_title("left").endswith(f"; frame {frame} of 2")
    middle = cells(dita.plot_tokens(video, step))
    assert np.array_equal(middle, cells(dita.plot_tokens(video, step, frame=1)))


def test_groups_of_a_video_are_coloured_across_its_frames() -> None:
    record = record_of(tiny_opensora, "tome:0.5:force=true:stride=2x1x1")
    block = next(block for block in record.merging_blocks(0) if block[0] == "temporal")
    groups = record.groups(0, block)
    sizes = np.bincount(groups.ravel(), minlength=groups.size)[groups]
    shown = [cells(dita.plot_tokens(record, 0, layer=block, frame=frame)) for frame in range(2)]
    for frame in range(2):
        assert np.array_equal(shown[frame][..., 3] > 0, sizes[frame] > 1)
    pairs = groups[0] == groups[1]
    assert pairs.any() and np.array_equal(shown[0][pairs], shown[1][pairs])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frame": 0}, "these tokens are of a picture, which has no frame 0"),
        ({"theme": "sepia"}, "theme must be light or dark, got 'sepia'"),
        ({"layer": 5}, "layer must be a number from 0 to 4"),
        ({"sample": 2}, "sample must be 0 to 1, got 2"),
        ({"picture": np.zeros((8, 8))}, r"picture must be \(height, width, 3\), got \(8, 8\)"),
    ],
)
def test_bad_input_is_named(cached, arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dita.plot_tokens(cached, 3, **arguments)


def test_a_frame_that_is_not_there_is_named(video) -> None:
    with pytest.raises(ValueError, match=r"frame must be 0 to 1 \(latent frames\), got 2"):
        dita.plot_tokens(video, 0, frame=2)
    with pytest.raises(ValueError, match="the video has no frames"):
        dita.plot_tokens(video, 0, [])
