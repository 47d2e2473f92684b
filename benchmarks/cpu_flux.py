"""How near the seconds of ToCa come to its FLOPs: a random FLUX of 512 width, 4 + 8 layers, 1024 image tokens.

Plain and accelerated runs of the bare transformer are interleaved in one process, warm-up excluded; the figures are
medians over `--repeats`. `efficiency` is the ratio of seconds (plain / accelerated) over the ratio of FLOPs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from statistics import median

import torch
from diffusers import FluxTransformer2DModel

import dita
from dita.caching.summary import Summary
from dita.methods import Method, parse

WIDTH, HEADS, DOUBLE, SINGLE = 512, 8, 4, 8
GRID, TEXT_TOKENS = 32, 128


def build(dtype: torch.dtype, device: str) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=512,
        pooled_projection_dim=256,
        guidance_embeds=True,
        axes_dims_rope=(8, 28, 28),
    )
    return model.to(device, dtype).eval().requires_grad_(False)


def inputs(dtype: torch.dtype, device: str) -> dict[str, torch.Tensor]:
    ids = torch.zeros(GRID, GRID, 3)
    ids[..., 1] += torch.arange(GRID)[:, None]
    ids[..., 2] += torch.arange(GRID)[None]
    tensors = {
        "hidden_states": torch.randn(1, GRID * GRID, 64),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, 512),
        "pooled_projections": torch.randn(1, 256),
        "guidance": torch.tensor([3.5]),
    }
    placed = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    placed["img_ids"] = ids.reshape(-1, 3).to(device)
    placed["txt_ids"] = torch.zeros(TEXT_TOKENS, 3, device=device)
    return placed


def sample(model: FluxTransformer2DModel, arguments: dict[str, torch.Tensor], steps: int) -> float:
    """Seconds of `steps` transformer calls, each on the latents that the last one led to."""
    arguments = dict(arguments)
    latents = arguments["hidden_states"]
    device = latents.device
    _synchronise(device)
    start = time.perf_counter()
    for s in range(steps):
        timestep = torch.full((1,), 1 - s / steps, device=device, dtype=latents.dtype)
        out = model(**arguments, timestep=timestep, return_dict=False)[0]
        arguments["hidden_states"] = arguments["hidden_states"] - out / steps
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(method: Method, steps: int, repeats: int, dtype: torch.dtype, device: str) -> dict[str, object]:
    model, arguments = build(dtype, device), inputs(dtype, device)
    plain: list[float] = []
    fast: list[float] = []
    summary: Summary | None = None
    for repeat in range(repeats + 1):  # the first is the warm-up
        plain.append(sample(model, arguments, steps))
        dita.enable(model, method, steps=steps)
        fast.append(sample(model, arguments, method.run_steps(steps)))
        summary = dita.summary(model, show=False)
        dita.disable(model)
        print(f"repeat {repeat}: plain {plain[-1]:.2f} s, {method.label()} {fast[-1]:.2f} s", file=sys.stderr)
    assert summary is not None
    ratios = [a / b for a, b in zip(plain[1:], fast[1:], strict=True)]
    flops_ratio = summary.plain_flops / summary.flops
    return {
        "method": method.as_json(),
        "steps": steps,
        "shape": {"width": WIDTH, "layers": [DOUBLE, SINGLE], "image_tokens": GRID * GRID, "text_tokens": TEXT_TOKENS},
        "plain_seconds": plain[1:],
        "seconds": fast[1:],
        "seconds_ratio": median(ratios),
        "flops_ratio": flops_ratio,
        "efficiency": median(ratios) / flops_ratio,
        "step_milliseconds": {kind.value: 1e3 * median(times) for kind, times in summary.seconds.items()},
        "cache_bytes": summary.cache_bytes,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="toca:4:0.9", help="short form of a method")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    options = parser.parse_args()
    result = measure(
        parse(options.method), options.steps, options.repeats, getattr(torch, options.dtype), options.device
    )
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"seconds, plain / accelerated   {result['seconds_ratio']:.2f}")
    print(f"FLOPs, plain / accelerated     {result['flops_ratio']:.2f}")
    print(f"efficiency                     {result['efficiency']:.3f}")


if __name__ == "__main__":
    main()
