import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import ExifTags, Image, ImageOps

from dita.metrics.images import Preparation, UnusablePicture, read, resized, size_of


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) % 256], -1).astype(np.uint8)


def deep_png(path):
    """A 2x2 colour PNG of 16 bits a channel, which Pillow reads as 8 bits without a word."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + bytes(12) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def test_colour_grey_and_palette_files_are_read_as_rgb(tmp_path):
    picture = gradient(6, 9)
    Image.fromarray(picture).save(tmp_path / "rgb.png")
    assert np.array_equal(read(tmp_path / "rgb.png"), picture)
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png"), np.repeat(picture[..., :1], 3, axis=2))
    Image.new("P", (4, 4)).save(tmp_path / "palette.gif")
    assert read(tmp_path / "palette.gif").shape == (4, 4, 3)


def test_an_opaque_alpha_channel_is_left_out_and_transparency_refused(tmp_path):
    picture = gradient(5, 5)
    alpha = np.full((5, 5, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(tmp_path / "opaque.png")
    assert np.array_equal(read(tmp_path / "opaque.png"), picture)
    alpha[2, 2] = 254
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(tmp_path / "clear.png")
    with pytest.raises(UnusablePicture, match=r"clear.png: has transparent pixels; flatten"):
        read(tmp_path / "clear.png")


def test_what_has_no_single_right_reading_is_refused_by_name(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "print.jpg")
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep-grey.png")
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.tif")
    deep_png(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(gradient(40, 40)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-60])
    for name, message in (
        ("print.jpg", "is CMYK"),
        ("deep-grey.png", "has 16 bits"),
        ("deep.tif", "more than 8 bits"),
        ("deep.png", "16 bits a channel"),
        ("text.png", "not a picture"),
        ("cut.png", "damaged"),
        ("nowhere.png", "no such file"),
    ):
        with pytest.raises(UnusablePicture, match=message) as error:
            read(tmp_path / name)
        assert name in str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "bmp", "gif"])
def test_opaque_pictures_of_every_mode_are_read_as_their_rgb(tmp_path, mode, suffix):
    image = Image.fromarray(gradient(6, 9)).convert(mode)
    path = tmp_path / f"a.{suffix}"
    try:
        image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    except OSError:
        pytest.skip(f"Pillow writes no {mode} as {suffix}")
    with Image.open(path) as saved:
        assert np.array_equal(read(path), np.asarray(saved.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
def test_a_palette_with_a_transparent_colour_is_refused_where_it_is_used(tmp_path, suffix):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.paste((0, 255, 0, 255), (0, 0, 2, 4))
    image = clear if suffix == "webp" else clear.convert("P")
    if suffix != "webp":
        image.info["transparency"] = image.getpixel((3, 3))
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    with pytest.raises(UnusablePicture, match="has transparent pixels; flatten"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_camera_that_was_held_otherwise_gives_a_picture_the_right_way_up(tmp_path, orientation, suffix):
    image = Image.fromarray(gradient(6, 9))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{suffix}"
    image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    held = image.copy()
    held.getexif()[ExifTags.Base.Orientation] = orientation
    expected = np.asarray(ImageOps.exif_transpose(held))
    assert expected.shape == ((9, 6, 3) if orientation >= 5 else (6, 9, 3))
    assert np.array_equal(read(path), expected)
    assert size_of(path) == expected.shape[1::-1]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_an_animation_is_no_picture(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), (40 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(UnusablePicture, match="has 3 frames; save the one that is meant"):
        read(tmp_path / f"a.{suffix}")


def test_the_previews_in_a_cameras_jpeg_are_left_alone(tmp_path):
    first = Image.fromarray(gradient(16, 16))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert read(tmp_path / "a.jpg").shape == (16, 16, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_a_cut_file_is_refused_whatever_its_format(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UnusablePicture, match=r"a\.\w+: (is damaged|is not a picture)"):
        read(path)


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_colours_that_depend_on_a_profile_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(UnusablePicture, match=f"is {mode}, whose colours depend on a profile"):
        read(tmp_path / "a.tif")


def test_crop_is_torchvisions_resize_and_centre_crop(golden):
    folder = golden / "metrics" / "imagereward_tiny"
    expected = np.load(folder / "golden.npz")
    for name in ("land_150x101", "port_67x143"):
        found = Preparation(224).fitted(Image.open(folder / f"img_{name}.png"))
        assert np.array_equal(found, expected[f"crop224_{name}"])


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("size", [(40, 40), (17, 90), (90, 17), (1, 1), (1, 300)])
def test_every_fit_gives_the_networks_square_for_any_shape(fit, size):
    picture = gradient(*size)
    out = Preparation(32, fit=fit, mean=(0, 0, 0), std=(1, 1, 1))([picture])
    assert out.shape == (1, 3, 32, 32)
    assert out.min() >= 0 and out.max() <= 1


def test_letterbox_pads_with_black_and_squash_does_not():
    white = np.full((10, 40, 3), 255, np.uint8)
    boxed = Preparation(40, fit="letterbox").fitted(Image.fromarray(white))
    assert boxed[:15].max() == 0 and boxed[25:].max() == 0 and boxed[15:25].min() == 255
    assert Preparation(40, fit="squash").fitted(Image.fromarray(white)).min() == 255


def test_values_are_scaled_and_normalised():
    out = Preparation(4, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))([np.full((4, 4, 3), 255, np.uint8)])
    assert out[0, :, 0, 0].tolist() == [1.0, 3.0, 1.0]
    assert str(Preparation(4)) == "crop 4 bicubic, PIL"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "F"])
@pytest.mark.parametrize("sides", [(40, 20), (9, 30), (80, 30), (64, 90), (31, 48), (64, 20), (16, 48)])
def test_pictures_are_resized_as_the_newest_pillow_does_it_with_all_releases(mode, sides):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert("RGB" if mode in "PLF" else mode).convert(mode)
    ours = np.asarray(resized(image, sides, Image.Resampling.BICUBIC))
    if int(PIL.__version__.split(".")[0]) >= 13 or not (sides[1] < 48 and 48 - sides[1] > 2 * (64 - sides[0])):
        assert np.array_equal(ours, np.asarray(image.resize(sides, Image.Resampling.BICUBIC)))
    assert ours.shape[:2] == sides[::-1]


def test_the_height_comes_first_where_it_loses_much():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (143, 67, 3), dtype=np.uint8))
    bicubic = Image.Resampling.BICUBIC
    ours = np.asarray(resized(image, (32, 68), bicubic))
    assert np.array_equal(ours, np.asarray(image.resize((67, 68), bicubic).resize((32, 68), bicubic)))
    assert not np.array_equal(ours, np.asarray(image.resize((32, 143), bicubic).resize((32, 68), bicubic)))
