"""The Python lines that make a picture of the demo again."""

from __future__ import annotations

from dita.comparison import numbered_label
from dita.demo.loaded import Loaded
from dita.demo.request import Request
from dita.methods import FewerSteps, Method, Plain

GIF_PAUSE = 125  # milliseconds between frames


def python_lines(loaded: Loaded, request: Request, method: Method) -> str:
    """A program that draws `request` with `method` on this device, and writes picture.png (or clip.gif)."""
    fewer = isinstance(method, FewerSteps) and method == FewerSteps(method.fraction)
    free = isinstance(method, Plain) or fewer
    arguments = request.call(loaded)
    if "class_labels" in arguments:
        arguments.pop("class_labels")
        asked = f"class_labels=pipe.get_label_ids({[request.prompt]!r})"
    else:
        asked = f"prompt={arguments.pop('prompt')[0]!r}"
    arguments["num_inference_steps"] = method.run_steps(request.steps) if free else request.steps
    dtype = str(loaded.pipe.dtype).removeprefix("torch.")
    lines = [
        "import torch",
        "",
        *([] if free else ["import dita"]),
        "from dita import models",
        "",
        f"pipe, _ = models.load({loaded.name!r}, {dtype!r}, device={loaded.device!r})",
        *([] if free else [f"dita.enable(pipe, {numbered_label(method)!r})"]),
        *([f"# {numbered_label(method)}: the same sampler with fewer steps"] if fewer else []),
        "made = pipe(",
        f"    {asked},",
        *(f"    {name}={value!r}," for name, value in arguments.items()),
        f'    generator=[torch.Generator("cpu").manual_seed({request.seed})],',
        ")",
    ]
    if loaded.makes_videos:
        lines += [
            "first, *others = made.frames[0]",
            f'first.save("clip.gif", save_all=True, append_images=others, duration={GIF_PAUSE}, loop=0)',
        ]
    else:
        lines.append('made.images[0].save("picture.png")')
    if not free:
        lines.append("dita.summary(pipe)")
    return "\n".join(lines) + "\n"
