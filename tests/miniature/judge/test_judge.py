"""The trained judge: right on real drawings, strict on damaged ones, and stable under what does no harm."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dita import miniature
from dita.miniature import world
from dita.miniature.judge.judge import load_eyes
from dita.miniature.judge.network import Eyes, Widths
from training.judge import evaluation
from training.judge.damages import DAMAGES
from training.judge.training import write_folder

BARS = {"shape": 0.98, "colour": 0.98, "count": 0.98, "relation": 0.98, "sign": 0.95}
TINY = Widths(8, 8, 8, (1, 1, 1))


@pytest.fixture(scope="module")
def judge():
    return miniature.load_judge()


def test_it_is_right_on_held_out_drawings(judge):
    found = evaluation.accuracy(judge, 240, seed=21)
    assert {name: found[name] for name, bar in BARS.items() if found[name] < bar} == {}


@pytest.mark.parametrize("name", DAMAGES)
def test_it_is_not_lenient(judge, name):
    kinds, attribute, damage = DAMAGES[name]
    rng = np.random.default_rng(4)
    scenes = world.evaluation_scenes(40, 5, kinds)
    verdicts = judge(np.stack([damage(rng, one) for one in scenes]), [world.caption(one) for one in scenes])
    assert np.mean([one.as_dict()[attribute] is False for one in verdicts]) >= 0.9


def test_another_pictures_caption_is_wrong(judge):
    pictures, prompts = world.pictures(40, 6)
    assert sum(one.correct for one in judge(pictures, prompts[1:] + prompts[:1])) == 0


def test_nothing_and_noise_show_no_object(judge):
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    prompts = ["a red circle on a white background"] * 4
    assert not any(one.correct or one.shape for one in judge(noise, prompts))
    assert judge(np.full((1, 64, 64, 3), 250, np.uint8), prompts[:1])[0].as_dict() == {
        "shape": False,
        "colour": False,
        "count": False,
        "relation": None,
        "size": None,
        "sign": None,
        "background": True,
        "motion": None,
    }


def test_a_verdict_does_not_depend_on_the_batch(judge):
    pictures, prompts = world.pictures(70, 7)
    together = judge(pictures, prompts)
    assert together[:3] + together[66:] == judge(pictures[:3], prompts[:3]) + judge(pictures[66:], prompts[66:])


@pytest.mark.parametrize("size", [48, 96, 128, 200])
def test_pictures_of_other_sizes_are_read_as_well(judge, size):
    scenes = world.evaluation_scenes(60, 8, tuple(world.KINDS))
    pictures = [Image.fromarray(picture) for picture in world.draw_all(scenes, size)]
    right = [one.correct for one in judge(pictures, [world.caption(scene) for scene in scenes])]
    assert np.mean(right) >= 0.9


def test_jpeg_and_slight_noise_do_no_harm(judge):
    pictures, prompts = world.pictures(60, 9, split="held-out")
    rng = np.random.default_rng(0)
    noisy = np.clip(pictures + rng.normal(size=pictures.shape) * 4, 0, 255).astype(np.uint8)

    def compressed(picture):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=85)
        return Image.open(file)

    for changed in (noisy, [compressed(picture) for picture in pictures]):
        assert np.mean([one.correct for one in judge(changed, prompts)]) >= 0.93


def test_clips_are_judged_by_most_frames_and_by_their_motion(judge):
    rng = np.random.default_rng(10)
    clips = [world.sample_clip(rng, "held-out") for _ in range(8)]
    frames, prompts = [world.draw_clip(clip) for clip in clips], [world.clip_caption(clip) for clip in clips]
    right = judge.clips(frames, prompts)
    assert sum(one.correct for one in right) >= 7
    backwards = [clip[::-1] for clip in frames]
    assert sum(one.motion for one in judge.clips(backwards, prompts)) == 0
    assert all(one.shape == other.shape for one, other in zip(judge.clips(backwards, prompts), right, strict=True))


@pytest.mark.parametrize(
    ("pictures", "prompts", "message"),
    [
        (np.zeros((2, 64, 64, 3), np.uint8), ["a red circle on a white background"], "1 prompts for 2 pictures"),
        (np.zeros((1, 64, 64, 3), np.uint8), ["a dog"], "'a dog' is no caption"),
        (np.zeros((1, 64, 32, 3), np.uint8), ["a red circle on a white background"], "square, got 32x64"),
        (np.zeros((1, 64, 64, 3)), ["a red circle on a white background"], "uint8 .N, H, W, 3., got float64"),
    ],
)
def test_bad_input_is_refused_with_what_is_wrong(judge, pictures, prompts, message):
    with pytest.raises(ValueError, match=message):
        judge(pictures, prompts)


def test_no_pictures_have_no_verdicts(judge):
    assert judge([], []) == [] and judge(np.empty((0, 64, 64, 3), np.uint8), []) == []


def test_a_folder_comes_back_as_it_was_written(tmp_path):
    torch.manual_seed(0)
    eyes = Eyes(TINY)
    write_folder(eyes, tmp_path / "eyes", {"seed": 0})
    again = load_eyes(tmp_path / "eyes")
    assert again.widths == TINY
    for (name, mine), theirs in zip(eyes.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(mine.half().float(), theirs), name


def test_a_folder_of_another_world_is_refused(tmp_path):
    write_folder(Eyes(TINY), tmp_path / "eyes", {})
    config = tmp_path / "eyes" / "config.json"
    config.write_text(config.read_text().replace('"heart"', '"moon"'))
    with pytest.raises(ValueError, match="trained on another world"):
        load_eyes(tmp_path / "eyes")
