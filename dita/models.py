"""Finding a model by its name: bundled, a local diffusers folder, or a hub id; as a pipeline, or only as its sizes."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dita import asking, miniature
from dita.call_arguments import check_sides
from dita.model_names import cached_folder, canonical, hub_id_at_hand, published
from dita.shapes import (
    NAMED_SHAPES,
    AnyShape,
    DiTShape,
    FluxShape,
    OpenSoraShape,
    PixArtShape,
    named_shape,
    with_text_tokens,
)
from dita.values import choice, nearest, number, shown, whole

DTYPES = ("float32", "bfloat16", "float16")
VIDEO_PIPELINES = ("OpenSoraPipeline",)
CLASS_PIPELINES = ("DiTPipeline",)
_FORMERLY_TRANSFORMER_2D = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""By `norm_type`: what older configurations call `Transformer2DModel`, told apart as diffusers does."""
_END = 2**20  # bytes
_SAMPLED = 8  # numbers of a tensor in a fingerprint
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load(
    model: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    device: str | None = None,
    local_files_only: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """The pipeline of `model`, and the arguments that its calls should have where the user gives none.

    `model` is a bundled name, a local diffusers folder, a hub id, or a published name such as `flux-dev`, which stands
    for a hub id in the local cache. Only a hub id may use the network, and with `local_files_only` it does not.
    `device` and `dtype` (one of `DTYPES`) default to CUDA in bfloat16 where there is CUDA, else to the CPU in float32.
    Raises `ValueError` for a name that is none of these, and for a `dtype` or `device` that does not exist.
    """
    source = _resolve(model)
    import torch

    device = device or default_device()
    kind = check_device(device)
    dtype = choice("dtype", dtype or default_dtype(kind), DTYPES)
    if isinstance(source, str) and is_bundled(source):
        return miniature.load(source, dtype=getattr(torch, dtype), device=device), miniature.defaults(source)
    local = local_files_only or canonical(model) in NAMED_SHAPES
    pipe = _from_pretrained(source, getattr(torch, dtype), local)
    return pipe.to(device), _default_call(source)


def shape(
    model: str, *, batch: int = 1, height: int | None = None, width: int | None = None, text_tokens: int | None = None
) -> AnyShape:
    """The sizes of a published model (by its name or hub id), of a bundled one, or of a diffusers folder.

    A folder is a local one, or that of another hub id in the local cache. No weights are read, and torch is not
    imported. `height` and `width` are in pixels.
    Raises `ValueError` for an unknown name, a folder without a supported transformer, or sizes that do not fit.
    """
    known_as = published(model)
    if known_as is not None:
        return named_shape(known_as, batch=batch, height=height, width=width, text_tokens=text_tokens)
    model, frames = canonical(model) or model, None
    cached = cached_folder(model) if isinstance(model, str) and HUB_ID.fullmatch(model) else None
    if model in miniature.MINIATURES:
        folder, call = miniature.folder(model), miniature.defaults(model)
        frames = call.get("num_frames")
        if height is None and width is None:
            height, width = call.get("height"), call.get("width")
        text_tokens = call.get("max_sequence_length") if text_tokens is None else text_tokens
    elif model and Path(model).is_dir():
        folder = Path(model)
    elif cached is not None:
        folder = cached
    else:
        known = (*NAMED_SHAPES, *miniature.MINIATURES)
        near = nearest(model, known)
        raise ValueError(
            f"unknown model {model!r}; a plan knows {', '.join(known)}, their hub ids, and local folders in the"
            " diffusers layout" + (f"; did you mean {near!r}?" if near else "")
        )
    config = _read_config(folder / "transformer" if (folder / "transformer").is_dir() else folder)
    vae = _read_config(folder / "vae") if (folder / "vae").is_dir() else {}
    name = model if model in miniature.MINIATURES or cached is not None else folder.resolve().name
    made = shape_from_config(config, vae, name=name, batch=batch, height=height, width=width, text_tokens=text_tokens)
    if frames is not None and isinstance(made, OpenSoraShape):
        halvings = sum(vae.get("temporal_downsample", (False, True, True)))
        made = dataclasses.replace(made, frames=-(-frames // 2**halvings))
    return made


def shape_from_config(
    transformer: dict[str, Any],
    vae: dict[str, Any],
    *,
    name: str,
    batch: int = 1,
    height: int | None = None,
    width: int | None = None,
    text_tokens: int | None = None,
) -> AnyShape:
    """The sizes that the `config.json` of a transformer and of its autoencoder give; sizes in pixels.

    Raises `ValueError` for an unsupported transformer class, and for sizes that do not fit.
    """
    found = _transformer_class(transformer)
    if found == "OpenSoraTransformer3DModel":
        return opensora_shape_from_config(
            transformer, vae, name=name, batch=batch, height=height, width=width, text_tokens=text_tokens
        )
    if found not in ("PixArtTransformer2DModel", "DiTTransformer2DModel"):
        return flux_shape_from_config(
            transformer, vae, name=name, batch=batch, height=height, width=width, text_tokens=text_tokens
        )
    batch = _batch(batch)
    cell = _latent_cell(vae, "block_out_channels", name)
    token = cell * _size(transformer, "patch_size", name)
    native = _size(transformer, "sample_size", name) * cell
    height, width = _sides(height, width, native)
    if min(height, width) < token or height % token or width % token:
        raise ValueError(f"height and width of {name!r} must be multiples of {token} pixels, got {height}x{width}")
    model_width = _size(transformer, "num_attention_heads", name) * _size(transformer, "attention_head_dim", name)
    sizes: dict[str, Any] = {
        "name": name,
        "layers": _size(transformer, "num_layers", name),
        "width": model_width,
        "mlp_width": 4 * model_width,
        "grid": (height // token, width // token),
        "batch": batch,
        "patch": _size(transformer, "patch_size", name),
        "in_channels": _size(transformer, "in_channels", name),
        "out_channels": _size(transformer, "out_channels" if transformer.get("out_channels") else "in_channels", name),
    }
    if found == "DiTTransformer2DModel":
        if (height, width) != (native, native):
            raise ValueError(f"{name!r} makes pictures of {native}x{native} pixels only, got {height}x{width}")
        shape: AnyShape = DiTShape(**sizes)
    else:
        micro = transformer.get("use_additional_conditions")
        shape = PixArtShape(
            **sizes,
            caption_width=transformer.get("caption_channels"),
            cross_width=_size(transformer, "cross_attention_dim", name),
            micro_conditions=_size(transformer, "sample_size", name) == 128 if micro is None else micro,
        )
    return shape if text_tokens is None else with_text_tokens(shape, text_tokens)


def _transformer_class(config: Mapping[str, Any]) -> Any:
    """The class that diffusers loads a transformer as; PixArt's and DiT's published ones still name the older one."""
    name = config.get("_class_name")
    return _FORMERLY_TRANSFORMER_2D.get(str(config.get("norm_type")), name) if name == "Transformer2DModel" else name


def flux_shape_from_config(
    transformer: dict[str, Any],
    vae: dict[str, Any],
    *,
    name: str,
    batch: int = 1,
    height: int | None = None,
    width: int | None = None,
    text_tokens: int | None = None,
    element_bytes: int = 2,
) -> FluxShape:
    """The sizes that the `config.json` of a FLUX transformer and of its autoencoder give.

    `height` and `width` are in pixels and default to each other, or to 128 latent cells a side, as in diffusers'
    FluxPipeline; `text_tokens` defaults to 512, or to 256 for a model without guidance embedding (FLUX schnell).
    Raises `ValueError` for another transformer class, and for a size that is not a multiple of an image token's.
    """
    found = transformer.get("_class_name")
    if found != "FluxTransformer2DModel":
        raise ValueError(
            f"{name!r} has a transformer of class {found!r}; a plan supports FluxTransformer2DModel,"
            " PixArtTransformer2DModel, DiTTransformer2DModel and OpenSoraTransformer3DModel"
        )
    batch = _batch(batch)
    cell = _latent_cell(vae, "block_out_channels", name)
    token = 2 * cell  # 2x2 latent cells make one token
    height, width = _sides(height, width, 128 * cell)
    if min(height, width) < token or height % token or width % token:
        raise ValueError(f"height and width of {name!r} must be multiples of {token} pixels, got {height}x{width}")
    guidance = bool(transformer.get("guidance_embeds", False))
    model_width = _size(transformer, "num_attention_heads", name) * _size(transformer, "attention_head_dim", name)
    grid = (height // token, width // token)
    return FluxShape(
        name=name,
        double_layers=_size(transformer, "num_layers", name, least=0),
        single_layers=_size(transformer, "num_single_layers", name, least=0),
        width=model_width,
        mlp_width=4 * model_width,
        text_tokens=(512 if guidance else 256) if text_tokens is None else _text_tokens(text_tokens),
        image_tokens=grid[0] * grid[1],
        grid=grid,
        batch=batch,
        in_channels=_size(transformer, "in_channels", name),
        text_width=_size(transformer, "joint_attention_dim", name),
        pooled_width=_size(transformer, "pooled_projection_dim", name),
        guidance=guidance,
        head_dim=_size(transformer, "attention_head_dim", name),
        element_bytes=element_bytes,
    )


def opensora_shape_from_config(
    transformer: dict[str, Any],
    vae: dict[str, Any],
    *,
    name: str,
    batch: int = 1,
    height: int | None = None,
    width: int | None = None,
    latent_frames: int = 15,
    text_tokens: int | None = None,
) -> OpenSoraShape:
    """The sizes that the `config.json` of an Open-Sora transformer and of its autoencoder give.

    `height` and `width` are in nominal pixels and default to each other, or to 240x426; 15 latent frames are 2 seconds.
    Raises `ValueError` for a batch below 1 or a size without a whole patch.
    """
    batch = _batch(batch)
    cell = _latent_cell(vae, "spatial_block_out_channels", name)
    patch = _size(transformer, "patch_size", name)
    height, width = (240, 426) if height is None and width is None else _sides(height, width, 0)
    if min(height, width) < cell:
        raise ValueError(f"height and width of {name!r} must be at least {cell} pixels, got {height}x{width}")
    model_width = _size(transformer, "num_attention_heads", name) * _size(transformer, "attention_head_dim", name)
    mlp_ratio = number(f"'mlp_ratio' in the configuration of {name!r}", transformer.get("mlp_ratio"))
    shape = OpenSoraShape(
        name=name,
        layers=_size(transformer, "num_layers", name),
        width=model_width,
        mlp_width=int(mlp_ratio * model_width),
        frames=latent_frames,
        grid=(-(-(height // cell) // patch), -(-(width // cell) // patch)),
        batch=batch,
        patch=patch,
        in_channels=_size(transformer, "in_channels", name),
        out_channels=_size(transformer, "out_channels", name),
        caption_width=_size(transformer, "caption_channels", name),
    )
    return shape if text_tokens is None else dataclasses.replace(shape, text_tokens=_text_tokens(text_tokens))


def default_call(model: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments that calls of the pipeline of `model` should have where the user gives none; nothing is loaded.

    Raises `ValueError` for a name that `load` does not know.
    """
    source = _resolve(model)
    bundled = isinstance(source, str) and is_bundled(source)
    return miniature.defaults(str(source)) if bundled else _default_call(source)


def makes_videos(model: str | os.PathLike[str]) -> bool:
    """Whether `model` is a video pipeline, bundled or in a local folder; hub models are known once they are loaded.

    Raises `ValueError` for a name that `load` does not know, `FileNotFoundError` for a bundled model that is not there.
    """
    return _index(model).get("_class_name") in VIDEO_PIPELINES


def class_names(model: str | os.PathLike[str]) -> list[str] | None:
    """The names of the classes that `model` draws, bundled or in a local folder; None where it takes prompts, and for
    hub models, which are known once they are loaded.

    Raises as `makes_videos` does.
    """
    index = _index(model)
    if index.get("_class_name") not in CLASS_PIPELINES:
        return None
    return asking.class_names(index.get("id2label") or {})


def check_device(name: str) -> str:
    """The kind of a device: `cpu`, `cuda` ... Raises `ValueError` for one that does not exist, or not here."""
    import torch

    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"unknown device {name!r}; give cpu, cuda or cuda:0, for example") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {name!r} was asked for, but this torch sees no CUDA device; use --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
        return "cuda"
    try:
        torch.empty(1, device=device).add(1).tolist()
    except (RuntimeError, NotImplementedError, AssertionError, ImportError):
        raise ValueError(f"device {name!r} was asked for, but nothing can be computed on it here; use cpu") from None
    return str(device.type)


def check_size(model: str | os.PathLike[str], arguments: Mapping[str, Any]) -> None:
    """Raises `ValueError` for a size among the arguments of a call that `model`, bundled or in a local folder, would
    round. Hub models are known once they are loaded (`dita.call_arguments.checked_call`).
    """
    index = _index(model)
    folder = miniature.folder(canonical(model)) if is_bundled(model) else Path(model).expanduser()
    parts = [folder / name for name in ("transformer", "vae")]
    binning = str(index.get("_class_name")).startswith("PixArt") and arguments.get("use_resolution_binning", True)
    if index and not binning and all((part / "config.json").is_file() for part in parts):
        transformer, vae = map(_read_config, parts)
        check_sides(repr(os.fspath(model)), str(transformer.get("_class_name")), transformer, vae, arguments)


def default_device() -> str:
    """`cuda` where there is CUDA, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Of a pipeline on `device`: one of `DTYPES`."""
    return "bfloat16" if device.partition(":")[0] == "cuda" else "float32"


def revision(model: str | os.PathLike[str]) -> str:
    """Which weights `model` is: the commit of a hub model, else a fingerprint of the folder's files.

    The fingerprint takes configurations whole, and of weight files their sizes and both ends.
    """
    source = _resolve(model)
    if isinstance(source, str) and not is_bundled(source):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source, "model_index.json")
        return Path(found).parent.name if isinstance(found, str) else "unknown"
    folder = miniature.folder(source) if isinstance(source, str) else source
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_END))
            if size > 2 * _END:
                file.seek(-_END, os.SEEK_END)
            digest.update(file.read(_END))
    return f"files-{digest.hexdigest()[:16]}"


def fingerprint(pipe: Any) -> str:
    """Which weights a loaded pipeline has, and which scheduler: by names, sizes, and some numbers of every tensor."""
    digest = hashlib.sha256(type(pipe).__name__.encode())
    components = dict(getattr(pipe, "components", {}))
    for name, part in sorted(components.items()):
        digest.update(f"{name} {type(part).__name__}".encode())
        if callable(getattr(part, "named_parameters", None)):
            _add_weights(digest, part)
        elif hasattr(part, "config"):
            digest.update(json.dumps(dict(part.config), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _add_weights(digest: Any, module: Any) -> None:
    import torch

    samples: dict[Any, list[Any]] = {}
    for name, weight in module.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.device.type != "meta" and weight.numel():
            flat = weight.detach().reshape(-1)
            chosen = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]
            samples.setdefault(weight.device, []).append(chosen.to(torch.float64))
    for chosen in samples.values():  # one transfer for each device
        digest.update(torch.cat(chosen).cpu().numpy().tobytes())


def shape_of(pipe: Any, call: Mapping[str, Any], batch: int) -> AnyShape | None:
    """The sizes that calls of a loaded pipeline with the arguments `call` have.

    None where that cannot be said before: of modules that do not tell, and where the pipeline chooses another size than
    it is asked for.
    """
    transformer, vae = pipe.components["transformer"], pipe.components.get("vae")
    transformer = getattr(transformer, "_orig_mod", transformer)
    sides = {name: call[name] for name in ("height", "width") if call.get(name) is not None}
    takes = inspect.signature(pipe.__call__).parameters
    if sides and "use_resolution_binning" in takes and call.get("use_resolution_binning", True):
        return None
    try:
        config = {**dict(transformer.config), "_class_name": type(transformer).__name__}
        return shape_from_config(config, dict(vae.config), name=type(pipe).__name__, batch=batch, **sides)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None


def _index(model: str | os.PathLike[str]) -> dict[str, Any]:
    """`model_index.json` of a bundled model or of a local folder; empty for a hub id."""
    source = _resolve(model)
    if isinstance(source, str) and not is_bundled(source):
        return {}
    return _read_config(miniature.folder(source) if isinstance(source, str) else source, "model_index.json")


def is_bundled(model: str | os.PathLike[str]) -> bool:
    """Whether `model` names a small model that comes with the package."""
    return canonical(model) in miniature.MINIATURES


def _sides(height: int | None, width: int | None, default: int) -> tuple[int, int]:
    """Height and width, where each defaults to the other. Raises `ValueError` for what is no whole number."""
    if height is None:
        height = default if width is None else width
    width = height if width is None else width
    return whole("height", height), whole("width", width)


def _batch(given: int) -> int:
    count = whole("batch", given)
    if count < 1:
        raise ValueError(f"batch must be at least 1, got {count}")
    return count


def _text_tokens(given: int) -> int:
    count = whole("text_tokens", given)
    if count < 1:
        raise ValueError(f"text_tokens must be at least 1, got {count}")
    return count


def _size(config: Mapping[str, Any], key: str, name: str, least: int = 1) -> int:
    """A size in a configuration. Raises `ValueError` where it is missing, or no whole number from `least` on."""
    if key not in config:
        raise ValueError(f"the configuration of {name!r} has no {key!r}: it does not belong to the class that it names")
    return whole(f"{key!r} in the configuration of {name!r}", config[key], least)


def _latent_cell(vae: Mapping[str, Any], key: str, name: str) -> int:
    """Pixels a side of a latent cell; 8 for an autoencoder that is not there."""
    channels = vae.get(key, (0,) * 4)
    if not isinstance(channels, (list, tuple)) or not channels:
        raise ValueError(f"{key!r} in the configuration of {name!r} must be a list of sizes, got {shown(channels)}")
    return int(2 ** (len(channels) - 1))


def _resolve(model: str | os.PathLike[str]) -> str | Path:
    """A bundled name, an existing folder as a Path, or a hub id, that of a published name too if it is at hand."""
    name = canonical(model)
    if name in miniature.MINIATURES:
        return name
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"folder {name!r} holds no model_index.json: it is not a pipeline in the diffusers layout")
        return folder
    if HUB_ID.fullmatch(name):
        return name
    if name in NAMED_SHAPES:
        return hub_id_at_hand(name)
    bundled = ", ".join(miniature.MINIATURES)
    near = nearest(name, (*miniature.MINIATURES, *NAMED_SHAPES))
    raise ValueError(
        f"unknown model {shown(name or model)}; bundled: {bundled}; otherwise give the path of a local diffusers"
        " folder, a hub id such as black-forest-labs/FLUX.1-dev, or a published name such as flux-dev"
        + (f"; did you mean {near!r}?" if near else "")
    )


def _from_pretrained(source: str | Path, dtype: Any, local_files_only: bool) -> Any:
    import diffusers

    pipeline = diffusers.DiffusionPipeline
    if isinstance(source, Path) and _read_config(source, "model_index.json").get("_class_name") == "OpenSoraPipeline":
        from dita.pipelines.opensora import OpenSoraPipeline as pipeline  # dita's own, which diffusers does not know
    renamed = tuple(int(part) for part in diffusers.__version__.split(".")[:2]) >= (0, 42)
    arguments = {"dtype" if renamed else "torch_dtype": dtype}
    local = local_files_only or isinstance(source, Path)
    try:
        return pipeline.from_pretrained(source, local_files_only=local, **arguments)
    except MemoryError:
        raise
    except Exception as error:  # of many libraries: whatever it is, these files do not make a pipeline
        absent = isinstance(error, OSError) and local and not isinstance(source, Path)
        where = "is not in the local cache" if absent else "cannot be loaded"
        raise ValueError(f"model {str(source)!r} {where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What went wrong, on one line; the kind of the error too, where its message alone says little."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split()))
    return text if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__}: {text}"


def _default_call(source: str | Path) -> dict[str, Any]:
    if "schnell" in str(source).lower():  # distilled to few steps without guidance
        return {"num_inference_steps": 4, "guidance_scale": 0.0, "max_sequence_length": 256}
    return {}


def _read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    path = folder / name
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"folder {str(folder)!r} holds no {name}: it is not in the diffusers layout") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not JSON: it is no text in UTF-8") from None
    if not isinstance(data, dict):
        raise ValueError(f"{str(path)!r} must hold an object, got {shown(data)}")
    return data
