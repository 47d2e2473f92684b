import json

import pytest

from dita.metrics import preprocessor_file
from dita.metrics.clip import load_clip
from dita.metrics.features import transformers_features
from dita.metrics.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from tests.metrics.tiny_networks import save_tiny_dino

HALF = (0.5, 0.5, 0.5)


def told(folder, data, name=preprocessor_file.FILE):
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return preprocessor_file.read(folder)


SIZES = [
    ({"size": 28}, 28),
    ({"size": 28.0}, 28),
    ({"size": [28, 28]}, 28),
    ({"size": {"height": 28, "width": 28}}, 28),
    ({"size": {"shortest_edge": 28}}, 28),
    ({"size": {"shortest_edge": 28, "longest_edge": 60}}, 28),
    ({"size": {"longest_edge": 28}}, 28),
    ({"size": {"max_height": 28, "max_width": 28}}, 28),
    ({"size": 32, "crop_size": 28}, 28),
    ({"size": 32, "crop_size": [28, 28]}, 28),
    ({"size": {"shortest_edge": 32}, "crop_size": 28}, 28),
    ({"size": 32, "crop_size": {"height": 28, "width": 28}}, 28),
    ({"size": 32, "crop_size": 28, "do_center_crop": True}, 28),
    ({"size": 28, "crop_size": 14, "do_center_crop": False}, 28),
    ({"size": 28, "crop_size": None}, 28),
    ({"crop_size": 28}, 28),
    ({"size": None}, None),
    ({"do_resize": True, "resample": 3}, None),
    ({}, None),
]


@pytest.mark.parametrize(("data", "side"), SIZES, ids=[json.dumps(data) for data, _ in SIZES])
def test_a_size_is_read_in_every_form(tmp_path, data, side):
    assert told(tmp_path, data).side == side


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": "224"}, "size must be a number of pixels, a pair, or a dictionary .* got '224'"),
        ({"size": -1}, "size must be .* got -1"),
        ({"size": 1.5}, "size must be .* got 1.5"),
        ({"size": True}, "size must be .* got True"),
        ({"size": [3, 224, 224]}, "size must be"),
        ({"size": {"pixels": 7}}, "size must be"),
        ({"crop_size": {"height": "28", "width": 28}}, "crop_size must be"),
        ({"size": {"height": 28, "width": 42}}, "size is 28x42; only square input is supported"),
    ],
)
def test_what_is_no_square_size_is_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=f"preprocessor_config.json': {message}"):
        _ = told(tmp_path, data).side


NORMALISATIONS = [
    ({}, IMAGENET_MEAN, IMAGENET_STD),
    ({"image_mean": None, "image_std": None}, IMAGENET_MEAN, IMAGENET_STD),
    ({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, (0, 0, 0), (1, 1, 1)),
    ({"image_mean": [0.1, 0.2, 0.3]}, (0.1, 0.2, 0.3), IMAGENET_STD),
    ({"image_mean": 0.5, "image_std": 0.25}, HALF, (0.25,) * 3),
    ({"do_normalize": False, "image_mean": [0.1, 0.2, 0.3]}, (0, 0, 0), (1, 1, 1)),
    ({"rescale_factor": 1 / 255, "image_mean": 0.5, "image_std": 0.5}, HALF, HALF),
    ({"rescale_factor": 2 / 255, "image_mean": 1, "image_std": 1}, HALF, HALF),
    ({"do_rescale": False, "image_mean": 127.5, "image_std": 127.5}, HALF, HALF),
    ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, HALF, HALF),
    ({"image_processor_type": "ViTImageProcessorFast"}, HALF, HALF),
    ({"feature_extractor_type": "CLIPFeatureExtractor"}, CLIP_MEAN, CLIP_STD),
    ({"image_processor_type": "SiglipImageProcessor"}, HALF, HALF),
    ({"image_processor_type": "BitImageProcessor"}, CLIP_MEAN, CLIP_STD),
    ({"image_processor_type": "DINOv3ViTImageProcessorFast"}, IMAGENET_MEAN, IMAGENET_STD),
    ({"image_processor_type": "SomebodysOwn"}, IMAGENET_MEAN, IMAGENET_STD),
]


