"""The shipped model: the stock pipeline loads it without network, and what it draws follows its captions."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from dita import miniature
from dita.miniature import world
from training import autoencoder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = miniature.load("shapes-flux")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, prompts: list[str], steps: int, **how: Any) -> np.ndarray:
    """uint8 (N, 64, 64, 3), picture i from noise of seed i."""
    noise = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    arguments = miniature.defaults("shapes-flux") | {"num_inference_steps": steps} | how
    made = pipe(prompts, generator=noise, output_type="np", **arguments).images
    return np.rint(made * 255).astype(np.uint8)


def distance_to(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(picture.astype(int) - np.array(colour)).sum(-1)


def test_the_model_fits_its_budget() -> None:
    files = [file for file in miniature.folder("shapes-flux").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16 * 2**20
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".part")]


def test_its_weights_are_stored_in_half_precision() -> None:
    from safetensors import safe_open

    for file in miniature.folder("shapes-flux").rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_its_facts_are_recorded_without_paths_of_the_machine() -> None:
    text = (miniature.folder("shapes-flux") / "recipe.json").read_text()
    assert {"command", "seed", "flow_steps", "flow_loss", "vae_psnr_db", "versions"} <= json.loads(text).keys()
    for file in miniature.folder("shapes-flux").rglob("*.json"):
        assert str(Path(__file__).parents[2]) not in file.read_text()


def test_the_stock_pipeline_loads_it_from_its_folder() -> None:
    pipe = FluxPipeline.from_pretrained(str(miniature.folder("shapes-flux")))
    assert type(pipe) is FluxPipeline
    assert pipe.vae_scale_factor == 2
    assert pipe.transformer.config.in_channels == 16
    assert pipe.transformer.dtype == torch.float32


def test_a_call_without_a_size_makes_the_native_picture(pipe: Any) -> None:
    picture = pipe("a red circle on a white background", num_inference_steps=1, max_sequence_length=32).images[0]
    assert picture.size == (64, 64)


def test_it_loads_as_another_pipeline_class_and_in_another_type() -> None:
    from diffusers import FluxImg2ImgPipeline

    other = miniature.load("shapes-flux", FluxImg2ImgPipeline, dtype=torch.bfloat16)
    assert type(other) is FluxImg2ImgPipeline
    assert other.transformer.dtype == torch.bfloat16


def test_defaults_are_a_copy() -> None:
    miniature.defaults("shapes-flux")["height"] = 1
    assert miniature.defaults("shapes-flux")["height"] == 64


@pytest.mark.parametrize("ask", [miniature.folder, miniature.load, miniature.defaults])
def test_an_unknown_name_is_refused_with_the_known_ones(ask: Any) -> None:
    with pytest.raises(ValueError, match=r"'shapes-sdxl'.*shapes-flux"):
        ask("shapes-sdxl")


def test_asking_for_names_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, dita.miniature as m; m.folder('shapes-flux'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_autoencoder_keeps_a_drawing(pipe: Any) -> None:
    assert autoencoder.psnr(pipe.vae, world.pictures(16, seed=77)[0]) > 32
    raw = autoencoder.encode(pipe.vae, world.pictures(64, seed=78)[0])
    scaled = (raw - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    assert abs(float(scaled.mean())) < 0.1
    assert float(scaled.std()) == pytest.approx(1.0, abs=0.1)


ONE_OBJECT = [
    ("a large red circle on a white background", "red"),
    ("a large green square on a white background", "green"),
    ("a large blue triangle on a grey background", "blue"),
    ("a large yellow star on a black background", "yellow"),
    ("a large purple heart on a white background", "purple"),
    ("a large orange cross on a black background", "orange"),
    ("a large cyan ring on a black background", "cyan"),
    ("a large pink square on a grey background", "pink"),
]


@pytest.mark.slow
def test_pictures_have_the_colours_of_their_captions(pipe: Any) -> None:
    right = 0
    for picture, (prompt, colour) in zip(drawn(pipe, [p for p, _ in ONE_OBJECT], 16), ONE_OBJECT, strict=True):
        background = world.BACKGROUND_COLOURS[prompt.split(" on a ")[1].split()[0]]
        palette = [background, *world.COLOURS.values()]
        nearest = np.argmin([distance_to(picture, rgb) for rgb in palette], axis=0)
        counts = np.bincount(nearest.ravel(), minlength=len(palette))
        right += counts.argmax() == 0 and list(world.COLOURS)[int(counts[1:].argmax())] == colour
    assert right >= 6


@pytest.mark.slow
def test_objects_stand_as_their_caption_relates_them(pipe: Any) -> None:
    cases = [(relation, x, y) for relation, (x, y) in world.RELATIONS.items()] * 2
    prompts = [f"a large red circle {relation} a large blue square on a white background" for relation, _, _ in cases]
    right = 0
    for picture, (_, dx, dy) in zip(drawn(pipe, prompts, 16), cases, strict=True):
        centres = []
        for colour in ("red", "blue"):
            rows, columns = np.nonzero(distance_to(picture, world.COLOURS[colour]) < 120)
            centres.append((columns.mean(), rows.mean()) if len(rows) else (np.nan, np.nan))
        right += (centres[0][0] - centres[1][0]) * dx + (centres[0][1] - centres[1][1]) * dy > 8
    assert right >= 6


@pytest.mark.slow
def test_the_judge_finds_most_single_objects_as_their_captions_say(pipe: Any) -> None:
    captions = world.prompts(12, seed=0, split="held-out", kinds=("one",))
    generators = [torch.Generator().manual_seed(i) for i in range(len(captions))]
    pictures = pipe(captions, generator=generators, **miniature.defaults("shapes-flux")).images
    verdicts = miniature.load_judge()(pictures, captions)
    assert sum(verdict.correct for verdict in verdicts) >= 8


@pytest.mark.slow
def test_the_longest_text_makes_nearly_the_same_picture(pipe: Any) -> None:
    prompts = [prompt for prompt, _ in ONE_OBJECT[:2]]
    short, long = (drawn(pipe, prompts, 8, max_sequence_length=length).astype(float) for length in (32, 512))
    assert np.abs(short - long).mean() < 25
