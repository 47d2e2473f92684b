"""Signs: every glyph is legible and unlike the others, and lies on its panel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.miniature import world
from dita.miniature.world.glyphs import ALPHABET, GLYPH_WIDTH, STROKE, text_width

PLAIN_WHITE = world.Background("plain", ("white",))


def signs(split: str = "train") -> st.SearchStrategy[world.Sign]:
    return st.integers(0, 2**32 - 1).map(lambda seed: sign_of(np.random.default_rng(seed), split))


def sign_of(rng: np.random.Generator, split: str) -> world.Sign:
    sign = world.sample_kind(rng, "sign", split).sign
    assert sign is not None
    return sign


def glyph_masks(size: int = 18) -> dict[str, np.ndarray]:
    """Each glyph alone at the least height that a 64-pixel picture shows, as ink from 0 to 1."""
    centres = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    return {glyph: np.clip(0.5 - distance(x, y) * size, 0, 1) for glyph, distance in ALPHABET.items()}


def test_the_alphabet_is_sixteen_letters_and_digits() -> None:
    assert sorted(world.GLYPHS) == sorted("ACEFHKLPTUX12479")


def test_every_two_glyphs_differ_by_a_stroke_at_least() -> None:
    masks = list(glyph_masks().items())
    for i, (_, mask) in enumerate(masks):
        for _, other in masks[:i]:
            assert np.abs(mask - other).sum() > 0.1 * (mask.sum() + other.sum())


@pytest.mark.parametrize("glyph", world.GLYPHS)
def test_a_glyph_fills_its_height_and_keeps_within_its_box(glyph: str) -> None:
    grid = np.linspace(-0.7, 0.7, 281, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    inked = ALPHABET[glyph](x, y) < 0
    assert abs(y[inked].min() + 0.5) < 0.02
    assert abs(y[inked].max() - 0.5) < 0.02
    assert np.abs(x[inked]).max() <= GLYPH_WIDTH / 2 + 0.01
    assert inked.mean() > 0.08


@given(signs())
def test_a_sign_is_wide_and_its_glyphs_legible_at_64_pixels(sign: world.Sign) -> None:
    assert 0.6 <= sign.width <= 0.85
    assert sign.glyph_height * 64 >= 16
    assert sign.glyph_height * STROKE * 64 >= 2
    assert len(sign.text) in (2, 3)
    assert set(sign.text) <= set(world.GLYPHS)
    assert text_width(sign.text) * sign.glyph_height <= sign.width - 0.1
    assert sign.glyph_height <= sign.height - 0.1
    assert sign.width / 2 <= sign.x <= 1 - sign.width / 2
    assert sign.height / 2 <= sign.y <= 1 - sign.height / 2


@pytest.mark.parametrize("colour", world.COLOURS)
def test_glyphs_stand_out_from_their_panel(colour: str) -> None:
    sign = world.Sign("X4", colour, 0.5, 0.5, 0.7, 0.5, 0.3)
    panel, ink = np.array(world.COLOURS[colour]), np.array(world.BACKGROUND_COLOURS[sign.ink()])
    weights = np.array([0.3, 0.59, 0.11])
    assert abs((panel - ink) @ weights) > 85
    picture = world.draw(world.Scene((), world.Background("plain", ("grey",)), sign=sign))
    assert 0.03 < (picture == ink).all(-1).mean() < 0.15
    assert (picture == panel).all(-1).mean() > 0.15


def test_inks_are_white_on_dark_panels_and_black_on_bright_ones() -> None:
    inks = {colour: world.Sign("A1", colour, 0.5, 0.5, 0.7, 0.5, 0.3).ink() for colour in world.COLOURS}
    assert inks["blue"] == inks["purple"] == inks["red"] == "white"
    assert inks["yellow"] == inks["cyan"] == inks["orange"] == "black"


def test_the_text_reads_from_left_to_right() -> None:
    """The drawing of each glyph of a sign is nearest to that glyph of the alphabet."""
    rng = np.random.default_rng(2)
    scenes = [world.sample_kind(rng, "sign", "all") for _ in range(100)]
    right = total = 0
    for scene in scenes:
        sign = scene.sign
        assert sign is not None
        size = 128
        picture = world.draw(world.Scene((), PLAIN_WHITE, sign=sign), size).astype(float)
        panel, ink = (np.array(rgb, float) for rgb in (world.COLOURS[sign.colour], INKS[sign.ink()]))
        inked = np.clip((picture - panel) @ (ink - panel) / ((ink - panel) @ (ink - panel)), 0, 1)
        for i, glyph in enumerate(sign.text):
            x0 = sign.x + (i - (len(sign.text) - 1) / 2) * (text_width("AA") - GLYPH_WIDTH) * sign.glyph_height
            steps = (np.arange(18) + 0.5) / 18 - 0.5
            columns = ((x0 + steps * sign.glyph_height * 0.8) * size).astype(int)
            rows = ((sign.y + steps * sign.glyph_height) * size).astype(int)
            seen = inked[np.ix_(rows, columns)]
            x, y = np.meshgrid((steps * 0.8).astype(np.float32), steps.astype(np.float32))
            errors = {g: np.abs(seen - (distance(x, y) < 0)).sum() for g, distance in ALPHABET.items()}
            right += min(errors, key=lambda g: errors[g]) == glyph
            total += 1
    assert right == total


INKS = world.BACKGROUND_COLOURS


def test_glyphs_have_smooth_edges() -> None:
    sign = world.Sign("C9A", "blue", 0.5, 0.5, 0.8, 0.5, 0.3)
    picture = world.draw(world.Scene((), world.Background("plain", ("black",)), sign=sign))
    white = picture[..., 0].astype(int)
    assert (white > 245).sum() > 80
    assert ((white > 45) & (white < 240)).sum() > 60


def test_equal_signs_make_equal_captions_and_texts_have_no_spaces() -> None:
    sign = world.Sign("A7K", "red", 0.5, 0.5, 0.8, 0.45, 0.28)
    assert world.caption(world.Scene((), PLAIN_WHITE, sign=sign)) == 'a red sign saying "A7K" on a white background'
