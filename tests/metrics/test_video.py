import json

import numpy as np
import pytest

from dita.metrics import export_for_vbench, largest_difference, per_frame, psnr, ssim, temporal_flicker


def clip(frames=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 20, 3), dtype=np.uint8)


def test_each_frame_is_compared_with_its_own():
    a, b = clip(), clip(seed=1)
    b[2] = a[2]
    found = per_frame(a, b, psnr)
    assert found[2] == np.inf and np.isfinite(np.delete(found, 2)).all()
    assert found[0] == pytest.approx(float(psnr(a[0], b[0])))
    assert per_frame(a, a, ssim).tolist() == pytest.approx([1] * 4)


def test_a_still_clip_does_not_flicker_and_one_between_black_and_white_does_wholly():
    assert temporal_flicker(np.repeat(clip(1), 5, axis=0)) == 1
    assert temporal_flicker(np.stack([np.full((4, 4, 3), v, np.uint8) for v in (0, 255, 0, 255)])) == 0


def test_flicker_is_the_mean_difference_of_neighbours():
    frames = np.stack([np.full((4, 4, 3), v, np.uint8) for v in (0, 51, 51)])
    assert temporal_flicker(frames) == pytest.approx(1 - 0.1)
    assert temporal_flicker(frames / 255) == pytest.approx(0.9)


def test_one_pixel_off_is_seen():
    a = clip()[0]
    b = a.copy()
    b[3, 4, 1] ^= 255
    difference = abs(int(a[3, 4, 1]) - int(b[3, 4, 1])) / 255
    assert float(largest_difference(a, b)) == pytest.approx(difference)
    assert float(psnr(a, b)) == pytest.approx(-10 * np.log10(difference**2 / a.size))
    assert float(ssim(a, b)) < 1


def test_an_export_has_vbenchs_names_and_a_manifest(tmp_path):
    written = []
    prompts = ["a cat: running?", "\U0001f600 " + "x" * 400]
    clips = [clip(seed=i) for i in range(4)]
    paths = export_for_vbench(
        clips, prompts, tmp_path / "v", samples=2, write=lambda path, frames, fps: written.append((path, frames, fps))
    )
    assert [path.name for path in paths][:2] == ["a cat_ running_-0.mp4", "a cat_ running_-1.mp4"]
    assert all(len(path.name.encode()) < 200 for path in paths)
    assert [w[0] for w in written] == paths and np.array_equal(written[3][1], clips[3]) and written[0][2] == 8
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert list(manifest.values()) == [prompts[0]] * 2 + [prompts[1]] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: per_frame(clip(3), clip(4), psnr), "one shape"),
        (lambda out: per_frame(clip()[0], clip()[0], psnr), r"\(T, H, W, C\), got \(16, 20, 3\)"),
        (lambda out: temporal_flicker(clip(1)), "at least 2 frames"),
        (lambda out: export_for_vbench([clip()], ["a", "b"], out, write=print), "make 2 clips, got 1"),
        (lambda out: export_for_vbench([clip()] * 2, ["a?", "a*"], out, write=print), "share a file name: 'a_'"),
    ],
)
def test_what_does_not_fit_is_refused(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
