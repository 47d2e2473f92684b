"""The recipe: tokenizers, the training loop and its resumption, the export, on sizes that take no time."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dita.miniature import world
from dita.miniature.tokenizers import clip_tokenizer, t5_tokenizer
from tests.miniature.micro import same_bits_after_a_break
from training import autoencoder, flow, noise, recipe, stages, text
from training.attention import PlainAttention
from training.layout import COLOURS, FIGURES, Reader, layout
from training.loop import Schedule, Trainer
from training.pools import Pool


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of the recipe that train in milliseconds."""
    small = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(recipe, "TRANSFORMER", recipe.TRANSFORMER | small)
    monkeypatch.setattr(recipe, "VAE", recipe.VAE | {"block_out_channels": [8, 8]})


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer])
def test_each_word_of_the_world_is_one_token_and_captions_come_back(make, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    tokenizer = make().__class__.from_pretrained(tmp_path)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in world.vocabulary())
    for caption in world.prompts(20):
        ids = tokenizer(caption).input_ids
        assert tokenizer.unk_token_id not in ids[:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption
    assert tokenizer("a dog").input_ids != tokenizer("a cat").input_ids


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer])
def test_words_have_the_same_numbers_each_time(make) -> None:
    assert make().get_vocab() == make().get_vocab()


def test_captions_fit_into_the_native_text_length() -> None:
    t5, _ = text.tokens([world.caption(scene) for scene in world.scenes(500, seed=0)])
    assert t5.shape == (500, recipe.TEXT_TOKENS)
    assert (t5[:, -1] == t5_tokenizer().pad_token_id).all()


def test_packing_is_that_of_the_stock_pipeline() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 4, 8, 8)
    assert torch.equal(flow.pack(latents), FluxPipeline._pack_latents(latents, 2, 4, 8, 8))


def test_positions_are_those_of_the_stock_pipeline_at_the_native_size_and_cover_the_same_picture_at_half() -> None:
    from diffusers import FluxPipeline

    stock = FluxPipeline._prepare_latent_image_ids(1, 16, 16, "cpu", torch.float32)
    assert torch.equal(flow.positions(16, 16), stock)
    half = flow.positions(8, 16)
    assert half[:, 1].unique().tolist() == [0.5 + 2 * i for i in range(8)]


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=1000, rate=1.0, warm_up=10)
    rates = [schedule.rate_at(step, schedule.progress(step, 0.0)) for step in range(1001)]
    assert rates[0] < 0.11
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[1000] == pytest.approx(0.0, abs=1e-9)


def test_minutes_end_a_schedule_before_its_steps() -> None:
    schedule = Schedule(steps=1000, minutes=2)
    assert schedule.progress(10, 60) == 0.5
    assert schedule.progress(900, 60) == 0.9
    assert schedule.progress(10, 600) == 1.0


def test_plain_attention_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 8).unbind()
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    with PlainAttention():
        by_place = nn.functional.scaled_dot_product_attention(q, k, v)
        by_name = nn.functional.scaled_dot_product_attention(query=q, key=k, value=v)
        causal = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(by_place, expected)
    torch.testing.assert_close(by_name, expected)
    assert not torch.allclose(causal, expected)


def test_the_layout_says_what_lies_where() -> None:
    plain = world.Background("plain", ("white",))
    ring = world.Thing("ring", "red", "large", 0.25, 0.25, 0.2)
    sign = world.Sign("K7", "blue", 0.5, 0.75, 0.7, 0.4, 0.3)
    where = layout([world.Scene((ring,), plain), world.Scene((), plain, sign=sign)], 16)
    figure, colour, place = where.figure.view(2, 16, 16), where.colour.view(2, 16, 16), where.place.view(2, 16, 16, 2)
    assert FIGURES[figure[0, 4, 4]] == "ring" and COLOURS[colour[0, 4, 4]] == "red"  # the hole is the ring's
    assert FIGURES[figure[0, 12, 12]] == COLOURS[colour[0, 12, 12]] == "background"
    assert [FIGURES[figure[1, 12, column]] for column in (3, 6, 9)] == ["panel", "K", "7"]
    assert COLOURS[colour[1, 12, 6]] == "blue"
    assert place[0, 4, 6].tolist() == pytest.approx([0.78125, 0.15625])  # right of the ring's middle, a little below
    assert place[0, 12, 12].tolist() == [0, 0]
    assert place[1, 12, 3].tolist() == pytest.approx([(3.5 / 16 - 0.5) / 0.35, (12.5 / 16 - 0.75) / 0.2], abs=1e-3)


def test_a_reader_that_knows_the_layout_misses_nothing() -> None:
    where = layout(world.scenes(3, seed=0), 8)
    told = [
        nn.functional.one_hot(part.long(), n) * 50.0
        for part, n in ((where.figure, len(FIGURES)), (where.colour, len(COLOURS)))
    ]
    known = torch.cat([*told, where.place.float()], dim=-1)
    reader = Reader(known.shape[-1])
    nn.init.eye_(reader.weight)
    nn.init.zeros_(reader.bias)
    assert float(reader.loss(known, where).detach()) == pytest.approx(0, abs=1e-6)
    moved = known + torch.tensor([0.0] * (known.shape[-1] - 2) + [0.5, 0.5])
    assert float(reader.loss(moved, where).detach()) == pytest.approx(0.5)


def test_noise_levels_lie_between_zero_and_one() -> None:
    s = noise.noise_levels(1000, recipe.FlowRecipe(), torch.Generator().manual_seed(0))
    assert s.shape == (1000,)
    assert float(s.min()) > 0
    assert float(s.max()) < 1
    assert 0.6 < float(s.mean()) < 0.7


