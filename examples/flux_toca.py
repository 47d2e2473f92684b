"""FLUX with ToCa: three pictures as an iterator yields them. Without a GPU, try `--model shapes-flux --steps 28`."""

import argparse

import dita
from dita import models

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="black-forest-labs/FLUX.1-dev")
parser.add_argument("--steps", type=int, default=50)
arguments = parser.parse_args()

pipe, call = models.load(arguments.model)  # any diffusers pipeline does
call.pop("num_inference_steps", None)
prompts = ["a large red circle on a white background", "a small blue square", "a green triangle"]
for made in dita.generate(pipe, prompts, method=dita.ToCa(cycle=4, ratio=0.9), steps=arguments.steps, **call):
    made.picture.save(f"{made.id}.png")
    print(f"{made.id}.png: {made.item.prompt}, {made.seconds:.1f} s")
