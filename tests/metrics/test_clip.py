import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dita.metrics import open_clip
from dita.metrics.checkpoints import read_tensors
from dita.metrics.clip import ClipScorer, Tokens, clip_score, load_clip, load_open_clip, load_open_clip_model

TINY = open_clip.Sizes(24, 28, 14, 48, 2, 4, 36, 2, 3, vocabulary=120)


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "metrics" / "clip_tiny"


@pytest.fixture(scope="module")
def scorer(folder):
    return load_clip(folder)


@pytest.fixture(scope="module")
def case(folder):
    about = json.loads((folder / "golden.json").read_text())
    pictures = [Image.open(folder.parent / "imagereward_tiny" / name) for name in about["images"]]
    return pictures, about["prompts"], np.load(folder / "golden.npz")


def test_scores_are_the_golden_ones_from_files_to_numbers(scorer, case):
    pictures, prompts, expected = case
    cosine, truncated = scorer.cosines(pictures, prompts)
    np.testing.assert_allclose(clip_score(cosine), expected["clip_score"], atol=1e-3)
    np.testing.assert_allclose(scorer.pick_score(cosine), expected["logits_per_image_diag"], rtol=1e-5)
    assert truncated == 1


def test_pixels_tokens_and_embeddings_are_the_golden_ones(scorer, case):
    pictures, prompts, expected = case
    assert np.array_equal(scorer.preparation(pictures), expected["pixel_values"])
    tokens = scorer.tokens(prompts)
    assert np.array_equal(tokens.ids, expected["input_ids"])
    np.testing.assert_allclose(scorer.image_embeddings(pictures), expected["image_embeds"], atol=1e-6)
    np.testing.assert_allclose(scorer.text_embeddings(tokens), expected["text_embeds"], atol=1e-6)


def test_a_long_prompt_keeps_its_end_token_so_that_two_long_prompts_differ(scorer):
    tokens = scorer.tokens(["cat " * 100, "the moon " * 500])
    assert tokens.ids.shape == (2, 77)
    assert tokens.truncated == 2
    assert tokens.ids[:, -1].tolist() == [513, 513]
    first, second = scorer.text_embeddings(tokens)
    assert (first - second).abs().max() > 1e-3


def test_the_batch_does_not_matter(scorer, case):
    pictures, prompts, _ = case
    together, _ = scorer.cosines(pictures, prompts)
    alone = [scorer.cosines([p], [t])[0].item() for p, t in zip(pictures, prompts, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_emoji_empty_and_endless_prompts_have_a_score(scorer, case):
    cosine, truncated = scorer.cosines(case[0], ["\U0001f600 ok", "", "x" * 10_000, "\u4f60\u597d\u0000"])
    assert torch.isfinite(cosine).all()
    assert truncated == 1


def test_a_score_is_never_negative_and_at_most_100():
    assert clip_score(torch.tensor([-1.0, -0.2, 0.0, 0.5, 1.0])).tolist() == [0, 0, 0, 50, 100]


def test_as_many_texts_as_pictures_are_needed(scorer, case):
    with pytest.raises(ValueError, match="got 1 for 4"):
        scorer.cosines(case[0], ["a"])


def test_features_are_float32_although_the_file_is_half_precision(folder, scorer, case, tmp_path):
    shutil.copytree(folder, tmp_path / "half")
    tensors = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    half = load_clip(tmp_path / "half")
    assert half.image_embeddings(case[0]).dtype == torch.float32
    assert half.weights != scorer.weights


def test_folders_without_a_clip_and_checkpoints_without_a_tensor_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="holds no CLIP"):
        load_clip(tmp_path)
    shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors \(visual_projection.weight\)"):
        load_clip(tmp_path / "broken")


# ------------------------------------------------------------------------------------------- open_clip, as for HPSv2


def test_an_open_clip_checkpoint_gives_open_clips_cosines(golden):
    place = golden / "metrics" / "openclip_tiny"
    expected = np.load(place / "golden.npz")
    model = load_open_clip_model(read_tensors(place / "HPS_like.pt"), TINY, "HPS_like.pt")
    scorer = ClipScorer(model, None, None, "", "")
    ids = torch.from_numpy(expected["input_ids"])
    image = scorer.embed_pixels(torch.from_numpy(expected["pixel_values"]))
    text = scorer.text_embeddings(Tokens(ids, torch.ones_like(ids), 0))
    np.testing.assert_allclose(image, expected["image_features"], atol=1e-6)
    np.testing.assert_allclose(text, expected["text_features"], atol=1e-6)
    np.testing.assert_allclose((image * text).sum(-1), expected["cos"], atol=1e-6)
    assert model.logit_scale.exp().item() == pytest.approx(float(expected["logit_scale"]), rel=1e-5)


def test_an_open_clip_checkpoint_loads_from_its_file_and_letterboxes(golden, folder, case, tmp_path):
    tensors = read_tensors(golden / "metrics" / "openclip_tiny" / "HPS_like.pt")
    tensors["token_embedding.weight"] = torch.randn(514, 36)  # as many tokens as the tiny tokenizer has
    torch.save({"state_dict": tensors}, tmp_path / "HPS.pt")
    scorer = load_open_clip(tmp_path / "HPS.pt", folder, sizes=replace(TINY, vocabulary=514), name="HPS")
    assert scorer.preparation.fit == "letterbox"
    cosine, _ = scorer.cosines(case[0], case[1])
    assert cosine.abs().max() <= 1


def test_a_tokenizer_of_another_network_is_refused(golden, folder, tmp_path):
    file = golden / "metrics" / "openclip_tiny" / "HPS_like.pt"
    with pytest.raises(ValueError, match="has 514 tokens, the network 120"):
        load_open_clip(file, folder, sizes=TINY)
    with pytest.raises(ValueError, match="tokens, the network 120"):
        load_open_clip(file, tmp_path, sizes=TINY)  # an empty folder


def test_a_missing_tensor_of_an_open_clip_checkpoint_is_named(golden):
    tensors = read_tensors(golden / "metrics" / "openclip_tiny" / "HPS_like.pt")
    del tensors["visual.proj"]
    tensors["mystery"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"1 missing \(visual_projection.weight\); 1 not known \(mystery\)"):
        load_open_clip_model(tensors, TINY, "file.pt")
