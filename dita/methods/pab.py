"""PAB: attention outputs that are broadcast over the middle of a run."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from dita.families import usual_timesteps
from dita.methods.method import Method, checked_run
from dita.methods.parameters import OneOf, Range
from dita.plan import Action, Plan, attention_stored
from dita.shapes import Kind, Shape, Site

RANGES = {1: (2, 4, 6), 2: (3, 5, 7), 3: (5, 7, 9)}
"""Of spatial, temporal and cross-attention, by level."""
MLP_TIMESTEPS = (864, 788, 676)
MLP_STEPS = 2
MLP_LAYERS = 5


Broadcast = Annotated[int, Range(1, why="a range of 1 computes every step")]


@dataclass(frozen=True)
class PAB(Method):
    """Pyramid attention broadcast (PAB, ICLR 2025, arXiv 2408.12588): attention is reused where it changes least.

    In the middle of the run, by timesteps, each kind of attention is computed once in `range` steps and reused in the
    others: spatial attention the least, temporal attention more, cross-attention the most.

    Fields:
        level: 1, 2 or 3: ranges of (2, 4, 6), (3, 5, 7) or (5, 7, 9) steps.
        spatial: the range of spatial attention, at least 1; None is the level's. A step is computed if the range
            divides its number. FLUX's attention is all spatial: text and image together.
        temporal: the range of temporal attention, which pictures do not have; None is the level's.
        cross: the range of cross-attention, which FLUX and DiT do not have; None is the level's.
        mlp: reuse the MLPs of the first 5 layers too: those of the steps at timesteps 864, 788 and 676, in the two
            steps that follow. Not on FLUX, whose blocks reuse the attention wherever they reuse an MLP.
        low: the timestep below which, at the end of the run, everything is computed, in [0, 1000].
        high: the timestep above which, at its start, everything is computed, in [0, 1000].
        strict: reproduce the reference on Open-Sora: stored outputs keep the gate of the step that computed them
            (today's is right, and costs nothing); `mlp` finds its timesteps by their number in bfloat16, so that
            another number of steps or size turns it off in silence (by default the nearest steps are taken).
    """

    name: ClassVar[str] = "pab"
    positional: ClassVar[tuple[str, ...]] = ("level",)
    paper: ClassVar[str] = "Zhao et al., Real-Time Video Generation with Pyramid Attention Broadcast, ICLR 2025"
    extends: ClassVar[tuple[str, ...]] = ("flux", "pixart", "dit")

    level: Annotated[int, OneOf(tuple(RANGES))] = 2
    spatial: Broadcast | None = None
    temporal: Broadcast | None = None
    cross: Broadcast | None = None
    mlp: bool = False
    low: int = 450
    high: int = 930
    strict: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low < self.high <= 1000:
            raise ValueError(f"low and high must be timesteps, 0 <= low < high <= 1000, got {self.low} and {self.high}")

    def check_family(self, family: str) -> None:
        super().check_family(family)
        if self.mlp and family == "flux":
            raise ValueError("mlp=True does not run on flux: its blocks cannot reuse an MLP and compute attention")

    def keeps_gates(self, shape: Shape) -> bool:
        return self.strict and shape.family == "opensora"

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        self.check_family(shape.family)
        times = usual_timesteps(shape, steps) if timesteps is None else list(timesteps)
        broadcast = self._mlp_steps(times) if self.mlp else frozenset()
        taken = []
        for s, t in enumerate(times):
            inside = s > 0 and self.low < int(t) < self.high
            taken.append({site: self._action(shape, site, s, inside, broadcast) for site in shape.sites()})
        return Plan(self, shape, tuple(taken), steps)

    def _action(self, shape: Shape, site: Site, step: int, inside: bool, broadcast: frozenset[int]) -> Action:
        if site.module == "mlp" and step in broadcast and site.layer < MLP_LAYERS:
            return Action(Kind.REUSE, 0)
        if inside and step % self._range(site):
            return attention_stored(shape, site, Kind.REUSE)
        return Action(Kind.FULL, shape.tokens(site.module))

    def _range(self, site: Site) -> int:
        """In how many steps the attention of a site is computed once."""
        spatial, temporal, cross = RANGES[self.level]
        if site.module == "cross_attn":
            return self.cross or cross
        if site.stack == "temporal":
            return self.temporal or temporal
        return self.spatial or spatial

    def _mlp_steps(self, timesteps: Sequence[float]) -> frozenset[int]:
        """The steps in which MLPs are reused."""
        inside = [s for s, t in enumerate(timesteps) if self.low < int(t) < self.high]
        if self.strict:
            starts = [s for s in inside if int(_bfloat16(timesteps[s])) in MLP_TIMESTEPS]
        else:
            starts = [min(inside, key=partial(_distance, timesteps, t)) for t in MLP_TIMESTEPS] if inside else []
        return frozenset(s + n for s in starts for n in range(1, MLP_STEPS + 1) if s + n not in starts)


def _distance(timesteps: Sequence[float], wanted: float, step: int) -> float:
    return abs(timesteps[step] - wanted)


def _bfloat16(value: float) -> float:
    """`value` rounded to bfloat16, half to even."""
    bits: int = struct.unpack("I", struct.pack("f", value))[0]
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return struct.unpack("f", struct.pack("I", bits))[0]
