"""How near the seconds of ToCa and FORA come to their FLOPs: a FLUX of 512 width, 4 + 8 layers, 1024 image tokens.

Plain and accelerated runs of the bare transformer are interleaved in one process, warm-up excluded; the figures are
medians over `--repeats`. `efficiency` is the ratio of seconds (plain / accelerated) over the ratio of FLOPs. dita
attached with N = 1, and detached again, stand beside them.
"""

from measuring import main

if __name__ == "__main__":
    main("cpu-flux", __doc__, methods=["toca:4:0.9", "fora:4"], steps=50)
