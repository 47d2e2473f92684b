"""FLUX with ToCa: three pictures as an iterator yields them. Without a GPU, try `--model shapes-flux --steps 28`."""

import argparse
from pathlib import Path

import dita
from dita import models

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="black-forest-labs/FLUX.1-dev")
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--out", type=Path, default=Path(), help="folder for the pictures; this one by default")
arguments = parser.parse_args()

pipe, call = models.load(arguments.model)  # any diffusers pipeline does
call.pop("num_inference_steps", None)
prompts = ["a large red circle on a white background", "a small blue square", "a green triangle"]
arguments.out.mkdir(parents=True, exist_ok=True)
for made in dita.generate(pipe, prompts, method=dita.ToCa(cycle=4, ratio=0.9), steps=arguments.steps, **call):
    file = arguments.out / f"{made.id}.png"
    made.picture.save(file)
    print(f"{file}: {made.item.prompt}, {made.seconds:.1f} s")
