"""What the ToCa paper and its code set for each model family: schedules, ratio profiles, scores, spatial bonus.

A family's adapter says where its modules are; this table says how the published methods treat them. Sources: the ToCa
repository, one port a family.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from dita.shapes import OpenSoraShape, Shape

_FEW_STEPS = 100  # DiT's profiles are published for 50 and for 250 steps


class Phase(str, Enum):
    """What the schedule makes of one step, for the modules that share a cycle."""

    FULL = "full"
    FIRST_LAYER = "first-layer"  # full in the first layer, cached in the others: a quirk of the reference code
    CACHED = "cached"


@dataclass(frozen=True)
class Profile:
    """A share of computed tokens as a product of a step's, a layer's and a module's factor.

    `step` is (a, b) of a + b s/S, `layer` (a, b) of a + b l/27, `weights` the factor by module.
    """

    step: tuple[float, float]
    layer: tuple[float, float]
    weights: Mapping[str, float]

    def share(self, progress: float, position: float, module: str) -> float:
        """The product at s/S = `progress` and l/27 = `position`; 0 for a module without a weight."""
        step = self.step[0] + self.step[1] * progress
        layer = self.layer[0] + self.layer[1] * position
        return step * layer * self.weights.get(module, 0.0)


@dataclass(frozen=True)
class Family:
    """The published settings of ToCa for one family.

    Attributes:
        depth: layers of each stack in the model that the ratio profiles were made for.
        counter: the phase of a cycle: True restarts it at every full step; False is the step number modulo N.
        counts_down: the reference numbers the steps S-1 ... 0, which moves the modulo and turns the ratio profiles.
        warmup: full steps at the start of a run that computes tokens in its cached steps.
        reuse_warmup: the same for a run that computes none, as FORA's.
        cross_cycles: N of cross-attention over that of the other modules.
        stretch: w of N(s), which divides N by 1 - w + 2 w s/S (steps counted down: 1 + w - 2 w s/S); 0 keeps N.
        fine_window: (from, to) as shares of S, in the reference's own count, where N(s) is 2.
        attention_score: what the score `attention` is: s1, the attention a token receives, or s2, the entropy of its
            cross-attention.
        bonus, cell: s4, the best of cell x cell image tokens gets 1 + bonus times its score.
        toca, linear_layerwise: the ratio profiles of these two schedules.
        forecast_warmup: full steps at the start of a run with forecasts, as TaylorSeer's.
        duca_varies: whether DuCa's cycle follows N(s), too. duca_bonus: DuCa's s4, where it is not ToCa's.
        toca_long: the profile of `toca` for runs of more than 100 steps, where it is another one.
    """

    name: str
    depth: Mapping[str, int]
    counter: bool
    toca: Profile
    linear_layerwise: Profile
    counts_down: bool = False
    warmup: int = 1
    reuse_warmup: int = 1
    cross_cycles: int = 1
    stretch: float = 0.0
    fine_window: tuple[float, float] | None = None
    attention_score: Literal["received", "entropy"] = "received"
    bonus: float = 0.0
    cell: int = 2
    forecast_warmup: int = 2
    duca_varies: bool = True
    duca_bonus: float | None = None
    toca_long: Profile | None = None

    def toca_profile(self, steps: int) -> Profile:
        """The ratio profile of the schedule `toca` for a run of `steps` steps."""
        return self.toca_long if self.toca_long is not None and steps > _FEW_STEPS else self.toca

    def number(self, step: int, steps: int) -> int:
        """The reference's own number s of the step that is executed as the `step`-th of `steps`."""
        return steps - 1 - step if self.counts_down else step

    def phases(self, steps: int, cycle: int, *, warmup: int, varying: bool, strict: bool) -> list[Phase]:
        """What each step of a run is.

        cycle: N, at least 1. warmup: full steps at the start, at least 1. varying: N follows N(s) where the family has
        one (the reference turns it off where no token is ever computed). strict: keep the steps that are full in the
        first layer only; otherwise those are cached, so that a step is full in all layers or in none.
        """
        return [phase for phase, _ in self.positions(steps, cycle, warmup=warmup, varying=varying, strict=strict)]

    def positions(
        self,
        steps: int,
        cycle: int,
        *,
        warmup: int,
        varying: bool,
        strict: bool,
        counter: bool | None = None,
        ramp: bool = False,
    ) -> list[tuple[Phase, int]]:
        """What each step of a run is, and its position in the cycle: 0 for a full step, then 1, 2, ...

        As `phases`; `counter` says whether the cycle restarts at every full step, None as the family's ToCa does. Where
        it does not, a position is the reference's step number modulo N(s): it counts down where the steps do. `ramp`,
        where the cycle restarts: the first cycle behind the start has 2 steps, the next 3, up to `cycle`.
        """
        if cycle == 1:
            return [(Phase.FULL, 0)] * steps
        if self.counter if counter is None else counter:
            return _counted(steps, cycle, warmup, 2 if ramp else cycle)
        phases, current = [], cycle
        for step in range(steps):
            number = self.number(step, steps)
            phase = Phase.CACHED
            if step < warmup or number % current == 0:
                # The first layer of the reference decides with the last N and sets the next, which the others see.
                current = self.varied_cycle(number, steps, cycle) if varying else cycle
                full = step < warmup or number % current == 0
                phase = Phase.FULL if full else Phase.FIRST_LAYER if strict else Phase.CACHED
            phases.append((phase, 0 if phase is Phase.FULL else number % current))
        return phases

    def varied_cycle(self, number: int, steps: int, cycle: int) -> int:
        """N(s) after a full step of the reference's number s, in single precision, rounded half to even."""
        if self.fine_window is not None:
            start, stop = (int(share * steps) for share in self.fine_window)
            if start <= number < stop:
                return 2
        slope = 2 * self.stretch * number / steps
        divisor = 1 + self.stretch - slope if self.counts_down else 1 - self.stretch + slope
        return max(1, round(float32(float32(cycle) / float32(divisor))))


