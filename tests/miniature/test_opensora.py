"""The recipe of shapes-opensora, on sizes that take no time: temporal autoencoder, clips, rectified flow."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dita
from dita import judge, miniature, models
from dita.compare import compare, from_json
from dita.methods import Plain
from dita.miniature import world
from dita.pipelines.opensora import AutoencoderKLOpenSora, OpenSoraPipeline
from tests.miniature.micro import same_bits_after_a_break, shrink, trained_by_command, write_autoencoder
from training import autoencoder, opensora, recipe, text, video_autoencoder
from training.layout import COLOURS, FIGURES
from training.loop import Schedule, Trainer


def shrink_video(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    small = {"spatial_block_out_channels": (8, 8), "temporal_block_out_channels": (8, 8, 8)}
    monkeypatch.setattr(recipe, "VIDEO_VAE", recipe.VIDEO_VAE | small)
    monkeypatch.setattr(recipe, "OPENSORA", recipe.OPENSORA | {"num_layers": 1})
    monkeypatch.setattr(recipe.VideoVaeRecipe, "__init__", two_clips(recipe.VideoVaeRecipe.__init__))


def two_clips(plain):
    return lambda self: plain(self, batch=2, clips=2)


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_video(monkeypatch)


def video(folder: Path) -> AutoencoderKLOpenSora:
    """An untrained video autoencoder around one of pictures, with measured latents."""
    write_autoencoder(folder, shift=0.4)
    vae = video_autoencoder.build(autoencoder.with_shift_inside(autoencoder.load(folder))).eval()
    video_autoencoder.measure(vae, video_autoencoder.frame_latents(vae, video_autoencoder.sample_clips(2, seed=0)))
    return vae


def micro_trainer(folder: Path) -> Trainer:
    pool = opensora.pool(video(folder), 2, seed=0, file=folder / "pool.pt")
    how = recipe.LatentRecipe(phases=(recipe.Phase(1.0, recipe.PICTURE, 2),))
    model = opensora.build(seed=0)
    loss = opensora.ClipLoss(model, {recipe.PICTURE: pool}, how)
    return Trainer(model, loss, Schedule(4, warm_up=1), folder, "flow", 0, opensora.groups(model))


def test_a_resumed_run_ends_in_the_same_bits(micro: None, one_thread: None, tmp_path: Path) -> None:
    same_bits_after_a_break(micro_trainer, tmp_path)


def test_the_temporal_autoencoder_learns_and_a_resumed_run_ends_in_the_same_bits(
    micro: None, one_thread: None, tmp_path: Path
) -> None:
    frames = torch.randn(2, 4, 16, 32, 32, generator=torch.Generator().manual_seed(0)).half()

    def make(folder: Path) -> Trainer:
        return video_autoencoder.trainer(video(folder), frames, Schedule(4, warm_up=1), folder, 0)

    same_bits_after_a_break(make, tmp_path)


def test_the_two_dimensional_part_is_the_autoencoder_of_the_pictures(micro: None, tmp_path: Path) -> None:
    vae = video(tmp_path)
    pictures = autoencoder.load(tmp_path)
    drawings = torch.from_numpy(world.pictures(2, seed=0)[0]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        shifted = vae.spatial_vae.encode(drawings).latent_dist.mean
        plain = pictures.encode(drawings).latent_dist.mean
        torch.testing.assert_close(shifted + 0.4, plain, atol=1e-5, rtol=1e-5)
        seen = vae.spatial_vae.decode(shifted).sample
        torch.testing.assert_close(seen, pictures.decode(plain).sample, atol=1e-5, rtol=1e-5)


def test_an_autoencoder_of_other_sizes_is_refused(micro: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_autoencoder(tmp_path)
    pictures = autoencoder.with_shift_inside(autoencoder.load(tmp_path))
    monkeypatch.setattr(recipe, "VIDEO_VAE", recipe.VIDEO_VAE | {"spatial_layers_per_block": 2})
    with pytest.raises(ValueError, match="does not fit the recipe"):
        video_autoencoder.build(pictures)


def test_latents_of_the_pool_are_those_of_the_pipeline(micro: None, tmp_path: Path) -> None:
    vae = video(tmp_path)
    clips = video_autoencoder.sample_clips(2, seed=0)
    pool = opensora.pool(vae, 2, seed=0, file=tmp_path / "pool.pt")
    frames = np.stack([world.draw_clip(clip, 16, 64) for clip in clips])
    given = (torch.from_numpy(frames).permute(0, 4, 1, 2, 3) / 127.5 - 1).float()
    with torch.no_grad():
        raw = vae.encode(given, sample_frames=False).latent_dist.mode()
    mean, std = opensora.pipeline(opensora.build(), vae)._latent_statistics(raw)
    assert float((pool.latents - (raw - mean) / std).abs().mean()) < 0.05  # the pool is made in bfloat16
    assert pool.latents.shape == (2, 4, 8, 32, 32)
    assert pool.layout.figure.shape == (2, 8 * 64)


def test_fidelity_is_that_of_whole_clips(micro: None, tmp_path: Path) -> None:
    vae = video(tmp_path)
    clip = video_autoencoder.sample_clips(1, seed=0)[0]
    given = (torch.from_numpy(world.draw_clip(clip, 16, 64)).permute(3, 0, 1, 2) / 127.5 - 1).float()[None]
    with torch.no_grad():
        error = float((vae(given).sample.clamp(-1, 1) - given).square().mean())
    assert video_autoencoder.psnr(vae, [clip]) == pytest.approx(10 * np.log10(4 / error), rel=1e-4)


def test_the_layout_of_a_clip_follows_its_object() -> None:
    thing = world.Thing("circle", "red", "small", 0.2, 0.5, 0.12)
    clip = world.Clip(world.Scene((thing,), world.Background("plain", ("white",))), "moving right", 0.45)
    where = opensora.clip_layout([clip], 4, 8)
    figure, colour = where.figure.view(4, 8, 8), where.colour.view(4, 8, 8)
    columns = []
    for frame in range(4):
        found = (figure[frame] == FIGURES.index("circle")).nonzero()
        assert (colour[frame][figure[frame] > 0] == COLOURS.index("red")).all()
        columns.append(float(found[:, 1].float().mean()))
    assert columns == sorted(columns) and columns[-1] - columns[0] > 2


def test_the_model_hears_captions_and_their_absence_as_the_pipeline_does(micro: None, tmp_path: Path) -> None:
    trainer = micro_trainer(tmp_path)
    trainer.run()
    model = trainer.module.eval()
    pipe = opensora.pipeline(model, video(tmp_path))
    caption = "a red circle moving left on a white background"
    x, s, ids = torch.randn(2, 4, 4, 32, 32), torch.tensor([0.7, 0.7]), text.words([caption] * 2)
    heard = []
    pipe.transformer.register_forward_pre_hook(lambda _, __, call: heard.append(call), with_kwargs=True)
    call = miniature.defaults("shapes-opensora") | {"num_inference_steps": 1, "output_type": "latent"}
    pipe(caption, **call)
    stock = heard[0] | {"hidden_states": x, "timestep": 1000 * s}
    with torch.no_grad():
        mine = model.velocity(x, s, ids, torch.tensor([False, True]))
        torch.testing.assert_close(mine, model.transformer(**stock)[0][:, :4], atol=1e-5, rtol=1e-4)
    assert mine.any()
    assert stock["encoder_hidden_states"].shape[1] < ids.shape[1]  # the pipeline leaves the padding out


def test_every_weight_learns_in_some_group(micro: None) -> None:
    model = opensora.build(seed=0)
    learning = [weight for group in opensora.groups(model) for weight in group.weights]
    assert {id(weight) for weight in learning} == {id(weight) for weight in model.parameters()}
    assert all(weight.shape[0] != 6 for weight in opensora.groups(model)[0].weights)  # no table of shifts and scales


def test_the_text_encoder_is_asked_for_the_motion() -> None:
    captions, said = opensora.of_clips(8, seed=0)
    assert said.shape == (8, len(opensora.SAID))
    for caption, row in zip(captions, said.tolist(), strict=True):
        told = {name: classes[number] for (name, classes), number in zip(opensora.SAID.items(), row, strict=True)}
        assert caption.startswith(("a ", "an ")) and f"{told['colour_1']} {told['shape_1']} {told['motion']}" in caption


def test_prompts_of_clips_differ_and_depend_on_the_seed() -> None:
    prompts = world.clip_prompts(40, seed=0)
    assert len(set(prompts)) == 40 and prompts != world.clip_prompts(40, seed=1)
    assert all("motion" in world.parse(prompt) for prompt in prompts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that the command trained for two steps."""
    place = tmp_path_factory.mktemp("opensora")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink_video(monkeypatch)
        monkeypatch.setattr(video_autoencoder, "psnr", lambda vae, clips: 30.0)
        monkeypatch.setattr(world, "clip_prompts", lambda *_: ["a red circle moving left on a white background"])
        write_autoencoder(place / "flux")
        trained_by_command(place, "opensora", "--vae-steps", "2")
    return place