def test_text_lengths_are_drawn_with_their_shares() -> None:
    random = torch.Generator().manual_seed(0)
    drawn = [flow.text_length(recipe.FlowRecipe(), random) for _ in range(4000)]
    assert set(drawn) == {32, 64, 128, 256, 512}
    assert 0.06 < 1 - drawn.count(32) / 4000 < 0.10


def micro_trainer(folder: Path, steps: int, layout_weight: float = 0.1) -> Trainer:
    pools = {}
    scenes = world.scenes(4, seed=0)
    for side in (32, 64):
        t5, clip = text.tokens([world.caption(scene) for scene in scenes])
        latents = torch.randn(4, 4, side // 2, side // 2, generator=torch.Generator().manual_seed(side)).half()
        pools[side] = Pool(latents, {"t5": t5.short(), "clip": clip.short()}, layout(scenes, side // 4))
    phases = (recipe.Phase(0.5, 32, 2), recipe.Phase(1.0, 64, 2))
    how = recipe.FlowRecipe(phases=phases, long_text=((64, 0.5),), layout_weight=layout_weight)
    model = flow.build(seed=0)
    return Trainer(model, flow.FlowLoss(model, pools, how), Schedule(steps, warm_up=1), folder, "flow")


def test_an_untrained_transformer_predicts_zero(micro: None, tmp_path: Path) -> None:
    trainer = micro_trainer(tmp_path, steps=2, layout_weight=0)
    loss = trainer.loss(torch.Generator().manual_seed(0), 1.0)
    assert float(loss.detach()) == pytest.approx(
        2.0, rel=0.15
    )  # the mean square of noise - latents, both of unit variance


def test_a_resumed_run_ends_in_the_same_bits(micro: None, one_thread: None, tmp_path: Path) -> None:
    same_bits_after_a_break(lambda folder: micro_trainer(folder, steps=4), tmp_path)


def test_a_shared_weight_is_averaged_under_all_its_names(tmp_path: Path) -> None:
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    module[1].weight = module[0].weight
    trainer = Trainer(module, lambda *_: sum(part.weight.sum() for part in module), Schedule(9), tmp_path, "tied")
    trainer.advance()
    averaged = trainer.averaged()
    assert not torch.equal(averaged["0.weight"], module[0].weight)
    assert torch.equal(averaged["0.weight"], averaged["1.weight"])


def test_plain_attention_knows_masks() -> None:
    q = torch.randn(6, 2, 5, 8)
    k, v = torch.randn(2, 6, 2, 10, 8)
    keep = torch.arange(10) < torch.tensor([10, 4, 7, 1, 3, 9])[:, None, None, None]
    for mask in (keep, (~keep) * -10000.0, keep[:1]):
        expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        with PlainAttention():
            torch.testing.assert_close(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask), expected)


def test_the_averaged_model_can_be_taken_in_the_middle_of_a_training(micro: None, tmp_path: Path) -> None:
    trainer = micro_trainer(tmp_path, steps=2)
    trainer.advance()
    model = stages.averaged(trainer, trainer.module)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert trainer.advance()[0] > 0


def line_trainer(folder: Path, steps: int, seed: int = 0) -> Trainer:
    module = nn.Linear(1, 1)

    def loss(random: torch.Generator, progress: float) -> Tensor:
        x = torch.randn(8, 1, generator=random)
        return (module(x) - 2 * x).square().mean()

    return Trainer(module, loss, Schedule(steps, rate=0.05, warm_up=1, ema=0.9), folder, "line", seed)


def test_the_loop_learns_and_logs(tmp_path: Path) -> None:
    trainer = line_trainer(tmp_path, steps=200)
    called: list[int] = []
    trainer.run(every=50, then=called.append)
    assert called == [50, 100, 150, 200]
    assert float(trainer.averaged()["weight"]) == pytest.approx(2.0, abs=0.05)
    rows = trainer.log.read_text().splitlines()
    assert rows[0] == "step,loss,rate,seconds"
    assert len(rows) == 21
    assert not list(tmp_path.glob("*.part"))


def test_resuming_cuts_the_log_back_to_the_checkpoint(tmp_path: Path) -> None:
    trainer = line_trainer(tmp_path, steps=20)
    trainer.run()
    trainer.log.write_text(trainer.log.read_text() + "30,0.1,0.1,1\n")
    assert line_trainer(tmp_path, steps=20).resume()
    assert trainer.log.read_text().splitlines()[-1].startswith("20,")


def test_resuming_with_another_seed_is_refused(tmp_path: Path) -> None:
    line_trainer(tmp_path, steps=10).save()
    with pytest.raises(ValueError, match="seed 0, not 7"):
        line_trainer(tmp_path, steps=10, seed=7).resume()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    trainer = line_trainer(tmp_path, steps=10)
    trainer.loss = lambda random, progress: trainer.weights[0].sum() * float("nan")
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.run()


def test_the_autoencoder_learns_and_its_latents_are_scaled(micro: None, tmp_path: Path) -> None:
    vae = autoencoder.build()
    how = recipe.VaeRecipe(batch=2)
    trainer = Trainer(vae, lambda random, _: autoencoder.loss(vae, how, random), Schedule(3), tmp_path, "vae")
    trainer.run()
    autoencoder.measure_scale(vae, seed=1)
    raw = autoencoder.encode(vae, world.pictures(32, seed=5)[0])
    scaled = (raw - vae.config.shift_factor) * vae.config.scaling_factor
    assert abs(float(scaled.mean())) < 0.1
    assert float(scaled.std()) == pytest.approx(1.0, abs=0.15)