def _counted(steps: int, cycle: int, warmup: int, first: int) -> list[tuple[Phase, int]]:
    """Cycles of `first` steps, then of one more each, up to `cycle`."""
    phases, counter, current = [], 0, first
    for step in range(steps):
        ended = counter == current - 1
        full = step < warmup or ended
        if ended:
            current = min(current + 1, cycle)
        counter = 0 if full else counter + 1
        phases.append((Phase.FULL if full else Phase.CACHED, counter))
    return phases


def float32(value: float) -> float:
    """`value` rounded to single precision."""
    return struct.unpack("f", struct.pack("f", value))[0]


_PIXART_WEIGHTS = {"cross_attn": 0.6, "mlp": 1.6}
DDIM50 = Profile(step=(3.0, -4.0), layer=(0.8, 0.4), weights={"mlp": 2.5})
DDPM250 = Profile(step=(1.4, -0.8), layer=(1.8, -1.6), weights={"mlp": 2.5})

FAMILIES: dict[str, Family] = {
    "flux": Family(
        name="flux",
        depth={"double": 19, "single": 38},
        counter=True,
        warmup=3,
        forecast_warmup=3,
        toca=Profile(step=(1.0, 0.0), layer=(1.5, -1.0), weights={"mlp": 0.4, "text_mlp": 0.4, "single": 1.6}),
        linear_layerwise=Profile(
            step=(1.9, -1.8), layer=(1.6, -1.2), weights={"mlp": 1.6, "text_mlp": 1.6, "single": 1.6}
        ),
    ),
    "pixart": Family(
        name="pixart",
        depth={"block": 28},
        counter=False,
        stretch=0.2,
        attention_score="entropy",
        bonus=0.4,
        cell=4,
        duca_varies=False,
        toca=Profile(step=(1.9, -1.8), layer=(1.6, -1.2), weights=_PIXART_WEIGHTS),
        linear_layerwise=Profile(step=(1.9, -1.8), layer=(1.6, -1.2), weights=_PIXART_WEIGHTS),
    ),
    "dit": Family(
        name="dit",
        depth={"block": 28},
        counter=False,
        counts_down=True,
        stretch=0.4,
        fine_window=(0.2, 0.4),
        bonus=0.6,
        cell=2,
        duca_bonus=0.8,
        toca=DDIM50,
        toca_long=DDPM250,
        linear_layerwise=DDPM250,
    ),
    "opensora": Family(
        name="opensora",
        depth={"spatial": 28, "temporal": 28},
        counter=False,
        warmup=3,
        reuse_warmup=3,
        forecast_warmup=3,
        cross_cycles=2,
        attention_score="entropy",
        # 1 - (1 - b) a for cross-attention, which is below 0 and so no token at all, and 1 + b a for the MLP, with the
        # published a = 1.5 and b = 0.33
        toca=Profile(step=(1.0, 0.0), layer=(1.0, 0.0), weights={"cross_attn": -0.005, "mlp": 1.495}),
        linear_layerwise=Profile(step=(1.9, -1.8), layer=(1.6, -1.2), weights=_PIXART_WEIGHTS),
    ),
}
"""Every family by the name that shapes and adapters carry."""


def usual_timesteps(shape: Shape | None, steps: int) -> list[float]:
    """Timesteps of a run of `steps`, from 1000 down, where the sampler's own are not known.

    Evenly spaced; on Open-Sora moved towards noise, the more the larger and longer the video is.
    """
    times = [1 - step / steps for step in range(steps)]
    if isinstance(shape, OpenSoraShape):
        height, width = shape.pixels
        shift = math.sqrt(height * width * shape.frames) / 512
        times = [shift * t / (1 + (shift - 1) * t) for t in times]
    return [1000 * t for t in times]
