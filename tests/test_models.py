import json

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from dita import miniature, models
from dita.shapes import NAMED_SHAPES
from tests.tiny_flux import tiny_pipeline

FLUX_DEV = {
    "_class_name": "FluxTransformer2DModel",
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}
FLUX_VAE = {"block_out_channels": [128, 256, 512, 512]}


@pytest.fixture
def bundled(monkeypatch, tmp_path):
    """Instead of the bundled models: one named `toy-flux`, with the sizes of FLUX dev at 256x256."""
    write_folder(tmp_path / "toy")
    pipe = tiny_pipeline()
    monkeypatch.setattr(miniature, "MINIATURES", {"toy-flux": None})
    monkeypatch.setattr(miniature, "folder", lambda name: tmp_path / "toy")
    monkeypatch.setattr(miniature, "load", lambda name, dtype, device: pipe.to(device, dtype))
    call = {"height": 256, "width": 256, "max_sequence_length": 32}
    monkeypatch.setattr(miniature, "defaults", lambda name: dict(call))
    return pipe


def write_folder(folder, transformer=FLUX_DEV):
    for name, config in (("transformer", transformer), ("vae", FLUX_VAE)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))


def test_the_config_of_flux_dev_gives_its_named_shape():
    shape = models.flux_shape_from_config(FLUX_DEV, FLUX_VAE, name="flux-dev")
    assert shape == NAMED_SHAPES["flux-dev"]


def test_the_config_of_flux_schnell_gives_its_named_shape():
    shape = models.flux_shape_from_config(FLUX_DEV | {"guidance_embeds": False}, FLUX_VAE, name="flux-schnell")
    assert shape == NAMED_SHAPES["flux-schnell"]


def test_height_and_width_are_pixels_and_default_to_each_other():
    assert models.flux_shape_from_config(FLUX_DEV, FLUX_VAE, name="x", height=512, width=256).grid == (32, 16)
    assert models.flux_shape_from_config(FLUX_DEV, FLUX_VAE, name="x", width=512).image_tokens == 1024


