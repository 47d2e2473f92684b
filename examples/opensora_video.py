"""Open-Sora 1.2 with ToCa: a clip as an MP4 file. Needs `dita[opensora]`.

python examples/opensora_video.py shapes-opensora "a small red circle moving right on a white background" circle.mp4

With the published model, two seconds at 240p:

dita convert-opensora --out opensora
python examples/opensora_video.py opensora "a lighthouse in a storm" lighthouse.mp4 --seconds 2 --resolution 240p
"""

import argparse
from pathlib import Path

import dita
from dita import models
from dita.generation.files import encoded

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="shapes-opensora, or the folder of a converted model")
parser.add_argument("prompt")
parser.add_argument("out", type=Path, help="the MP4 file")
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--seconds", type=int, help="length of the clip; the model's own by default")
parser.add_argument("--resolution", help="such as 240p; the model's own by default")
arguments = parser.parse_args()

pipe, call = models.load(arguments.model)
call.pop("num_inference_steps", None)
if arguments.seconds:
    call["num_frames"] = f"{arguments.seconds}s"
if arguments.resolution:
    call["resolution"] = arguments.resolution
for made in dita.generate(pipe, [arguments.prompt], method="toca:3:0.85", steps=arguments.steps, **call):
    arguments.out.write_bytes(encoded(made, "mp4", fps=24))
    print(f"{arguments.out}: {len(made.frames)} frames in {made.seconds:.1f} s")
