import io

import numpy as np
from PIL import Image

from dita.clips import PREVIEW_SIDE, animation, film_strip, is_clip, light_animation


def clip(frames=4, height=6, width=8):
    return np.arange(frames * height * width * 3, dtype=np.uint8).reshape(frames, height, width, 3)


def test_the_film_strip_holds_the_frames_from_left_to_right():
    strip = film_strip(clip())
    assert strip.shape == (6, 32, 3)
    assert np.array_equal(strip[:, 16:24], clip()[2])


def test_the_animation_shows_every_frame_and_repeats():
    flat = np.stack([np.full((6, 8, 3), value, np.uint8) for value in (0, 80, 160, 255)])
    with Image.open(io.BytesIO(animation(flat, fps=10))) as image:
        assert image.n_frames == 4 and image.info["loop"] == 0 and image.info["duration"] == 100
        for i, value in enumerate((0, 80, 160, 255)):
            image.seek(i)
            assert np.array_equal(np.asarray(image.convert("RGB")), np.full((6, 8, 3), value, np.uint8))


def test_large_clips_are_scaled_down_in_the_animation_only():
    large = clip(2, 2 * PREVIEW_SIDE, PREVIEW_SIDE)
    with Image.open(io.BytesIO(animation(large))) as image:
        assert image.size == (PREVIEW_SIDE // 2, PREVIEW_SIDE)
    assert is_clip(large) and not is_clip(large[0])


def test_the_light_animation_shows_every_frame_in_fewer_bytes():
    clip = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(light_animation(clip))) as image:
        assert image.format == "WEBP" and image.n_frames == 5 and image.size == (32, 32)
    assert len(light_animation(clip)) < len(animation(clip))
