"""Delta-DiT: steps that skip a span of blocks and add what it changed when it ran last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dita.families import FAMILIES, Phase
from dita.methods.full_steps import ChosenSteps, chosen_positions
from dita.methods.method import checked_run, warn_of_a_plan_that_saves_nothing
from dita.methods.parameters import Count, Cycle, Range, StepNumber
from dita.plan import Action, Plan, Span, Step, blocks_of, full_step, stored_step
from dita.shapes import Kind, Shape

_OPENSORA_LAYERS = 6
_SHARE = 0.75  # of the blocks, where no publication says which
_OPENSORA_WINDOW = 1 / 3  # of the steps: 0 to 10 of 30


@dataclass(frozen=True)
class DeltaDiT(ChosenSteps):
    """Skipped spans of blocks (Delta-DiT, arXiv 2406.01125): x + (what left the span - what entered it, last time).

    PixArt and DiT follow the paper: in the first part of a run the rear blocks are skipped, which draw details, and
    then the front ones, which draw outlines. FLUX follows the comparison in TaylorSeer's code: the cached steps of a
    cycle are in turn such that skip the single-stream blocks and compute all others, and such that reuse every module's
    output. Open-Sora follows that in PAB's code: the first blocks are skipped in the first steps.

    Fields:
        cycle: N, steps without a cached span are N apart (at least 1).
        layers: how many blocks of the stack (Open-Sora: pairs) a span has. None: FLUX's whole single-stream stack, 6
            pairs on Open-Sora, three quarters on PixArt and DiT.
        boundary: PixArt and DiT: the share of the steps in which the rear blocks are skipped, in [0, 1].
        window: Open-Sora: the last step that may skip blocks; None is a third of the run (10 of 30, as published).
        strict: reproduce the released code on Open-Sora, which subtracts the difference in place of adding it.
    """

    name: ClassVar[str] = "deltadit"
    positional: ClassVar[tuple[str, ...]] = ("cycle",)
    paper: ClassVar[str] = "Chen et al., Delta-DiT, arXiv 2406.01125"

    cycle: Cycle = 2
    layers: Count | None = None
    boundary: Annotated[float, Range(0, 1, why="a share of the steps")] = 0.5
    window: StepNumber | None = None
    strict: bool = False
    full_steps: tuple[int, ...] | None = field(default=None, kw_only=True)
    full_of: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_full_steps()

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        steps = checked_run(shape, steps)
        full = full_step(shape)
        reuse = stored_step(shape, Kind.REUSE)
        skips: dict[int, Span] = {}
        taken: list[Step] = []
        for s, position in enumerate(self._positions(shape, steps, timesteps)):
            if shape.family == "flux" and position and position % 2 == 0:
                taken.append(reuse)
            elif position:
                skips[s] = self._span(shape, s - position, steps)
                taken.append(_without(full, shape, skips[s]))
            else:
                taken.append(full)
        plan = Plan(self, shape, tuple(taken), steps, skips=skips)
        warn_of_a_plan_that_saves_nothing(plan, self.cycle, 1)
        return plan

    def _positions(self, shape: Shape, steps: int, timesteps: Sequence[float] | None) -> list[int]:
        """Where each step is in its cycle, 0 for one that skips nothing."""
        chosen = self.chosen_steps(shape, steps, timesteps)
        if chosen is not None:
            return [position for _, position in chosen_positions(chosen, steps)]
        settings = FAMILIES[shape.family]
        if settings.counter:
            phases = settings.positions(steps, self.cycle, warmup=1, varying=False, strict=False)
            return [0 if phase is Phase.FULL else position for phase, position in phases]
        last = steps - 1
        if shape.family == "opensora":
            last = round(_OPENSORA_WINDOW * steps) if self.window is None else self.window
        return [s % self.cycle if s <= last else 0 for s in range(steps)]

    def _span(self, shape: Shape, step: int, steps: int) -> Span:
        """The span that is skipped in a cycle that begins with `step`."""
        stack = shape.stacks[-1]
        depth = shape.depth(stack)
        layers = self.layers or {
            "flux": depth,
            "opensora": min(_OPENSORA_LAYERS, depth),
        }.get(shape.family, max(1, round(_SHARE * depth)))
        if layers > depth:
            raise ValueError(f"layers must be at most {depth}, the depth of {shape.name}'s {stack} stack, got {layers}")
        if shape.family == "opensora":
            return Span((shape.stacks[0], 0), (stack, layers - 1), delta=-1 if self.strict else 1)
        rear = shape.family == "flux" or step < self.boundary * steps
        return (
            Span((stack, depth - layers), (stack, depth - 1), delta=1)
            if rear
            else Span((stack, 0), (stack, layers - 1), delta=1)
        )


def _without(full: Step, shape: Shape, span: Span) -> Step:
    blocks = blocks_of(shape)
    skipped = set(blocks[blocks.index(span.first) : blocks.index(span.last) + 1])
    return {
        site: Action(Kind.SKIP, 0) if (site.stack, site.layer) in skipped else action for site, action in full.items()
    }
