"""How near the seconds of ToCa and FORA come to their FLOPs: a PixArt of XL/2 width, 8 layers, 1024 image tokens.

The batch of 2 is one picture under guidance, without and with its prompt of 120 tokens. Otherwise as cpu_flux.py.
"""

from measuring import main

if __name__ == "__main__":
    main("cpu-pixart", __doc__, methods=["toca:3:0.7", "fora:3"], steps=20)