@pytest.fixture
def bundled(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the package held the folder."""
    here = Path(miniature.__file__).parent
    monkeypatch.setattr(miniature, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "shapes-opensora").symlink_to(folder / "out")
    (tmp_path / "shapes-judge").symlink_to(here / "shapes-judge")


def test_the_pipeline_makes_clips_from_the_folder_and_dita_accelerates_it(folder: Path) -> None:
    pipe = OpenSoraPipeline.from_pretrained(str(folder / "out"))
    pipe.set_progress_bar_config(disable=True)
    told = json.loads((folder / "out" / "recipe.json").read_text())
    assert told["flow_steps"] == told["temporal_steps"] == told["text_steps"] == 2
    call = miniature.defaults("shapes-opensora") | {"num_inference_steps": 8, "output_type": "np"}
    prompts = ["a red circle moving left on a white background", "a blue star growing on a black background"]

    def made() -> np.ndarray:
        return pipe(prompts, generator=torch.Generator().manual_seed(0), **call).frames

    plain = made()
    assert plain.shape == (2, 16, 64, 64, 3)
    dita.enable(pipe, "toca:2:0.5")
    made()
    summary = dita.summary(pipe, show=False)
    dita.disable(pipe)
    assert 0 < summary.token_share < 1
    assert np.array_equal(made(), plain)


def test_the_package_plans_judges_and_compares_the_model_by_its_name(bundled: None, tmp_path: Path) -> None:
    shape = models.shape("shapes-opensora")
    assert (shape.layers, shape.frames, shape.grid) == (1, 8, (8, 8))
    pipe, call = models.load("shapes-opensora", "float32", device="cpu")
    found = judge.judge_model(pipe, Plain(), prompts=2, steps=2, call=call, name="shapes-opensora")
    assert "motion" in found.all.attributes
    prompts = miniature.prompts("shapes-opensora", 2)
    compared = compare("shapes-opensora", ["fora:2"], prompts, out=tmp_path / "out", steps=4, batch=2)
    assert [result.label for result in compared.results] == ["plain", "fora:2"]
    assert "motion" in compared.results[0].judge.attributes
    assert compared.frames == 16 and compared.results[-1].flicker.count == 2
    strip, moving = (
        tmp_path / "out" / paths[0] for paths in (compared.results[1].images, compared.results[1].previews)
    )
    with Image.open(strip) as sheet, Image.open(moving) as animation:
        assert sheet.size == (16 * 64, 64) and animation.size == (64, 64) and animation.n_frames > 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/webp") == 8 and "All 16 frames" in page and "seconds a clip" in page
    assert "image/webp" not in json.dumps(compared.as_json()) and from_json(compared.as_json()) == compared
