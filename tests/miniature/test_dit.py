"""The recipe of shapes-dit, on sizes that take no time, and its classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline

import dita
from dita import judge, miniature, models
from dita.asking import asking
from dita.methods import Plain
from dita.miniature import classes, world
from tests.miniature.micro import same_bits_after_a_break, shrink, trained_by_command, write_autoencoder
from training import autoencoder, dit, recipe
from training.denoising import NoiseLoss
from training.layout import layout
from training.loop import Schedule, Trainer
from training.pools import Pool


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr(recipe, "DIT", recipe.DIT | {"num_layers": 2})


def micro_trainer(folder: Path) -> Trainer:
    scenes = classes.scenes(4, seed=0)
    said = {"label": torch.tensor([classes.number(scene) for scene in scenes])}
    pools = {}
    for side in (32, 64):
        latents = torch.randn(4, 4, side // 2, side // 2, generator=torch.Generator().manual_seed(side)).half()
        pools[side] = Pool(latents, said, layout(scenes, side // 4))
    how = recipe.NoiseRecipe(phases=(recipe.Phase(0.5, 32, 2), recipe.Phase(1.0, 64, 2)))
    model = dit.build(seed=0)
    return Trainer(model, NoiseLoss(model, pools, how), Schedule(4, warm_up=1), folder, "noise", 0, dit.groups(model))


def test_classes_are_captions_of_the_world_and_scenes_are_of_their_class() -> None:
    names = classes.names()
    assert len(set(names)) == len(classes.PARTS) == 224 < dit.NO_CLASS
    assert names[0] == "a red circle on a white background"
    for scene in classes.scenes(20, seed=0):
        said = world.parse(names[classes.number(scene)])
        true = world.attributes(scene)
        assert said.items() <= true.items()


def test_prompts_repeat_only_when_all_classes_have_been_named() -> None:
    assert len(set(classes.prompts(224, seed=1))) == 224
    assert classes.prompts(230, seed=1)[224:] == classes.prompts(6, seed=1)
    assert classes.prompts(6, seed=1) != classes.prompts(6, seed=2)


def test_a_resumed_run_ends_in_the_same_bits(micro: None, one_thread: None, tmp_path: Path) -> None:
    same_bits_after_a_break(micro_trainer, tmp_path)


def test_all_random_numbers_of_a_step_come_from_its_generator(micro: None, tmp_path: Path) -> None:
    trainer = micro_trainer(tmp_path)
    trainer.advance()  # an untrained transformer predicts nothing, whatever it is told
    trainer.module.train()
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(trainer.loss(torch.Generator().manual_seed(5), 1.0).detach())
    assert torch.equal(*losses)


def test_what_is_learned_of_one_class_moves_the_others_like_it(micro: None) -> None:
    table = dit.build(seed=0).transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight

    def row(*parts: str) -> torch.Tensor:
        return table[classes.PARTS.index(parts)]

    change = row("circle", "red", "white") - row("circle", "blue", "white")
    torch.testing.assert_close(row("star", "red", "black") - row("star", "blue", "black"), change)


def test_every_weight_learns_in_some_group(micro: None) -> None:
    model = dit.build(seed=0)
    learning = [weight for group in dit.groups(model) for weight in group.weights]
    assert {id(weight) for weight in learning} == {id(weight) for weight in model.parameters()}
    assert len(learning) == len({id(weight) for weight in learning})


def test_the_pipeline_computes_what_was_trained_and_guides_with_the_class_of_none(micro: None, tmp_path: Path) -> None:
    trainer = micro_trainer(tmp_path)
    trainer.run()
    model = trainer.module.eval()
    pipe = dit.pipeline(model, autoencoder.with_shift_inside(finished_autoencoder()))
    x, steps, labels = torch.randn(2, 4, 32, 32), torch.tensor([500, 500]), torch.tensor([3, 3])
    with torch.no_grad():
        mine = model.predict(x, steps, {"label": labels}, torch.tensor([False, True]))
        stock = pipe.transformer(x, timestep=steps, class_labels=torch.tensor([3, 1000])).sample
    torch.testing.assert_close(mine, stock)
    assert mine.any()
    heard = []
    pipe.transformer.register_forward_pre_hook(lambda _, __, call: heard.append(call["class_labels"]), with_kwargs=True)
    pipe(class_labels=[3], num_inference_steps=1)
    assert heard[0].tolist() == [3, dit.NO_CLASS]


def finished_autoencoder():
    vae = autoencoder.build()
    vae.register_to_config(shift_factor=0.3, scaling_factor=0.9)
    return vae.eval()


def test_the_stock_pipeline_decodes_as_the_autoencoder_with_its_shift(micro: None) -> None:
    """The last latents of the pipeline, scaled and shifted as FLUX does it, are the same picture."""
    vae = finished_autoencoder()
    pipe = dit.pipeline(dit.build(seed=0), autoencoder.with_shift_inside(vae))
    last = []
    pipe.scheduler.step = lambda output, t, x, step=pipe.scheduler.step: last.append(step(output, t, x)) or last[-1]
    seen = pipe(class_labels=[3], num_inference_steps=2, guidance_scale=1.0, output_type="pt").images
    with torch.no_grad():
        expected = vae.decode(last[-1].prev_sample / vae.config.scaling_factor + vae.config.shift_factor).sample
    torch.testing.assert_close(seen, (expected / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that the command trained for two steps."""
    place = tmp_path_factory.mktemp("dit")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        monkeypatch.setattr(recipe, "DIT", recipe.DIT | {"num_layers": 2})
        monkeypatch.setattr(classes, "prompts", lambda count, seed: classes.names()[:1])
        write_autoencoder(place / "flux")
        trained_by_command(place, "dit")
    return place


