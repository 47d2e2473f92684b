"""A method of one's own from JSON: what `--method my_method.json` reads, what it would do, and a picture with it."""

import json
from pathlib import Path

import dita
from dita import models
from dita.methods import from_json

method = from_json(json.loads((Path(__file__).parent / "my_method.json").read_text()))
print("\n".join(method.plan(models.shape("shapes-flux"), 28).map()))

pipe, call = models.load("shapes-flux")
steps = call.pop("num_inference_steps")
for made in dita.generate(pipe, ["a large red circle on a white background"], method=method, steps=steps, **call):
    made.picture.save("own_method.png")
