"""What it costs Open-Sora to modulate everything twice, as the official sampler does: one step, three ways.

The official sampler passes a mask of frames in every call, all True where there is no reference picture. Each block
then normalises and modulates all tokens with the timestep of noisy and of clean frames, gates both ways, and picks.
`reference` does that here; `mask` is dita's model with the same mask, which makes one modulation of both; `no mask` is
what dita's pipeline runs. All three are checked to be equal bit for bit, and timed in turn in one process, in an order
that rotates; the figures are medians over `--repeats`. A random STDiT3, cut to 2 pairs of blocks of half the width.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dita.freed_memory import keep_freed_memory
from dita.pipelines.opensora import OpenSoraTransformer3DModel
from dita.pipelines.opensora.transformer import modulate

Inputs = dict[str, Any]


def build(options: argparse.Namespace, dtype: torch.dtype) -> OpenSoraTransformer3DModel:
    torch.manual_seed(0)
    model = OpenSoraTransformer3DModel(
        num_layers=options.pairs, num_attention_heads=options.width // 72, attention_head_dim=72
    )
    return model.to(options.device, dtype).eval().requires_grad_(False)


def inputs(options: argparse.Namespace, dtype: torch.dtype) -> Inputs:
    """One video under guidance: two halves."""
    height, width = (2 * side for side in options.grid)
    return {
        "hidden_states": torch.randn(2, 4, options.frames, height, width).to(options.device, dtype),
        "encoder_hidden_states": torch.randn(2, 20, 4096).to(options.device, dtype),
        "timestep": torch.full((2,), 700.0, device=options.device),
    }


def double_forward(
    block: Any,
    clean: list[Tensor],
    mask: Tensor,
    hidden_states: Tensor,
    text: Tensor,
    modulation: Tensor,
    num_frames: int,
    text_mask: Tensor | None = None,
    rotary: Any = None,
) -> Tensor:
    """A block of the official code: every modulation and gate for both kinds of frame, then a choice by `mask`, (B, T).

    modulation: (B, T, 6, C), of which all frames are the same; clean[0]: (B, 1, 6, C), of clean frames.
    """
    chosen = mask[..., None, None]
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = block.modulations(modulation[:, :1])
    shift_0, scale_0, gate_0, shift_mlp_0, scale_mlp_0, gate_mlp_0 = block.modulations(clean[0])
    x = hidden_states.unflatten(1, (num_frames, -1))  # (B, T, S, C)

    modulated = modulate(block.norm1(x), shift, scale)
    modulated = torch.where(chosen, modulated, modulate(block.norm1(x), shift_0, scale_0))
    attended = block.unfold(block.attn1(block.fold(modulated), rotary=rotary), hidden_states.shape[0])
    x = x + torch.where(chosen, gate * attended, gate_0 * attended)

    x = (x.flatten(1, 2) + block.attn2(x.flatten(1, 2), text, text_mask)).unflatten(1, (num_frames, -1))

    modulated = modulate(block.norm2(x), shift_mlp, scale_mlp)
    modulated = torch.where(chosen, modulated, modulate(block.norm2(x), shift_mlp_0, scale_mlp_0))
    out = block.ff(modulated.flatten(1, 2)).unflatten(1, (num_frames, -1))
    return (x + torch.where(chosen, gate_mlp * out, gate_mlp_0 * out)).flatten(1, 2)


@contextmanager
def doubled(model: Any, mask: Tensor) -> Iterator[None]:
    """`model` with the official blocks."""
    clean: list[Tensor] = []
    embed = model._modulation

    def noted(time: Tensor) -> Tensor:  # the model asks for the noisy frames' first, then for the clean ones'
        result: Tensor = embed(time)
        clean[:] = [result[:, None]]
        return result

    blocks = [*model.spatial_blocks, *model.temporal_blocks]
    model._modulation = noted
    for block in blocks:
        block.forward = partial(double_forward, block, clean, mask)
    try:
        yield
    finally:
        del model._modulation
        for block in blocks:
            del block.forward


def seconds(call: Callable[[], Tensor], device: str) -> float:
    _synchronise(device)
    start = time.perf_counter()
    call()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2, help="pairs of blocks; 28 in the published model")
    parser.add_argument("--width", type=int, default=576, help="a multiple of 72; 1152 in the published model")
    parser.add_argument("--frames", type=int, default=8, help="latent frames; 15 are two seconds")
    parser.add_argument("--grid", type=int, nargs=2, default=(16, 16), help="patches; 30 53 is 480p")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    options = parser.parse_args()
    if options.width % 72 or options.width < 72:
        parser.error(f"--width must be a multiple of 72, got {options.width}")
    dtype = getattr(torch, options.dtype)
    kept = keep_freed_memory()
    model, arguments = build(options, dtype), inputs(options, dtype)
    mask = torch.ones(2, options.frames, dtype=torch.bool, device=options.device)

    def reference() -> Tensor:
        with doubled(model, mask):
            return model(**arguments, frame_mask=mask, return_dict=False)[0]

    ways: dict[str, Callable[[], Tensor]] = {
        "reference": reference,
        "mask": lambda: model(**arguments, frame_mask=mask, return_dict=False)[0],
        "no mask": lambda: model(**arguments, return_dict=False)[0],
    }
    outputs = {name: way() for name, way in ways.items()}  # the warm-up, too
    equal = {name: torch.equal(out, outputs["reference"]) for name, out in outputs.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats):
        names = list(ways)
        for name in names[repeat % 3 :] + names[: repeat % 3]:
            taken[name].append(seconds(ways[name], options.device))
    medians = {name: median(times) for name, times in taken.items()}
    if options.json:
        result = {
            **vars(options),
            "keeps_freed_memory": kept,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "seconds": taken,
            "bit_equal": equal,
        }
        print(json.dumps(result, indent=2))
        return
    print(f"{'':<12}{'ms a step':>10}{'of reference':>14}  bit-equal to it")
    for name, value in medians.items():
        share = median(a / b for a, b in zip(taken[name], taken["reference"], strict=True))
        print(f"{name:<12}{1e3 * value:>10.1f}{share:>14.3f}  {'yes' if equal[name] else 'NO'}")


if __name__ == "__main__":
    main()
