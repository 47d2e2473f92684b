"""Models with random weights for a shape, smaller ones where asked for, and the input of their calls.

Latency does not depend on the weights, so that nothing has to be downloaded to measure it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dita.model_names import published
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
from dita.values import known_name, unknown

Inputs = dict[str, Any]

HEAD_DIM = {"flux": 128, "pixart": 72, "dit": 72, "opensora": 72}
"""Channels of an attention head of the published models."""

PROMPT_TOKENS = 20
"""Of a prompt of common length; what is longer is padding, computed but masked. The empty prompt has one."""

NULL_CLASS = 1000

SMALL_SHAPES: dict[str, tuple[AnyShape, int]] = {
    "cpu-flux": (
        FluxShape(
            name="cpu-flux",
            double_layers=4,
            single_layers=8,
            width=512,
            mlp_width=2048,
            text_tokens=128,
            image_tokens=1024,
            grid=(32, 32),
            text_width=512,
            pooled_width=256,
            head_dim=64,
        ),
        64,
    ),
    "cpu-pixart": (PixArtShape(name="cpu-pixart", layers=8, grid=(32, 32), text_tokens=120), 72),
    "cpu-opensora": (
        OpenSoraShape(
            name="cpu-opensora", layers=4, width=576, mlp_width=2304, text_tokens=120, frames=8, grid=(16, 16)
        ),
        72,
    ),
}
"""What two cores run in minutes: shape and channels of an attention head. The project's bars are stated for these."""

SHAPES = (*SMALL_SHAPES, *NAMED_SHAPES)


class Usual(NamedTuple):
    """What a benchmark of a family does unless it is told otherwise: steps, and methods as short forms."""

    steps: int
    methods: str


DEFAULTS = {
    "flux": Usual(50, "toca:4:0.9,fora:4"),
    "pixart": Usual(20, "toca:3:0.7,fora:3"),
    "dit": Usual(50, "toca:3:0.93,fora:3"),
    "opensora": Usual(30, "toca:3:0.9,fora:3"),
}


@dataclass(frozen=True)
class Workload:
    """A random transformer and its input.

    Attributes:
        shape: of a call of it.
        build: (dtype, device) -> the model; the same weights each time.
        inputs: (dtype, device) -> a call's arguments by name, `hidden_states` among them; the same each time.
        predict: (model, inputs, progress in [0, 1)) -> the prediction, of the shape of `hidden_states`.
    """

    shape: AnyShape
    build: Callable[[torch.dtype, str], nn.Module]
    inputs: Callable[[torch.dtype, str], Inputs]
    predict: Callable[[Any, Inputs, float], Tensor]

    def timesteps(self, steps: int) -> list[float]:
        """Of a run of `steps`, 1000 to 0, evenly spaced."""
        return [1000 * (1 - step / steps) for step in range(steps)]


