"""The recipe of shapes-pixart, on sizes that take no time: what it trains is what the stock pipeline runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

import dita
from dita import miniature, models
from dita.miniature import world
from tests.miniature.micro import same_bits_after_a_break, shrink, trained_by_command, write_autoencoder
from training import autoencoder, noise, pixart, recipe, text, train_models
from training.denoising import NoiseLoss
from training.layout import layout
from training.loop import Schedule, Trainer
from training.pools import Pool


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr(recipe, "PIXART", recipe.PIXART | {"num_layers": 2, "num_attention_heads": 4})


def micro_trainer(folder: Path, layout_weight: float = 0.1) -> Trainer:
    scenes = world.scenes(4, seed=0)
    said = {"t5": text.words([world.caption(scene) for scene in scenes]).short()}
    pools = {}
    for side in (32, 64):
        latents = torch.randn(4, 4, side // 2, side // 2, generator=torch.Generator().manual_seed(side)).half()
        pools[side] = Pool(latents, said, layout(scenes, side // 4))
    phases = (recipe.Phase(0.5, 32, 2), recipe.Phase(1.0, 64, 2))
    how = recipe.NoiseRecipe(phases=phases, layout_weight=layout_weight)
    model = pixart.build(seed=0)
    return Trainer(
        model, NoiseLoss(model, pools, how), Schedule(4, warm_up=1), folder, "noise", 0, pixart.groups(model)
    )


def test_a_resumed_run_ends_in_the_same_bits(micro: None, one_thread: None, tmp_path: Path) -> None:
    same_bits_after_a_break(micro_trainer, tmp_path)


def test_an_untrained_transformer_predicts_no_noise(micro: None) -> None:
    model = pixart.build(seed=0)
    x = torch.randn(1, 4, 32, 32)
    said = {"t5": text.words(["a red circle on a white background"])}
    predicted = model.predict(x, torch.tensor([500]), said, torch.tensor([False]))
    assert predicted.shape == (1, 8, 32, 32)
    assert not predicted.any()


def test_every_weight_learns_in_some_group(micro: None) -> None:
    model = pixart.build(seed=0)
    learning = [weight for group in pixart.groups(model) for weight in group.weights]
    assert {id(weight) for weight in learning} == {id(weight) for weight in model.parameters()}
    assert len(learning) == len({id(weight) for weight in learning})
    assert all(weight.shape[0] != 6 for weight in pixart.groups(model)[0].weights)  # no table of shifts and scales


def test_the_model_hears_captions_as_the_stock_pipeline_does(micro: None) -> None:
    model = pixart.build(seed=0).eval()
    pipe = pixart.pipeline(model, autoencoder.build())
    caption = 'a red sign saying "K7" on a white background'
    embeds, mask, nothing, nothing_mask = pipe.encode_prompt([caption], max_sequence_length=recipe.TEXT_TOKENS)
    for said, stock, stock_mask in ((text.words([caption]), embeds, mask), (model.empty, nothing, nothing_mask)):
        assert torch.equal(text.mask_of(said), stock_mask)
        with torch.no_grad():
            mine = model.t5(said, attention_mask=text.mask_of(said)).last_hidden_state
        torch.testing.assert_close(mine, stock)


def test_the_noise_is_that_of_the_scheduler_in_the_folder() -> None:
    schedule = noise.NoiseSchedule()
    stock = DPMSolverMultistepScheduler(**recipe.NOISE_SCHEDULE)
    torch.testing.assert_close(schedule.signal, stock.alpha_t)
    torch.testing.assert_close(schedule.noise, stock.sigma_t)


def test_noise_levels_become_the_steps_that_have_them() -> None:
    schedule = noise.NoiseSchedule()
    levels = torch.tensor([0.005, 0.3, 0.7, 0.999])
    steps = schedule.steps(levels)
    assert steps[0] == 0
    assert steps[-1] == 999
    torch.testing.assert_close(schedule.level[steps[1:3]], levels[1:3], atol=2e-3, rtol=0)
    assert schedule.weights(steps, 25.0).tolist() == pytest.approx([1.02, 2.04, 11.1, 25.0], rel=0.02)


def test_an_autoencoder_with_its_shift_inside_gives_the_same_pictures(micro: None, tmp_path: Path) -> None:
    write_autoencoder(tmp_path, shift=0.4)
    vae = autoencoder.load(tmp_path)
    moved = autoencoder.with_shift_inside(vae)
    assert moved.config.shift_factor is None
    assert moved.config.scaling_factor == vae.config.scaling_factor == 0.7
    drawings = world.pictures(2, seed=0)[0]
    latents = autoencoder.encode(vae, drawings)
    torch.testing.assert_close(autoencoder.encode(moved, drawings), latents - 0.4, atol=0.02, rtol=0.02)  # bfloat16
    with torch.no_grad():
        torch.testing.assert_close(moved.decode(latents - 0.4).sample, vae.decode(latents).sample, atol=1e-5, rtol=1e-5)


def test_an_autoencoder_comes_from_a_run_too(micro: None, tmp_path: Path) -> None:
    trainer = autoencoder.trainer(tmp_path, Schedule(1), 5, "cpu")
    trainer.save()
    log = trainer.log
    log.write_text("step,loss,rate,seconds\n10,1,1,1\n")
    vae = autoencoder.load(tmp_path)
    for name, weight in vae.state_dict().items():
        assert torch.equal(weight, trainer.averaged()[name])
    assert vae.config.shift_factor is not None
    assert log.read_text().count("\n") == 2  # reading changes no file of the run
    with pytest.raises(FileNotFoundError, match="neither a pipeline nor a run"):
        autoencoder.load(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that the command trained for two steps."""
    place = tmp_path_factory.mktemp("pixart")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        monkeypatch.setattr(recipe, "PIXART", recipe.PIXART | {"num_layers": 2})
        monkeypatch.setattr(world, "prompts", lambda *_, **__: ["a red circle on a white background"])
        write_autoencoder(place / "flux")
        trained_by_command(place, "pixart")
    return place


