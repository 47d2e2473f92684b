"""Official checkpoints: strict by name and shape, safetensors only, and to a diffusers folder and back."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from dita.cli import app
from dita.pipelines.opensora import OpenSoraPipeline
from dita.pipelines.opensora.convert import (
    Source,
    autoencoder_source,
    convert_autoencoder,
    convert_transformer,
    load_autoencoder,
    load_transformer,
    transformer_source,
)
from dita.pipelines.opensora.embeddings import rotary_frequencies
from tests.tiny_opensora import clip, tiny_autoencoder, tiny_pipeline, tiny_text_encoder, tiny_transformer


def official(model: torch.nn.Module, source_of: Callable[[str], Source]) -> dict[str, torch.Tensor]:
    """The weights of a model of ours under official names."""
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        source = source_of(name)
        parts.setdefault(source.name, {})[source.part] = tensor
    return {name: torch.cat([own[part] for part in sorted(own)]) for name, own in parts.items()}


def official_transformer(seed: int = 0) -> dict[str, torch.Tensor]:
    return official(tiny_transformer(seed), transformer_source) | {"rope.freqs": rotary_frequencies(8)}


def official_autoencoder(seed: int = 0, **config) -> dict[str, torch.Tensor]:
    vae = tiny_autoencoder(seed, norm_num_groups=4, temporal_norm_num_groups=4, **config)
    statistics = {
        name: torch.tensor(v).view(1, -1, 1, 1, 1) for name, v in (("scale", [2.0] * 4), ("shift", [0.5] * 4))
    }
    return official(vae, autoencoder_source) | statistics


@pytest.mark.parametrize(
    ("keys", "convert", "elements"),
    [
        ("stdit3_xl2_official_keys", convert_transformer, 1_208_872_772 - 36),  # rope.freqs are computed
        ("vae_v1_2_official_keys", convert_autoencoder, 83_653_863 + 309_687_144),
    ],
)
def test_official_key_lists_fit_the_full_size_modules(keys, convert, elements, golden) -> None:
    shapes = json.loads((golden / "opensora" / f"{keys}.json").read_text())
    model = convert({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == elements
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(model)).parameters.items()}
    assert {name: model.config[name] for name in defaults} == defaults, "the defaults are the official sizes"


def test_shapes_tell_the_configuration() -> None:
    model = convert_transformer(official_transformer())
    own = tiny_transformer().config
    assert {name: model.config[name] for name in own if not name.startswith("_")} == {
        name: value for name, value in own.items() if not name.startswith("_")
    }
    assert model.config.base_size == 512
    assert convert_transformer(official_transformer(), {"input_sq_size": 256}).config.base_size == 256
    vae = convert_autoencoder(official_autoencoder(), norm_num_groups=4)
    assert vae.config.latents_mean == (0.5,) * 4 and vae.config.latents_std == (2.0,) * 4


def test_converted_weights_are_the_same_numbers() -> None:
    converted = convert_transformer(official_transformer()).state_dict()
    for name, tensor in tiny_transformer().state_dict().items():
        assert torch.equal(converted[name], tensor), name


def test_rotary_frequencies_may_be_absent_but_not_others() -> None:
    weights = official_transformer()
    del weights["rope.freqs"]
    convert_transformer(weights)
    with pytest.raises(ValueError, match=r"rope\.freqs of the checkpoint are not"):
        convert_transformer(weights | {"rope.freqs": torch.ones(4)})


def test_a_missing_key_is_named() -> None:
    weights = official_transformer()
    del weights["temporal_blocks.1.attn.qkv.bias"]
    with pytest.raises(ValueError, match=r"missing temporal_blocks.1.attn.qkv.bias; not expected nothing"):
        convert_transformer(weights)
    weights = official_autoencoder()
    del weights["temporal_vae.decoder.norm1.weight"]
    with pytest.raises(ValueError, match=r"missing temporal_vae\.decoder.norm1.weight"):
        convert_autoencoder(weights, norm_num_groups=4)


def test_an_extra_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"missing nothing; not expected teacher.weight"):
        convert_transformer(official_transformer() | {"teacher.weight": torch.ones(1)})


def test_a_tensor_of_another_shape_is_named() -> None:
    wrong = official_transformer() | {"temporal_blocks.0.attn.qkv.bias": torch.ones(45)}
    with pytest.raises(ValueError, match=r"temporal_blocks.0.attn.qkv.bias has shape \(45,\), not \(48,\)"):
        convert_transformer(wrong)


def test_another_model_is_recognised_as_such() -> None:
    with pytest.raises(ValueError, match=r"holds no x_embedder.proj.weight: it is not that of the transformer"):
        convert_transformer({"weight": torch.ones(1)})


def test_an_autoencoder_without_temporal_weights_is_refused() -> None:
    spatial = {name: tensor for name, tensor in official_autoencoder().items() if name.startswith("spatial_vae")}
    with pytest.raises(ValueError, match=r"no temporal weights .* it is a 2D one"):
        convert_autoencoder(spatial)


def test_files_folders_and_shards_load_alike(tmp_path: Path) -> None:
    weights = official_transformer()
    save_file(weights, tmp_path / "one.safetensors")
    shards = tmp_path / "shards"
    shards.mkdir()
    names = sorted(weights)
    save_file({name: weights[name] for name in names[:9]}, shards / "model-00001-of-00002.safetensors")
    save_file({name: weights[name] for name in names[9:]}, shards / "model-00002-of-00002.safetensors")
    (shards / "config.json").write_text(json.dumps({"input_sq_size": 256}))
    one, sharded = load_transformer(tmp_path / "one.safetensors"), load_transformer(shards, dtype=torch.bfloat16)
    assert one.dtype == torch.float32 and sharded.dtype == torch.bfloat16
    assert sharded.config.base_size == 256
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor.bfloat16(), sharded.state_dict()[name])


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"only model\.ckpt, which are pickled and not read"):
        load_autoencoder(tmp_path)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_autoencoder(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="is neither a file, nor a folder, nor a hub id"):
        load_autoencoder("absent/folder/there")


@pytest.fixture
def official_files(tmp_path: Path, monkeypatch) -> dict[str, Path]:
    """Tiny checkpoints as the official ones lie: two files, and T5 in transformers' layout."""
    # the official autoencoder has 32 groups everywhere, too many for a tiny one
    monkeypatch.setattr(
        "dita.pipelines.opensora.convert.convert_autoencoder.__kwdefaults__", {"norm_num_groups": 4, "dtype": None}
    )
    paths = {"transformer": tmp_path / "stdit.safetensors", "vae": tmp_path / "vae.safetensors", "t5": tmp_path / "t5"}
    save_file(official_transformer(), paths["transformer"])
    save_file(official_autoencoder(), paths["vae"])
    tiny_text_encoder().save_pretrained(paths["t5"])
    tiny_pipeline().tokenizer.save_pretrained(paths["t5"])
    return paths


