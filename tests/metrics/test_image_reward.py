import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dita.metrics.image_reward import (
    ImageReward,
    Sizes,
    load_image_reward,
    save_image_reward,
)

TINY = Sizes(64, 16, 40, 3, 4, 48, 3, 3, 96, 111, 64)


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "metrics" / "imagereward_tiny"


@pytest.fixture(scope="module")
def scorer(folder):
    return load_image_reward(folder, sizes=TINY)


@pytest.fixture(scope="module")
def case(folder):
    about = json.loads((folder / "golden.json").read_text())
    pictures = [Image.open(folder / name) for name in about["images"]]
    return pictures, about["prompts"], np.load(folder / "golden.npz")


def test_rewards_are_the_official_ones_from_files_to_numbers(scorer, case):
    pictures, prompts, expected = case
    rewards, truncated = scorer.rewards(pictures, prompts)
    np.testing.assert_allclose(rewards, expected["score_api"], atol=1e-5)
    assert truncated == 1


def test_pixels_tokens_and_rewards_are_the_official_ones(scorer, case):
    pictures, prompts, expected = case
    assert np.array_equal(scorer.preparation(pictures), expected["pixel_values"])
    ids = scorer.tokens(prompts).ids
    assert np.array_equal(ids, expected["input_ids"][:, : ids.shape[1]])
    inputs = [torch.from_numpy(expected[name]) for name in ("pixel_values", "input_ids", "attention_mask")]
    with torch.inference_mode():
        np.testing.assert_allclose(scorer.model(*inputs), expected["reward"][:, 0], atol=1e-5)


def test_the_ranking_of_pictures_for_one_prompt_is_the_official_one(scorer, case):
    pictures, prompts, expected = case
    rewards, _ = scorer.rewards(pictures, [prompts[0]] * len(pictures))
    np.testing.assert_allclose(rewards, expected["rank_rewards"], atol=1e-5)


def test_every_tensor_of_the_checkpoint_counts_but_the_key_biases(scorer, case):
    """A tensor that is not used could be loaded wrongly without a trace."""
    pictures, prompts, _ = case
    before, _ = scorer.rewards(pictures[:2], prompts[:2])
    silent = []
    for name, parameter in scorer.model.named_parameters():
        saved = parameter.clone()
        parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        after, _ = scorer.rewards(pictures[:2], prompts[:2])
        parameter.copy_(saved)
        if (after - before).abs().max() < 2e-5:
            silent.append(name)
    assert silent == [name for name, _ in scorer.model.named_parameters() if name.endswith("key.bias")]


def test_emoji_empty_and_endless_prompts_have_a_reward(scorer, case):
    rewards, truncated = scorer.rewards(case[0][:3], ["\U0001f600", "", "the cat " * 3000])
    assert torch.isfinite(rewards).all()
    assert truncated == 1


def test_a_saved_network_loads_with_its_sizes(scorer, case, folder, tmp_path):
    save_image_reward(scorer.model, tmp_path)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / name)
    again = load_image_reward(tmp_path)
    pictures, prompts, _ = case
    assert torch.equal(again.rewards(pictures, prompts)[0], scorer.rewards(pictures, prompts)[0])


def test_the_official_sizes_are_the_default_and_make_446_million_parameters():
    with torch.device("meta"):
        model = ImageReward()
    used = sum(parameter.numel() for parameter in model.parameters())
    assert used == 446_665_953 - 256 * (1024 + 1 + 768 + 1)  # the two projections of BLIP, which a reward never uses


def test_unfit_checkpoints_and_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="do not fit ImageReward"):
        load_image_reward(folder)  # tiny tensors, official sizes
    with pytest.raises(FileNotFoundError, match=r"neither ImageReward.pt nor model.safetensors"):
        load_image_reward(tmp_path)
    tensors = torch.load(folder / "ImageReward.pt", weights_only=True)
    del tensors["mlp.layers.7.bias"]
    torch.save(tensors, tmp_path / "ImageReward.pt")
    with pytest.raises(ValueError, match=r"1 missing \(head.7.bias\)"):
        load_image_reward(tmp_path, folder, sizes=TINY)


def test_a_checkpoint_without_its_tokenizer_says_which_one(folder, tmp_path):
    shutil.copy(folder / "ImageReward.pt", tmp_path)
    with pytest.raises(ValueError, match=r"needs the tokenizer of bert-base-uncased: put vocab.txt"):
        load_image_reward(tmp_path, sizes=TINY)


@pytest.mark.slow
def test_the_real_checkpoint_gives_the_values_of_its_readme():
    """Needs THUDM/ImageReward with its four pictures and BERT's vocab.txt in the folder of DITA_IMAGE_REWARD."""
    import os
    from pathlib import Path

    folder = Path(os.environ.get("DITA_IMAGE_REWARD", "nowhere"))
    if not (folder / "ImageReward.pt").is_file() or not (folder / "assets" / "images").is_dir():
        pytest.skip("no real checkpoint: set DITA_IMAGE_REWARD to its folder")
    pictures = [Image.open(folder / "assets" / "images" / f"{i}.webp") for i in range(1, 5)]
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    rewards, _ = load_image_reward(folder).rewards(pictures, [prompt] * 4)
    assert rewards.tolist() == pytest.approx([0.58116, 0.27453, -1.41318, -2.02957], abs=1e-2)