@pytest.fixture
def bundled(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if the package held the folder."""
    here = Path(miniature.__file__).parent
    monkeypatch.setattr(miniature, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "shapes-dit").symlink_to(folder / "out")
    (tmp_path / "shapes-judge").symlink_to(here / "shapes-judge")


def test_the_stock_pipeline_draws_classes_from_the_folder_and_dita_accelerates_it(folder: Path) -> None:
    pipe = DiTPipeline.from_pretrained(str(folder / "out"))
    pipe.set_progress_bar_config(disable=True)
    assert json.loads((folder / "out" / "recipe.json").read_text())["noise_steps"] == 2
    assert pipe.labels == {name: number for number, name in enumerate(classes.names())}
    names = ["a red circle on a white background", "an orange heart on a black background"]

    def drawn() -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return pipe(**asking(pipe, names), num_inference_steps=8, generator=generator, output_type="np").images

    plain = drawn()
    assert plain.shape == (2, 64, 64, 3)
    dita.enable(pipe, "toca:2:0.5")
    drawn()
    summary = dita.summary(pipe, show=False)
    dita.disable(pipe)
    assert 0 < summary.token_share < 1
    assert np.array_equal(drawn(), plain)


def test_the_package_loads_plans_and_judges_the_model_by_its_name(bundled: None) -> None:
    shape = models.shape("shapes-dit")
    assert (shape.layers, shape.grid) == (2, (16, 16))
    pipe, call = models.load("shapes-dit", "float32", device="cpu")
    assert type(pipe) is DiTPipeline
    found = judge.judge_model(pipe, Plain(), prompts=3, steps=2, call=call, name="shapes-dit")
    assert found.prompts == tuple(classes.prompts(3))
    assert {"shape", "colour", "background"} <= found.all.attributes.keys()


def test_a_comparison_asks_for_classes(bundled: None, tmp_path: Path) -> None:
    from dita.compare import compare

    prompts = miniature.prompts("shapes-dit", 2)
    found = compare("shapes-dit", ["fora:2"], prompts, out=tmp_path / "out", steps=4, batch=2)
    assert [result.label for result in found.results] == ["plain", "fora:2"]
    assert found.results[0].judge is not None


def test_other_prompts_than_classes_are_refused() -> None:
    class Classy:
        def __init__(self) -> None:
            self.labels = {"a red circle": 0}

        def get_label_ids(self, names: list[str]) -> list[int]:
            return [self.labels[name] for name in names]

    assert asking(Classy(), ["a red circle"]) == {"class_labels": [0]}
    with pytest.raises(ValueError, match=r"Classy draws classes, and 'a dog' is the name of none; .*'a red circle'"):
        asking(Classy(), ["a red circle", "a dog"])
    assert asking(object(), ["a dog"]) == {"prompt": ["a dog"]}