def test_a_pipeline_of_official_files_is_the_pipeline(official_files) -> None:
    pipe = OpenSoraPipeline.from_original(
        official_files["transformer"], vae=official_files["vae"], text_encoder=official_files["t5"]
    )
    pipe.set_progress_bar_config(disable=True)
    arguments = dict(resolution="144p", num_inference_steps=1)
    assert torch.equal(clip(pipe, **arguments), clip(tiny_pipeline(sizes=None), **arguments))
    assert pipe.vae.config.latents_std == (2.0,) * 4


def test_the_parts_have_the_asked_precision(official_files) -> None:
    pipe = OpenSoraPipeline.from_original(
        official_files["transformer"],
        vae=official_files["vae"],
        text_encoder=official_files["t5"],
        dtype=torch.bfloat16,
    )
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16
    assert pipe.text_encoder.dtype == torch.float32


def test_the_command_writes_a_folder_that_diffusers_loads(official_files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = {f"--{name.replace('t5', 'text-encoder')}": str(path) for name, path in official_files.items()}
    arguments = [word for pair in files.items() for word in pair]
    result = CliRunner().invoke(app, ["convert-opensora", *arguments, "--out", str(out), "--dtype", "bfloat16"])
    assert result.exit_code == 0, result.output
    assert "wrote" in result.output
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".model"}
    pipe = OpenSoraPipeline.from_pretrained(out, dtype=torch.bfloat16)
    assert pipe.transformer.dtype == torch.bfloat16 and pipe.text_encoder.dtype == torch.float32


def test_the_command_says_in_a_line_what_is_wrong(official_files, tmp_path: Path) -> None:
    arguments = ["--transformer", str(official_files["vae"]), "--vae", str(official_files["vae"])]
    result = CliRunner().invoke(
        app, ["convert-opensora", *arguments, "--text-encoder", "none", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert "holds no x_embedder.proj.weight" in result.output
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    result = CliRunner().invoke(app, ["convert-opensora", "--out", str(tmp_path / "full")])
    assert result.exit_code == 2 and "is not empty" in result.output


def test_the_command_works_without_a_text_encoder(official_files, tmp_path: Path) -> None:
    arguments = ["--transformer", str(official_files["transformer"]), "--vae", str(official_files["vae"])]
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["convert-opensora", *arguments, "--text-encoder", "none", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert OpenSoraPipeline.from_pretrained(out).text_encoder is None