def test_the_autoencoder_says_how_many_pixels_a_token_is():
    shape = models.flux_shape_from_config(FLUX_DEV, {"block_out_channels": [8, 8]}, name="x", height=64)
    assert shape.grid == (16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 250}, "multiples of 16 pixels, got 250x250"),
        ({"height": 256, "width": 0}, "multiples of 16"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.flux_shape_from_config(FLUX_DEV, FLUX_VAE, name="x", **options)


def test_another_family_is_refused_by_name():
    with pytest.raises(ValueError, match="'SD3Transformer2DModel'; a plan supports FluxTransformer2DModel"):
        models.flux_shape_from_config({"_class_name": "SD3Transformer2DModel"}, {}, name="sd3")


def test_a_local_folder_has_a_shape_without_its_weights(tmp_path):
    write_folder(tmp_path / "my-flux")
    assert models.shape(str(tmp_path / "my-flux"), height=512).name == "my-flux"
    assert models.shape(str(tmp_path / "my-flux" / "transformer")).image_tokens == 4096


def test_a_bundled_model_has_the_shape_of_its_default_call(bundled):
    shape = models.shape("toy-flux", batch=2)
    assert (shape.name, shape.batch, shape.image_tokens, shape.text_tokens) == ("toy-flux", 2, 256, 32)
    assert models.shape("toy-flux", height=128).image_tokens == 64


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        models.shape(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        models.shape(str(tmp_path))


def test_an_unknown_shape_lists_the_known_ones(bundled):
    with pytest.raises(
        ValueError, match=r"unknown model 'flux-pro'.*flux-dev, flux-schnell, .*opensora-1.2-720p-16s, toy-flux"
    ):
        models.shape("flux-pro")


def test_a_bundled_model_is_loaded_with_its_default_call(bundled):
    pipe, call = models.load("toy-flux", device="cpu")
    assert pipe is bundled
    assert str(pipe.dtype) == "torch.float32"
    assert call == {"height": 256, "width": 256, "max_sequence_length": 32}
    call["height"] = 0
    assert models.load("toy-flux", device="cpu")[1]["height"] == 256
    assert models.is_bundled("toy-flux") and not models.is_bundled("a/b")


def test_a_local_folder_is_loaded_without_the_network(bundled, tmp_path):
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(block_out_channels=(4, 4), norm_num_groups=2, add_attention=False, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "saved")
    pipe, call = models.load(tmp_path / "saved", "bfloat16", device="cpu")
    assert isinstance(pipe, DDPMPipeline)
    assert str(pipe.dtype) == "torch.bfloat16"
    assert call == {}


def test_schnell_is_called_with_its_four_steps():
    call = {"num_inference_steps": 4, "guidance_scale": 0.0, "max_sequence_length": 256}
    assert models._default_call("black-forest-labs/FLUX.1-schnell") == call
    assert models._default_call("black-forest-labs/FLUX.1-dev") == {}


@pytest.mark.parametrize("name", ["flux", "sdxl-turbo", "./nowhere", "a/b/c", ""])
def test_a_name_that_is_no_model_lists_the_bundled_ones(bundled, name):
    with pytest.raises(ValueError, match="bundled: toy-flux"):
        models.load(name)


def test_a_folder_that_is_no_pipeline_is_refused(bundled, tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        models.load(tmp_path)


def test_a_hub_id_outside_the_local_cache_is_a_clear_error(bundled, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"'nobody/nothing-here' is not in the local cache"):
        models.load("nobody/nothing-here", local_files_only=True)


def test_an_unknown_dtype_or_device_is_refused(bundled):
    with pytest.raises(ValueError, match="unknown dtype 'int3'; known: float32"):
        models.load("toy-flux", "int3", device="cpu")
    with pytest.raises(ValueError, match="unknown device 'quantum'"):
        models.load("toy-flux", device="quantum")


PIXART = {
    "_class_name": "PixArtTransformer2DModel",
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "caption_channels": 4096,
    "cross_attention_dim": 1152,
    "use_additional_conditions": None,
}
DIT = {
    key: PIXART[key] for key in PIXART if key.startswith(("num_", "attention_head", "in_", "out_", "patch", "sample"))
}
DIT["_class_name"] = "DiTTransformer2DModel"


@pytest.mark.parametrize(
    ("size", "name"), [(32, "pixart-alpha-256"), (64, "pixart-alpha-512"), (128, "pixart-alpha-1024")]
)
def test_the_configs_of_pixart_give_its_named_shapes(size, name):
    assert models.shape_from_config(PIXART | {"sample_size": size}, FLUX_VAE, name=name) == NAMED_SHAPES[name]


def test_the_config_of_pixart_sigma_gives_its_named_shape():
    config = PIXART | {"sample_size": 256, "use_additional_conditions": False}
    assert models.shape_from_config(config, FLUX_VAE, name="pixart-sigma-2k") == NAMED_SHAPES["pixart-sigma-2k"]


@pytest.mark.parametrize(("size", "name"), [(32, "dit-xl-2-256"), (64, "dit-xl-2-512")])
def test_the_configs_of_dit_give_its_named_shapes(size, name):
    assert models.shape_from_config(DIT | {"sample_size": size}, FLUX_VAE, name=name) == NAMED_SHAPES[name]


@pytest.mark.parametrize(
    ("config", "norm", "name"),
    [(PIXART, "ada_norm_single", "pixart-alpha-256"), (DIT, "ada_norm_zero", "dit-xl-2-256")],
)
def test_configs_of_older_releases_are_told_apart_as_diffusers_does(config, norm, name):
    older = {key: value for key, value in config.items() if key != "use_additional_conditions"}
    older |= {"_class_name": "Transformer2DModel", "_diffusers_version": "0.22.0.dev0", "norm_type": norm}
    assert models.shape_from_config(older, FLUX_VAE, name=name) == NAMED_SHAPES[name]
    with pytest.raises(ValueError, match="class 'Transformer2DModel'; a plan supports"):
        models.shape_from_config(older | {"norm_type": "layer_norm"}, FLUX_VAE, name=name)


def test_the_older_class_is_divided_by_the_rule_of_diffusers():
    from diffusers.models.model_loading_utils import _CLASS_REMAPPING_DICT

    assert _CLASS_REMAPPING_DICT["Transformer2DModel"] == models._FORMERLY_TRANSFORMER_2D


def test_a_local_folder_of_pixart_is_planned_at_any_size_and_prompt_length(tmp_path):
    write_folder(tmp_path / "pixart", PIXART)
    shape = models.shape(str(tmp_path / "pixart"), height=256, width=512, text_tokens=120)
    assert (shape.grid, shape.text_tokens, shape.rows) == ((16, 32), 120, 2)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (DIT, {"height": 128}, "makes pictures of 256x256 pixels only, got 128x128"),
        (DIT, {"text_tokens": 9}, "has no text: it takes a class label, not 9 text tokens"),
        (PIXART, {"height": 100}, "must be multiples of 16 pixels, got 100x100"),
        (PIXART, {"text_tokens": 0}, "text_tokens must be at least 1, got 0"),
        (PIXART, {"batch": 0}, "batch must be at least 1, got 0"),
        (
            PIXART | {"_class_name": "SD3Transformer2DModel"},
            {},
            "class 'SD3Transformer2DModel'; a plan supports Flux.*PixArt.*DiT",
        ),
    ],
)
def test_sizes_that_a_model_does_not_have_are_refused(config, arguments, message):
    with pytest.raises(ValueError, match=message):
        models.shape_from_config(config, FLUX_VAE, name="x", **arguments)