@pytest.mark.parametrize(("data", "mean", "std"), NORMALISATIONS, ids=[json.dumps(data) for data, *_ in NORMALISATIONS])
def test_normalisation_is_the_files_or_its_classs_or_the_networks_own(tmp_path, data, mean, std):
    found = told(tmp_path, data).normalisation(IMAGENET_MEAN, IMAGENET_STD)
    assert found == (pytest.approx(mean), pytest.approx(std))


@pytest.mark.parametrize(
    "family", ["CLIP", "ViT", "Siglip", "Siglip2", "Bit", "DeiT", "Beit", "ConvNext", "DPT", "Blip"]
)
def test_defaults_of_classes_are_those_of_transformers(tmp_path, family):
    import importlib

    name = family.lower()
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    theirs = getattr(module, f"{family}ImageProcessorPil")
    data = {"image_processor_type": f"{family}ImageProcessor"}
    mean, std = told(tmp_path, data).normalisation(IMAGENET_MEAN, IMAGENET_STD)
    assert (list(mean), list(std)) == (list(theirs.image_mean), list(theirs.image_std))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, r"image_mean must be a number or three, got \[0.5, 0.5\]"),
        ({"image_mean": "half"}, "image_mean must be a number or three, got 'half'"),
        ({"image_std": [1, 0, 1]}, "image_std must be above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor must be a number above 0, got '1/255'"),
    ],
)
def test_what_is_no_normalisation_is_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        told(tmp_path, data).normalisation(IMAGENET_MEAN, IMAGENET_STD)


def test_the_combined_file_of_transformers_5_is_read_first(tmp_path):
    told(tmp_path, {"size": 32})
    assert told(tmp_path, {"processor_class": "CLIPProcessor"}, preprocessor_file.COMBINED).side == 32
    assert told(tmp_path, {"image_processor": {"size": 28}}, preprocessor_file.COMBINED).side == 28


def test_a_byte_order_mark_is_no_fault_and_what_is_not_json_is(tmp_path):
    assert told(tmp_path, '\ufeff{"size": 28}').side == 28
    with pytest.raises(ValueError, match=r"preprocessor_config.json' is not JSON"):
        told(tmp_path, "{")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        told(tmp_path, "[]")


@pytest.mark.parametrize("data", [{"size": 28}, {"size": 32, "crop_size": 28}, {"size": [28, 28], "image_mean": None}])
def test_a_network_is_given_pictures_of_the_size_that_an_older_file_says(tmp_path, data):
    folder = save_tiny_dino(tmp_path)
    (folder / preprocessor_file.FILE).write_text(json.dumps(data))
    assert transformers_features(folder).identity.resize == "squash 28 bicubic, PIL"


def test_a_clip_folder_keeps_its_networks_size_and_takes_what_the_file_says_of_colours(tmp_path, golden):
    import shutil

    folder = shutil.copytree(golden / "metrics" / "clip_tiny", tmp_path / "clip")
    for data, mean in (
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}, CLIP_MEAN),
        ({"image_mean": [0.1, 0.2, 0.3]}, (0.1, 0.2, 0.3)),
        ({"image_mean": None}, CLIP_MEAN),
    ):
        (folder / preprocessor_file.FILE).write_text(json.dumps(data))
        found = load_clip(folder).preparation
        assert (found.size, found.mean, found.std) == (32, mean, CLIP_STD)


def test_the_file_of_a_hub_id_is_that_of_the_cache(tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "cached.json").write_text('{"size": 28}')
    cached = {preprocessor_file.FILE: str(tmp_path / "cached.json")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda source, name: cached.get(name))
    assert preprocessor_file.read("some/network").side == 28
    assert preprocessor_file.read("some/network").path == str(tmp_path / "cached.json")
