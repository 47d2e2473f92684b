import numpy as np
import pytest

from dita.metrics import latent_error, psnr, ssim


def textures() -> tuple[np.ndarray, np.ndarray]:
    """Two 40x56 pictures of which skimage 0.26 gives the reference values below."""
    y, x = np.mgrid[:40, :56]
    waves = [127.5 + 100 * np.sin(x / 11 + y / 7), 127.5 + 100 * np.cos(x / 5), 200.0 * ((x // 8 + y // 8) % 2)]
    a = np.stack(waves, -1).round().astype(np.uint8)
    b = np.clip(a.astype(int) + ((7 * x + 13 * y) % 41 - 20)[..., None], 0, 255).astype(np.uint8)
    return a, b


def windowed_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equations 13 to 16, one window at a time, for pictures in [0, 1]."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights = (weights / weights.sum())[..., None]
    values = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            x, y = (p[row : row + 11, column : column + 11] for p in (a, b))
            mx, my = (weights * x).sum((0, 1)), (weights * y).sum((0, 1))
            vx, vy = (weights * (x - mx) ** 2).sum((0, 1)), (weights * (y - my) ** 2).sum((0, 1))
            cov = (weights * (x - mx) * (y - my)).sum((0, 1))
            c1, c2 = 0.01**2, 0.03**2
            values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def test_psnr_of_a_constant_difference_is_twenty_times_its_logarithm():
    a = np.full((8, 8, 3), 0.5)
    assert float(psnr(a, a + 0.1)) == pytest.approx(20.0)
    assert float(psnr(a, a - 0.01)) == pytest.approx(40.0)


def test_psnr_of_identical_pictures_is_infinite():
    a, _ = textures()
    assert float(psnr(a, a)) == np.inf


def test_psnr_of_black_and_white_is_zero_because_uint8_never_wraps_around():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert float(psnr(black, white)) == 0.0
    assert float(psnr(white, black)) == 0.0


def test_psnr_of_a_batch_is_one_value_a_picture_and_not_pooled():
    a = np.full((2, 4, 4, 3), 0.5)
    b = a + np.array([0.1, 0.001])[:, None, None, None]
    assert psnr(a, b) == pytest.approx([20.0, 60.0])


def test_uint8_and_unit_range_give_the_same_values():
    a, b = textures()
    assert float(psnr(a / 255, b / 255)) == pytest.approx(float(psnr(a, b)), abs=1e-9)
    assert float(ssim(a / 255, b / 255)) == pytest.approx(float(ssim(a, b)), abs=1e-12)


def test_values_equal_those_of_skimage_with_gaussian_weights_and_population_covariance():
    a, b = textures()
    assert float(ssim(a, b)) == pytest.approx(0.8445436182195213, abs=1e-12)
    assert float(psnr(a, b)) == pytest.approx(27.057108722307564, abs=1e-12)


def test_ssim_equals_the_definition_window_by_window():
    rng = np.random.default_rng(0)
    a = rng.random((14, 17, 3))
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1)
    assert float(ssim(a, b)) == pytest.approx(windowed_ssim(a, b), abs=1e-12)


def test_ssim_of_two_constant_pictures_is_the_luminance_term():
    a, b = np.full((11, 11, 3), 0.25), np.full((11, 11, 3), 0.5)
    expected = (2 * 0.25 * 0.5 + 1e-4) / (0.25**2 + 0.5**2 + 1e-4)
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_identical_pictures_is_one_and_symmetric_otherwise():
    a, b = textures()
    assert float(ssim(a, a)) == pytest.approx(1.0)
    assert float(ssim(a, b)) == float(ssim(b, a))


def test_ssim_of_a_batch_is_that_of_its_pictures():
    a, b = textures()
    assert ssim(np.stack([a, b]), np.stack([b, b])) == pytest.approx([float(ssim(a, b)), 1.0])


def test_latent_error_is_the_length_of_the_difference_over_that_of_plain():
    plain = np.array([[3.0, 4.0], [0.0, 2.0]])
    latents = np.array([[3.0, 4.5], [0.0, 2.0]])
    assert latent_error(latents, plain) == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8), r"\(4, 4, 3\) and \(4, 5, 3\)"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), r"got \(4, 4\)"),
        (np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 2.0), np.zeros((4, 4, 3)), r"\[0, 1\], got 2.0"),
        (np.full((4, 4, 3), np.nan), np.zeros((4, 4, 3)), r"\[0, 1\], got nan"),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused_with_the_value(a, b, message):
    with pytest.raises(ValueError, match=message):
        psnr(a, b)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="11x11 pixels, got 10x20"):
        ssim(np.zeros((10, 20, 3)), np.zeros((10, 20, 3)))
