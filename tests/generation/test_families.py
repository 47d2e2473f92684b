"""`dita generate` with tiny random pipelines of the families, from folders as anyone has them."""

import json

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline
from PIL import Image
from typer.testing import CliRunner

import dita
from dita import cli, miniature, models
from dita.miniature.tokenizers import t5_tokenizer
from tests import tiny_dit, tiny_opensora, tiny_pixart
from tests.tiny_vae import tiny_vae

CLASSES = {0: "tench, Tinca tinca", 1: "goldfish", 2: "white shark"}


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dit")
    tiny_dit.tiny_pipeline().save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": CLASSES}))
    return folder


@pytest.fixture(scope="module")
def pixart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixart")
    PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_opensora.tiny_text_encoder(),
        vae=tiny_vae(),
        transformer=tiny_pixart.tiny_transformer(caption_channels=tiny_opensora.CAPTION_CHANNELS),
        scheduler=DPMSolverMultistepScheduler(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def opensora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opensora")
    tiny_opensora.tiny_pipeline().save_pretrained(folder)
    return folder


def generate(model, out, *arguments):
    given = ["--model", model, "--out", out, "--steps", 3, "--device", "cpu", *arguments]
    return CliRunner().invoke(cli.app, ["generate", *map(str, given)])


def lines(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def pictures(out):
    return {entry["id"]: np.asarray(Image.open(out / entry["file"])) for entry in lines(out)}


def test_a_class_conditional_model_is_told_names_of_classes(dit, tmp_path):
    asked = ["--prompt", "goldfish", "--prompt", "Tinca tinca", "--prompt", "tench", "--method", "fora:2"]
    result = generate(dit, tmp_path / "three", *asked, "--batch-size", 3)
    assert result.exit_code == 0, result.output
    assert [entry["prompt"] for entry in lines(tmp_path / "three")] == ["goldfish", "Tinca tinca", "tench"]
    generate(dit, tmp_path / "one", *asked, "--batch-size", 1)
    alone = pictures(tmp_path / "one")
    assert all(np.array_equal(picture, alone[id]) for id, picture in pictures(tmp_path / "three").items())
    pipe, _ = models.load(dit, device="cpu")
    again = next(dita.generate(pipe, ["goldfish"], method="fora:2", steps=3))
    assert np.array_equal(np.asarray(again.picture), alone["00000"])


def test_what_is_no_class_is_refused_with_the_nearest_names_before_anything_is_made(dit, tmp_path):
    result = generate(dit, tmp_path / "out", "--prompt", "goldfish", "--prompt", "White sharks")
    assert result.exit_code == 2
    assert "'White sharks' is the name of none; it knows 4, near it 'white shark'" in result.stderr
    assert not (tmp_path / "out").exists()
    pipe, _ = models.load(dit, device="cpu")
    with pytest.raises(ValueError, match=r"'zzz' is the name of none; it knows 4, such as 'Tinca tinca', 'goldfish'"):
        dita.generate(pipe, ["zzz"])


def test_pixart_takes_the_arguments_of_its_calls(pixart, tmp_path):
    call = ["--call", "use_resolution_binning=false", "--call", "clean_caption=false", "--height", 16, "--width", 32]
    result = generate(pixart, tmp_path / "out", "--prompt", "a red circle", "--method", "toca:2:0.5", *call)
    assert result.exit_code == 0, result.output
    assert pictures(tmp_path / "out")["00000"].shape == (16, 32, 3)
    job = json.loads((tmp_path / "out" / "job.json").read_text())["settings"]
    assert job["call"] == {"height": 16, "width": 32, "use_resolution_binning": False, "clean_caption": False}


def test_a_bundled_pixart_has_them_by_itself(pixart, tmp_path, monkeypatch):
    find = miniature.folder
    monkeypatch.setattr(miniature, "folder", lambda name: pixart if name == "shapes-pixart" else find(name))
    result = generate("shapes-pixart", tmp_path / "out", "--prompt", "a red circle", "--height", 16, "--width", 16)
    assert result.exit_code == 0, result.output
    assert pictures(tmp_path / "out")["00000"].shape == (16, 16, 3)


def test_clips_of_open_sora_become_mp4(opensora, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v3 as imageio

    call = ["--height", 32, "--width", 32, "--call", "num_frames=4", "--call", "aesthetic_score=null"]
    result = generate(opensora, tmp_path / "out", "--prompt", "a circle", "--seeds", "0..1", "--fps", 8, *call)
    assert result.exit_code == 0, result.output
    files = [entry["file"] for entry in lines(tmp_path / "out")]
    assert files == ["images/00000-s0.mp4", "images/00000-s1.mp4"]
    clips = [imageio.imread(tmp_path / "out" / file) for file in files]
    assert clips[0].shape == (4, 32, 32, 3) and not np.array_equal(*clips)
    assert imageio.immeta(tmp_path / "out" / files[0])["fps"] == 8
    assert (
        "made 0 of 2, 2 were there"
        in generate(opensora, tmp_path / "out", "--prompt", "a circle", "--seeds", "0..1", "--fps", 8, *call).stdout
    )


def test_a_bundled_video_model_makes_mp4_without_being_told(opensora, monkeypatch):
    monkeypatch.setattr(miniature, "folder", lambda name: opensora)
    assert models.makes_videos("shapes-opensora")
    assert not models.makes_videos("black-forest-labs/FLUX.1-dev"), "known once it is loaded"
