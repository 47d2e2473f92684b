"""How near the seconds of ToCa and FORA come to their FLOPs: an STDiT3 of 576 width (8 heads of Open-Sora's 72),
4 spatial and 4 temporal layers, 8 frames of 256 tokens.

The batch of 2 is one video under guidance, without and with its prompt of 120 tokens. Otherwise as cpu_flux.py.
"""

from measuring import main

if __name__ == "__main__":
    main("cpu-opensora", __doc__, methods=["toca:3:0.9", "fora:3"], steps=30)
