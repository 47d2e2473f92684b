"""Official Open-Sora 1.2 checkpoints to dita's modules: every tensor by its name, and no name left over.

Only safetensors are read: unpickling a downloaded file could run its code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from dita.pipelines.opensora.autoencoder import AutoencoderKLOpenSora
from dita.pipelines.opensora.embeddings import rotary_frequencies
from dita.pipelines.opensora.transformer import OpenSoraTransformer3DModel
from dita.values import shown

TRANSFORMER = "hpcai-tech/OpenSora-STDiT-v3"
AUTOENCODER = "hpcai-tech/OpenSora-VAE-v1.2"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")

Model = TypeVar("Model", bound=torch.nn.Module)


class Source(NamedTuple):
    """Where a tensor of ours lies in an official checkpoint: part `part` of `parts` equal ones along the first axis."""

    name: str
    part: int = 0
    parts: int = 1


class SafetensorsFiles(Mapping[str, torch.Tensor]):
    """The tensors of some safetensors files, each read when it is asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = [_opened(path) for path in paths]
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 (no iterator)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file_of[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def load_transformer(
    source: str | os.PathLike[str] = TRANSFORMER, *, dtype: torch.dtype | None = None, **hub: Any
) -> OpenSoraTransformer3DModel:
    """The transformer of an official file, folder or hub id, in `dtype` (None: as stored).

    `hub` goes to `huggingface_hub.snapshot_download` (`revision`, `cache_dir`, `token`, `local_files_only`).
    Raises `ValueError` for a missing, extra or misshapen tensor, by its name, and for anything but safetensors.
    """
    weights, config = _open(source, hub)
    return convert_transformer(weights, config, dtype=dtype)


def load_autoencoder(
    source: str | os.PathLike[str] = AUTOENCODER, *, dtype: torch.dtype | None = None, **hub: Any
) -> AutoencoderKLOpenSora:
    """The video autoencoder of an official file, folder or hub id; arguments and errors as for `load_transformer`."""
    weights, _ = _open(source, hub)
    return convert_autoencoder(weights, dtype=dtype)


def convert_transformer(
    weights: Mapping[str, torch.Tensor],
    official_config: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> OpenSoraTransformer3DModel:
    """The transformer with the official `weights`, whose shapes tell its sizes.

    `official_config` adds what shapes do not tell: `input_sq_size` (512 by default).
    Raises `ValueError` that names missing, extra or misshapen tensors.
    """
    with torch.device("meta"):
        model = OpenSoraTransformer3DModel(**transformer_config(weights, official_config or {}))
    ignored = {"rope.freqs"} & set(weights)  # a constant: checked here, computed in the model
    if ignored:
        _check_rotary(weights["rope.freqs"], model.config.attention_head_dim)
    return _filled(model, weights, transformer_source, ignored, dtype)


def convert_autoencoder(
    weights: Mapping[str, torch.Tensor], *, norm_num_groups: int = 32, dtype: torch.dtype | None = None
) -> AutoencoderKLOpenSora:
    """The video autoencoder with the official `weights`, whose shapes tell its sizes but `norm_num_groups`.

    Raises `ValueError` that names missing, extra or misshapen tensors, and for a 2D autoencoder without temporal part.
    """
    with torch.device("meta"):
        model = AutoencoderKLOpenSora(**autoencoder_config(weights, norm_num_groups))
    return _filled(model, weights, autoencoder_source, {"scale", "shift"} & set(weights), dtype)


def transformer_config(weights: Mapping[str, torch.Tensor], official_config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `OpenSoraTransformer3DModel` for official weights."""

    def shape(name: str) -> torch.Size:
        return _shape(weights, name, f"the transformer {TRANSFORMER}")

    dim, in_channels, _, patch, _ = shape("x_embedder.proj.weight")
    caption_length, caption_channels = shape("y_embedder.y_embedding")
    blocks = {int(found[1]) for name in weights if (found := re.match(r"spatial_blocks\.(\d+)\.", name))}
    qk_norm = "spatial_blocks.0.attn.q_norm.weight" in weights
    if qk_norm:
        head_dim = shape("spatial_blocks.0.attn.q_norm.weight")[0]
    elif "num_heads" in official_config:
        head_dim = dim // official_config["num_heads"]
    else:
        raise ValueError("weights without q_norm do not tell the number of heads: give config.json beside them")
    return {
        "num_layers": max(blocks, default=-1) + 1,
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": in_channels,
        "out_channels": shape("final_layer.linear.weight")[0] // patch**2,
        "patch_size": patch,
        "mlp_ratio": shape("spatial_blocks.0.mlp.fc1.weight")[0] / dim,
        "caption_channels": caption_channels,
        "caption_max_length": caption_length,
        "qk_norm": "rms_norm" if qk_norm else None,
        "base_size": official_config.get("input_sq_size") or 512,
    }


def autoencoder_config(weights: Mapping[str, torch.Tensor], norm_num_groups: int = 32) -> dict[str, Any]:
    """Arguments of `AutoencoderKLOpenSora` for official weights."""
    if not any(name.startswith("temporal_vae.") for name in weights):
        raise ValueError(
            "the autoencoder has no temporal weights (temporal_vae.*): it is a 2D one; Open-Sora 1.2 needs the video"
            f" autoencoder {AUTOENCODER}"
        )

    def shape(name: str) -> torch.Size:
        return _shape(weights, name, f"the video autoencoder {AUTOENCODER}")

    def indices(pattern: str) -> list[int]:
        return sorted({int(found[1]) for name in weights if (found := re.match(pattern, name))})

    spatial, temporal = "spatial_vae.module.encoder", "temporal_vae.encoder"
    spatial_levels = indices(r"spatial_vae\.module\.encoder\.down_blocks\.(\d+)\.")
    temporal_levels = indices(r"temporal_vae\.encoder\.block_res_blocks\.(\d+)\.")
    halving = indices(r"temporal_vae\.encoder\.conv_blocks\.(\d+)\.")
    config = {
        "in_channels": shape(f"{spatial}.conv_in.weight")[1],
        "out_channels": shape("spatial_vae.module.decoder.conv_out.weight")[0],
        "latent_channels": shape("temporal_vae.post_quant_conv.conv.weight")[0],
        "spatial_block_out_channels": tuple(
            shape(f"{spatial}.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in spatial_levels
        ),
        "spatial_layers_per_block": len(indices(r"spatial_vae\.module\.encoder\.down_blocks\.0\.resnets\.(\d+)\.")),
        "norm_num_groups": norm_num_groups,
        "temporal_block_out_channels": tuple(
            shape(f"{temporal}.block_res_blocks.{i}.0.conv1.conv.weight")[0] for i in temporal_levels
        ),
        "temporal_layers_per_block": len(indices(r"temporal_vae\.encoder\.block_res_blocks\.0\.(\d+)\.")),
        "temporal_norm_num_groups": norm_num_groups,
        "temporal_downsample": tuple(i in halving for i in temporal_levels[:-1]),
    }
    for name, ours in (("shift", "latents_mean"), ("scale", "latents_std")):
        values = weights.get(name)
        if values is not None and not values.is_meta:
            config[ours] = tuple(round(value, 6) for value in values.float().flatten().tolist())
    return config


def transformer_source(name: str) -> Source:
    """Where the transformer's tensor `name` lies in an official checkpoint (spec 1.9)."""
    found = re.fullmatch(r"(.*)\.attn1\.to_([qkv])\.(.*)", name)
    if found:
        return Source(f"{found[1]}.attn.qkv.{found[3]}", "qkv".index(found[2]), 3)
    found = re.fullmatch(r"(.*)\.attn2\.to_([kv])\.(.*)", name)
    if found:
        return Source(f"{found[1]}.cross_attn.kv_linear.{found[3]}", "kv".index(found[2]), 2)
    return Source(_renamed(name, TRANSFORMER_NAMES))


def autoencoder_source(name: str) -> Source:
    """Where the autoencoder's tensor `name` lies in an official checkpoint (spec 2)."""
    if name.startswith("spatial_vae."):
        return Source(name.replace("spatial_vae.", "spatial_vae.module.", 1))
    found = re.fullmatch(r"temporal_vae\.decoder\.up_blocks\.(\d+)\.(resnets|resample\.conv)\.(.*)", name)
    if found:  # the official decoder numbers its four levels as the encoder's, not as they run
        level, rest = int(found[1]), found[3]
        official = f"block_res_blocks.{3 - level}" if found[2] == "resnets" else f"conv_blocks.{2 - level}"
        name = f"temporal_vae.decoder.{official}.{rest}"
    renamed = _renamed(name, AUTOENCODER_NAMES)
    # every causal convolution of the reference wraps one more module
    return Source(re.sub(r"(conv\w*|conv_blocks\.\d+)\.(weight|bias)$", r"\1.conv.\2", renamed))


TRANSFORMER_NAMES: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.", "x_embedder.proj."),
    (r"^time_embed\.linear_1\.", "t_embedder.mlp.0."),
    (r"^time_embed\.linear_2\.", "t_embedder.mlp.2."),
    (r"^fps_embed\.linear_1\.", "fps_embedder.mlp.0."),
    (r"^fps_embed\.linear_2\.", "fps_embedder.mlp.2."),
    (r"^time_proj\.", "t_block.1."),
    (r"^caption_projection\.linear_([12])\.", r"y_embedder.y_proj.fc\1."),
    (r"^null_caption$", "y_embedder.y_embedding"),
    (r"\.attn1\.norm_([qk])\.", r".attn.\1_norm."),
    (r"\.attn1\.to_out\.0\.", ".attn.proj."),
    (r"\.attn2\.to_q\.", ".cross_attn.q_linear."),
    (r"\.attn2\.to_out\.0\.", ".cross_attn.proj."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.fc1."),
    (r"\.ff\.net\.2\.", ".mlp.fc2."),
    (r"^scale_shift_table$", "final_layer.scale_shift_table"),
    (r"^proj_out\.", "final_layer.linear."),
)
"""Our name to the official one, where a tensor keeps its shape."""

AUTOENCODER_NAMES: tuple[tuple[str, str], ...] = (
    (r"\.encoder\.down_blocks\.(\d+)\.resnets\.", r".encoder.block_res_blocks.\1."),
    (r"\.encoder\.down_blocks\.(\d+)\.resample\.", r".encoder.conv_blocks.\1."),
    (r"\.mid_block\.resnets\.", ".res_blocks."),
    (r"\.norm_out\.", ".norm1."),
    (r"\.encoder\.conv_out\.", ".encoder.conv2."),
    (r"\.decoder\.conv_in\.", ".decoder.conv1."),
    (r"\.conv_shortcut\.", ".conv3."),
)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _filled(
    model: Model,
    weights: Mapping[str, torch.Tensor],
    source_of: Callable[[str], Source],
    ignored: set[str],
    dtype: torch.dtype | None,
) -> Model:
    """`model`, which lies on the meta device, with the official weights, in evaluation mode."""
    targets: dict[str, list[tuple[str, Source]]] = {}
    for ours in model.state_dict():
        source = source_of(ours)
        targets.setdefault(source.name, []).append((ours, source))
    missing, extra = sorted(set(targets) - set(weights)), sorted(set(weights) - set(targets) - ignored)
    if missing or extra:
        raise ValueError(
            f"the checkpoint does not fit {type(model).__name__}:"
            f" missing {_listed(missing)}; not expected {_listed(extra)}"
        )
    state = {}
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for official, uses in targets.items():
        tensor = weights[official] if dtype is None else weights[official].to(dtype)
        for ours, source in uses:
            if tensor.shape[0] % source.parts:
                raise ValueError(f"{official} has {tensor.shape[0]} rows, which do not make {source.parts} equal parts")
            part = tensor.chunk(source.parts)[source.part].clone() if source.parts > 1 else tensor
            if part.shape != expected[ours]:
                wanted = (source.parts * expected[ours][0], *expected[ours][1:])
                raise ValueError(f"{official} has shape {tuple(tensor.shape)}, not {wanted}")
            state[ours] = part
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _listed(names: list[str], most: int = 8) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _shape(weights: Mapping[str, torch.Tensor], name: str, what: str) -> torch.Size:
    if name not in weights:
        raise ValueError(f"the checkpoint holds no {name}: it is not that of {what}")
    return weights[name].shape


def _check_rotary(stored: torch.Tensor, head_dim: int) -> None:
    computed = rotary_frequencies(head_dim)
    if stored.shape != computed.shape:
        raise ValueError(f"rope.freqs has shape {tuple(stored.shape)}, not {tuple(computed.shape)}")
    if not stored.is_meta and not torch.allclose(stored.float(), computed, rtol=1e-2):
        raise ValueError("rope.freqs of the checkpoint are not 10000^(-2j/head_dim), which this model computes")


def _open(source: str | os.PathLike[str], hub: dict[str, Any]) -> tuple[SafetensorsFiles, dict[str, Any]]:
    """The tensors and the `config.json`, empty where there is none, of a file, a folder or a hub id."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"{str(source)!r} is not a safetensors file; only those are read")
        return SafetensorsFiles([path]), _config(path.parent)
    if not path.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", os.fspath(source)):
            raise ValueError(
                f"{os.fspath(source)!r} is neither a file, nor a folder, nor a hub id such as {TRANSFORMER}"
            )
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(os.fspath(source), allow_patterns=["*.safetensors", "config.json"], **hub))
    files = sorted(path.glob("*.safetensors"))
    if not files:
        pickled = [file.name for file in sorted(path.iterdir()) if file.suffix in PICKLES]
        found = f"only {', '.join(pickled)}, which are pickled and not read" if pickled else "none"
        raise ValueError(f"{os.fspath(source)!r} holds no safetensors file ({found})")
    return SafetensorsFiles(files), _config(path)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file, or is damaged: {error}") from None


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{str(path)!r} must hold an object, got {shown(data)}")
    return data