def workload(
    name: str,
    *,
    scale: float = 1.0,
    layers: int | None = None,
    batch: int = 1,
    text_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Workload:
    """The workload of one of `SHAPES`, scaled down by `scaled`, and with at most `layers` layers in each stack.

    Raises `ValueError` for anything out of range.
    """
    name = known_name(name, SHAPES) or published(name) or name
    if name in SMALL_SHAPES:
        shape, head_dim = SMALL_SHAPES[name]
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        shape = dataclasses.replace(shape, batch=batch)
        if text_tokens is not None:
            shape = with_text_tokens(shape, text_tokens)
    elif name in NAMED_SHAPES:
        shape = named_shape(name, batch=batch, text_tokens=text_tokens)
        head_dim = HEAD_DIM[shape.family]
    else:
        raise unknown("shape", name, SHAPES)
    shape = scaled(shape, head_dim, scale)
    if layers is not None:
        shape = shallow(shape, layers)
    return of_shape(dataclasses.replace(shape, element_bytes=dtype.itemsize), head_dim)


def scaled(shape: AnyShape, head_dim: int, scale: float) -> AnyShape:
    """`shape` with layers, attention heads and image tokens each multiplied by `scale` in (0, 1], at least one of each.

    Heads keep their channels, so the width shrinks with them; a picture or frame keeps its proportions, and a video its
    frames. On FLUX, whose text takes part in the blocks, text tokens shrink alike; widths of the conditions always do.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {scale}")
    if scale == 1:
        return shape

    def count(value: int) -> int:
        return max(1, round(value * scale))

    def channels(value: int) -> int:
        return max(8, 8 * round(value * scale / 8))

    width = count(shape.width // head_dim) * head_dim
    assert shape.grid is not None
    grid = (_side(shape.grid[0], scale), _side(shape.grid[1], scale))
    sizes: dict[str, Any] = {"name": f"{shape.name} x {scale:g}", "width": width, "mlp_width": 4 * width, "grid": grid}
    if isinstance(shape, FluxShape):
        sizes |= {
            "double_layers": count(shape.double_layers),
            "single_layers": count(shape.single_layers),
            "image_tokens": grid[0] * grid[1],
            "text_tokens": count(shape.text_tokens),
            "text_width": channels(shape.text_width),
            "pooled_width": channels(shape.pooled_width),
        }
    else:
        sizes["layers"] = count(shape.layers)
    if isinstance(shape, PixArtShape):
        sizes |= {"cross_width": width, "caption_width": shape.caption_width and channels(shape.caption_width)}
    elif isinstance(shape, OpenSoraShape):
        sizes["caption_width"] = channels(shape.caption_width)
    return dataclasses.replace(shape, **sizes)


def shallow(shape: AnyShape, layers: int) -> AnyShape:
    """`shape` with at most `layers` layers in each stack of blocks, at least one; all other sizes as they are."""
    if layers < 1:
        raise ValueError(f"layers must be at least 1, got {layers}")
    name = f"{shape.name}, {layers} layers"
    if isinstance(shape, FluxShape):
        double, single = min(layers, shape.double_layers), min(layers, shape.single_layers)
        return dataclasses.replace(shape, name=name, double_layers=double, single_layers=single)
    return dataclasses.replace(shape, name=name, layers=min(layers, shape.layers))


def _side(tokens: int, scale: float) -> int:
    return max(2, round(tokens * scale**0.5))


def of_shape(shape: AnyShape, head_dim: int) -> Workload:
    """A workload of any shape. Raises `ValueError` for a shape that no model of the family has."""
    if shape.width % head_dim:
        raise ValueError(f"heads of {head_dim} channels do not divide the width {shape.width} of {shape.name}")
    if shape.mlp_width != 4 * shape.width:
        raise ValueError(f"MLPs are four times as wide as the model, got {shape.mlp_width} beside {shape.width}")
    if isinstance(shape, FluxShape):
        return _flux(shape, head_dim)
    if isinstance(shape, PixArtShape):
        return _pixart(shape, head_dim)
    if isinstance(shape, DiTShape):
        return _dit(shape, head_dim)
    return _opensora(shape, head_dim)


def sizes(shape: AnyShape) -> dict[str, Any]:
    """What a result says of its workload."""
    layers = {stack: shape.depth(stack) for stack in shape.stacks}
    told: dict[str, Any] = {"name": shape.name, "width": shape.width, "layers": layers}
    told |= {"image_tokens": shape.image_tokens, "grid": shape.grid, "batch": shape.batch, "rows": shape.rows}
    if isinstance(shape, OpenSoraShape):
        told["frames"] = shape.frames
    if not isinstance(shape, DiTShape):
        told["text_tokens"] = shape.text_tokens
    return told


def _random(build: Callable[[], nn.Module]) -> Callable[[torch.dtype, str], nn.Module]:
    def built(dtype: torch.dtype, device: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)  # a large model never exists in a wider type
            try:
                model = build()
            finally:
                torch.set_default_dtype(before)
        return nn.Module.to(model, device, dtype).eval().requires_grad_(False)

    return built


def _placed(
    make: Callable[[Callable[..., Tensor]], Mapping[str, Any]],
) -> Callable[[torch.dtype, str], Inputs]:
    """Inputs from `make(normal)`, drawn on the CPU: floating ones in the dtype, all on the device."""

    def inputs(dtype: torch.dtype, device: str) -> Inputs:
        generator = torch.Generator().manual_seed(1)
        made = make(lambda *size: torch.randn(*size, generator=generator).to(dtype))
        return {name: _on(value, device) for name, value in made.items()}

    return inputs


def _on(value: Any, device: str) -> Any:
    if isinstance(value, dict):
        return {name: _on(entry, device) for name, entry in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _halves(latents: Tensor, shape: AnyShape) -> Tensor:
    """The latents of a call: twice the same under guidance."""
    return torch.cat([latents] * (shape.rows // shape.batch))


def _prompt_mask(shape: PixArtShape | OpenSoraShape) -> Tensor:
    """(rows, text_tokens): which tokens are no padding, in the empty prompts of guidance and in the prompts."""
    lengths = torch.full((shape.rows, 1), min(PROMPT_TOKENS, shape.text_tokens))
    if shape.guided:
        lengths[: shape.batch] = 1
    return torch.arange(shape.text_tokens) < lengths


def _guided(prediction: Tensor, shape: AnyShape, channels: int) -> Tensor:
    """What guidance makes of a call's prediction, for both halves alike."""
    noise = prediction[:, :channels]
    if shape.rows == shape.batch:
        return noise
    negative, positive = noise.chunk(2)
    return (negative + 4.5 * (positive - negative)).repeat(2, *(1,) * (noise.ndim - 1))


def _flux(shape: FluxShape, head_dim: int) -> Workload:
    from diffusers import FluxTransformer2DModel

    if head_dim % 16:
        raise ValueError(f"heads of FLUX must be a multiple of 16 channels, got {head_dim}")
    if shape.grid is None:
        raise ValueError(f"the image tokens of {shape.name} form no grid")
    height, width = shape.grid

    def build() -> nn.Module:
        return FluxTransformer2DModel(
            in_channels=shape.in_channels,
            num_layers=shape.double_layers,
            num_single_layers=shape.single_layers,
            attention_head_dim=head_dim,
            num_attention_heads=shape.width // head_dim,
            joint_attention_dim=shape.text_width,
            pooled_projection_dim=shape.pooled_width,
            guidance_embeds=shape.guidance,
            axes_dims_rope=(head_dim // 8, 7 * head_dim // 16, 7 * head_dim // 16),
        )

    def make(normal: Callable[..., Tensor]) -> Mapping[str, Any]:
        ids = torch.zeros(height, width, 3)
        ids[..., 1] += torch.arange(height)[:, None]
        ids[..., 2] += torch.arange(width)[None]
        latents = normal(shape.batch, shape.image_tokens, shape.in_channels)
        return {
            "hidden_states": latents,
            "encoder_hidden_states": normal(shape.batch, shape.text_tokens, shape.text_width),
            "pooled_projections": normal(shape.batch, shape.pooled_width),
            "guidance": torch.full((shape.batch,), 3.5, dtype=latents.dtype) if shape.guidance else None,
            "img_ids": ids.reshape(-1, 3),
            "txt_ids": torch.zeros(shape.text_tokens, 3),
        }

    def predict(model: Any, inputs: Inputs, progress: float) -> Tensor:
        timestep = inputs["hidden_states"].new_full((shape.batch,), 1 - progress)
        return model(**inputs, timestep=timestep, return_dict=False)[0]

    return Workload(shape, _random(build), _placed(make), predict)


def _pixart(shape: PixArtShape, head_dim: int) -> Workload:
    from diffusers import PixArtTransformer2DModel

    height, width = (side * shape.patch for side in shape.grid)

    def build() -> nn.Module:
        return PixArtTransformer2DModel(
            num_attention_heads=shape.width // head_dim,
            attention_head_dim=head_dim,
            in_channels=shape.in_channels,
            out_channels=shape.out_channels,
            num_layers=shape.layers,
            cross_attention_dim=shape.cross_width,
            caption_channels=shape.caption_width,
            patch_size=shape.patch,
            sample_size=max(height, width),
            use_additional_conditions=shape.micro_conditions,
        )

    def make(normal: Callable[..., Tensor]) -> Mapping[str, Any]:
        latents = normal(shape.batch, shape.in_channels, height, width)
        size = latents.new_tensor([8.0 * height, 8.0 * width]).expand(shape.rows, 2)
        conditions = {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}
        return {
            "hidden_states": _halves(latents, shape),
            "encoder_hidden_states": normal(shape.rows, shape.text_tokens, shape.caption_width or shape.width),
            "encoder_attention_mask": _prompt_mask(shape).to(latents.dtype),
            "added_cond_kwargs": conditions if shape.micro_conditions else {"resolution": None, "aspect_ratio": None},
        }

    def predict(model: Any, inputs: Inputs, progress: float) -> Tensor:
        timestep = torch.full((shape.rows,), int(999 * (1 - progress)), device=inputs["hidden_states"].device)
        return _guided(model(**inputs, timestep=timestep, return_dict=False)[0], shape, shape.in_channels)

    return Workload(shape, _random(build), _placed(make), predict)


def _dit(shape: DiTShape, head_dim: int) -> Workload:
    from diffusers import DiTTransformer2DModel

    side = shape.grid[0] * shape.patch

    def build() -> nn.Module:
        return DiTTransformer2DModel(
            num_attention_heads=shape.width // head_dim,
            attention_head_dim=head_dim,
            in_channels=shape.in_channels,
            out_channels=shape.out_channels,
            num_layers=shape.layers,
            patch_size=shape.patch,
            sample_size=side,
        )

    def make(normal: Callable[..., Tensor]) -> Mapping[str, Any]:
        labels = torch.arange(shape.rows) % NULL_CLASS
        if shape.guided:
            labels[: shape.batch] = NULL_CLASS
        latents = _halves(normal(shape.batch, shape.in_channels, side, side), shape)
        return {"hidden_states": latents, "class_labels": labels}

    def predict(model: Any, inputs: Inputs, progress: float) -> Tensor:
        timestep = torch.full((shape.rows,), int(999 * (1 - progress)), device=inputs["hidden_states"].device)
        return _guided(model(**inputs, timestep=timestep, return_dict=False)[0], shape, shape.in_channels)

    return Workload(shape, _random(build), _placed(make), predict)


def _opensora(shape: OpenSoraShape, head_dim: int) -> Workload:
    from dita.pipelines.opensora.transformer import OpenSoraTransformer3DModel

    height, width = (side * shape.patch for side in shape.grid)

    def build() -> nn.Module:
        return OpenSoraTransformer3DModel(
            num_layers=shape.layers,
            num_attention_heads=shape.width // head_dim,
            attention_head_dim=head_dim,
            in_channels=shape.in_channels,
            out_channels=shape.out_channels,
            patch_size=shape.patch,
            caption_channels=shape.caption_width,
        )

    def make(normal: Callable[..., Tensor]) -> Mapping[str, Any]:
        return {
            "hidden_states": _halves(normal(shape.batch, shape.in_channels, shape.frames, height, width), shape),
            "encoder_hidden_states": normal(shape.rows, shape.text_tokens, shape.caption_width),
            "encoder_attention_mask": _prompt_mask(shape).long(),
        }

    def predict(model: Any, inputs: Inputs, progress: float) -> Tensor:
        latents = inputs["hidden_states"]
        timestep = torch.full((shape.rows,), 1000.0 * (1 - progress), device=latents.device)
        velocity = model(**inputs, timestep=timestep, return_dict=False)[0].to(latents.dtype)
        return _guided(velocity, shape, shape.in_channels)

    return Workload(shape, _random(build), _placed(make), predict)
