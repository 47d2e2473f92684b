"""Open-Sora 1.2 with ToCa: a clip of two seconds as an MP4 file. Needs `dita[opensora]` and a converted model.

dita convert-opensora --out opensora
python examples/opensora_video.py opensora "a lighthouse in a storm" lighthouse.mp4
"""

import sys
from pathlib import Path

import dita
from dita import models
from dita.generation.files import encoded

model, prompt, out = sys.argv[1:]
pipe, _ = models.load(model)
for made in dita.generate(pipe, [prompt], method="toca:3:0.85", steps=30, num_frames="2s", resolution="240p"):
    Path(out).write_bytes(encoded(made, "mp4", fps=24))
    print(f"{out}: {len(made.frames)} frames in {made.seconds:.0f} s")