def test_the_command_writes_logs_samples_and_facts(folder: Path) -> None:
    assert (folder / "run" / "noise.pt").is_file()
    assert (folder / "run" / "samples" / "000002.png").is_file()
    told = json.loads((folder / "out" / "recipe.json").read_text())
    assert told["noise_steps"] == 2
    assert told["text_steps"] == 2
    assert told["noise"]["drop_caption"] == 0.1
    assert told["parameters"].keys() == {"transformer", "text_encoder", "vae"}
    assert not list(folder.glob("*.part"))


def test_the_stock_pipeline_draws_from_the_folder_and_dita_accelerates_it(folder: Path) -> None:
    pipe = PixArtAlphaPipeline.from_pretrained(str(folder / "out"))
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe) is PixArtAlphaPipeline
    assert pipe.vae.config.shift_factor is None
    assert pipe.transformer.dtype == pipe.text_encoder.dtype == torch.float32
    call = miniature.defaults("shapes-pixart") | {"num_inference_steps": 4, "output_type": "np"}
    prompts = ["a red circle on a white background", "two blue stars on a black background"]

    def drawn() -> np.ndarray:
        return pipe(prompts, generator=torch.Generator().manual_seed(0), **call).images

    plain = drawn()
    assert plain.shape == (2, 64, 64, 3)
    dita.enable(pipe, "toca:2:0.5")
    drawn()
    summary = dita.summary(pipe, show=False)
    dita.disable(pipe)
    assert 0 < summary.token_share < 1
    assert np.array_equal(drawn(), plain)


def test_a_run_keeps_the_autoencoder_of_its_first_call(micro: None, tmp_path: Path) -> None:
    write_autoencoder(tmp_path / "flux", shift=0.4)
    first = train_models.kept_autoencoder(tmp_path / "run", tmp_path / "flux")
    write_autoencoder(tmp_path / "flux", shift=0.1)
    again = train_models.kept_autoencoder(tmp_path / "run", tmp_path / "flux")
    assert torch.equal(first.post_quant_conv.bias, again.post_quant_conv.bias)


def test_without_its_folder_the_model_says_how_to_train_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(miniature, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match=r"python -m training\.train pixart \(docs/miniature\.md\)"):
        miniature.load("shapes-pixart")


def test_the_package_loads_and_plans_the_folder_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(miniature, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "shapes-pixart").symlink_to(folder / "out")
    shape = models.shape("shapes-pixart")
    assert (shape.layers, shape.grid) == (2, (16, 16))
    pipe = miniature.load("shapes-pixart")
    assert type(pipe) is PixArtAlphaPipeline
    assert pipe.transformer.dtype == torch.float32
    picture = pipe("a red circle", **miniature.defaults("shapes-pixart") | {"num_inference_steps": 2}).images[0]
    assert picture.size == (64, 64)
