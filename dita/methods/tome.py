"""ToMe: tokens that are alike are computed as one; and how that goes with the other methods."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from dita.families import FAMILIES
from dita.merges import MACHINES, MachineName, joined, matching_seconds, merging_seconds
from dita.methods.method import Method, check_choice, check_count
from dita.methods.parameters import Range, Seed
from dita.methods.plain import Plain
from dita.plan import Plan, Step
from dita.shapes import Kind, Shape, Site
from dita.values import shown


class MergingRefusedWarning(UserWarning):
    """Tokens are not merged, because matching them is expected to take longer than it saves."""


@dataclass(frozen=True)
class ToMe(Method):
    """Token merging (ToMe for Stable Diffusion, arXiv 2303.17604): image tokens that are alike are computed as one.

    In each block, one token of each cell of the grid is a destination, and every other token finds the destination that
    it is most like. The `ratio` of the tokens that are most like theirs are averaged into them before a module, behind
    its norm and modulation, and get a copy of its output. Text is never merged. Beside a caching method, full steps
    merge: `[ToMe(), ToCa()]`, or `tome+toca` in short.

    Fields:
        ratio: share of the image tokens that is merged away, in [0, 1 - 1 / (tokens of a cell)].
        stride: a cell's (height, width) in image tokens, 2x2 in short. Videos are merged frame by frame; with a third
            number in front, (frames, height, width), the temporal blocks of Open-Sora merge along time, and their
            self-attention does so too.
        modules: what runs on merged tokens: `attn` (self-attention), `cross_attn`, `mlp`; attn/mlp in short. In FLUX's
            single-stream blocks attention and MLP stand side by side: either, or both and their common projection.
        reuse_steps: a matching serves this many steps, the one that computes it included.
        reuse_layers: neighbouring blocks of a stack that share one matching.
        proportional: a merged token counts in self-attention as often as it stands for tokens (arXiv 2210.09461,
            section 3), by an additive mask, which some attention backends do not take.
        random: a cell's destination is drawn anew for each matching; false takes the first of the cell.
        seed: of the draws, which all pictures of a batch share.
        force: merge also where the cost model says that it takes longer.
        machine: whose speed the cost model assumes: accelerator or cpu; by default that of the run, and an accelerator
            in a plan without one.
    """

    name: ClassVar[str] = "tome"
    positional: ClassVar[tuple[str, ...]] = ("ratio",)
    paper: ClassVar[str] = "Bolya and Hoffman, Token Merging for Fast Stable Diffusion, arXiv 2303.17604"
    extends: ClassVar[tuple[str, ...]] = tuple(FAMILIES)

    ratio: float = 0.5
    stride: tuple[int, ...] = (2, 2)
    modules: tuple[str, ...] = ("attn",)
    reuse_steps: Annotated[int, Range(1, why="1 matches in every step")] = 1
    reuse_layers: Annotated[int, Range(1, why="1 matches in every block")] = 1
    proportional: bool = False
    random: bool = True
    seed: Seed = 0
    force: bool = False
    machine: MachineName | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.stride) not in (2, 3):
            raise ValueError(f"stride must be (height, width) or (frames, height, width) of a cell, got {self.stride}")
        for size in self.stride:
            check_count("each number of stride", size)
        cell = math.prod(self.stride)
        if not 0 <= self.ratio <= 1 - 1 / cell:
            raise ValueError(
                f"ratio must be in [0, {1 - 1 / cell:.4g}], as one of the {joined(self.stride)} tokens of a cell stays,"
                f" got {self.ratio}"
            )
        if not self.modules:
            raise ValueError(f"modules must be at least one of {', '.join(MERGED_MODULES)}, got {self.modules!r}")
        for module in self.modules:
            check_choice("module to merge", module, MERGED_MODULES)

    @property
    def caching(self) -> Method:
        return Plain()

    @property
    def merging(self) -> ToMe | None:
        return self

    def on(self, device: str) -> ToMe:
        if self.machine is not None:
            return self
        return dataclasses.replace(self, machine="cpu" if device == "cpu" else "accelerator")

    def beside(self, method: Method) -> Method:
        """Both as one method."""
        return self if method == Plain() else Composition((self, method))

    def modules_at(self, site: Site, shape: Shape) -> frozenset[str]:
        """What of `modules` the site `site` computes, and can compute on merged tokens."""
        return shape.mergeable(site, self.stride) & set(self.modules)

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        return self.merged(Plain().plan(shape, steps))

    def merged(self, plan: Plan) -> Plan:
        """`plan` with tokens merged at its full sites, where that pays or is forced.

        Raises `ValueError` for a module that the family does not have, and for a grid that the stride does not fit.
        """
        shape = plan.shape
        present = {site.module for site in shape.sites()} - {"single", "text_mlp"}
        for module in self.modules:
            if module not in present:
                has = ", ".join(known for known in MERGED_MODULES if known in present)
                raise ValueError(f"{self.label()} merges {module}, which {shape.family} does not have; it has {has}")
        merged = self._merged_in(plan, shape.stacks)
        if self.force:
            return merged
        costs = {stack: self._seconds(merged, stack) for stack in shape.stacks}
        refused = [stack for stack, (saved, cost, count) in costs.items() if count and cost >= saved]
        if refused:
            _warn_of_refused_merging(merged, {stack: costs[stack] for stack in refused})
        return self._merged_in(plan, tuple(stack for stack in shape.stacks if stack not in refused))

    def _merged_in(self, plan: Plan, stacks: Sequence[str]) -> Plan:
        shape = plan.shape
        cells = {stack: shape.cells(stack, self.stride) for stack in shape.stacks}
        removed = {
            site: cells[site.stack].removed(self.ratio) * cells[site.stack].sequences
            for site in shape.sites()
            if site.stack in stacks and self.modules_at(site, shape)
        }
        changed: dict[int, Step] = {}  # many steps of a plan are one object
        for step in plan.steps:
            if id(step) not in changed:
                changed[id(step)] = {
                    site: action._replace(merged=removed.get(site, 0)) if action.kind is Kind.FULL else action
                    for site, action in step.items()
                }
        return dataclasses.replace(plan, steps=tuple(changed[id(step)] for step in plan.steps), merging=self)

    def _seconds(self, plan: Plan, stack: str) -> tuple[float, float, int]:
        """Of merging in the blocks of `stack`: seconds that it saves in a run, seconds that it takes, and how many
        blocks merge."""
        shape, cells = plan.shape, plan.shape.cells(stack, self.stride)
        machine = MACHINES[self.machine or "accelerator"]
        matching = matching_seconds(
            cells, rows=shape.rows, width=shape.width, element_bytes=shape.element_bytes, machine=machine
        )
        merging = merging_seconds(
            cells,
            cells.removed(self.ratio),
            rows=shape.rows,
            width=shape.width,
            element_bytes=shape.element_bytes,
            machine=machine,
        )
        saved, sites, blocks = 0.0, 0, set()
        for s, step in enumerate(plan.steps):
            for site, action in step.items():
                if site.stack == stack and action.merged:
                    less = shape.flops(site, Kind.FULL, action.tokens)
                    less -= shape.merged_flops(site, plan.merged_modules(site), action.merged)
                    saved += machine.seconds(flops=less)
                    sites += 1
                    blocks.add((s, site.layer))
        matchings = sum(matched == stack for of_step in plan.matched for matched, _ in of_step)
        return saved, (matching * matchings + merging * sites) * shape.branches, len(blocks)


MERGED_MODULES = ("attn", "cross_attn", "mlp")
"""What `ToMe` can merge tokens in front of."""


@dataclass(frozen=True)
class Composition(Method):
    """Token merging beside a caching method: merged where a step computes in full, cached between.

    `methods`: one `ToMe`, and one method of another kind. Raises `ValueError` for two that claim the same sites.
    """

    name: ClassVar[str] = "composition"

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        given = self.methods if isinstance(self.methods, (list, tuple)) else ()
        if not given or not all(isinstance(method, Method) for method in given):
            got = "none" if self.methods == () else shown(self.methods)
            raise ValueError(f"a composition takes one tome and one other method, got {got}")
        merging = [method for method in self.methods if isinstance(method, ToMe)]
        others = [method for method in self.methods if not isinstance(method, ToMe)]
        for claimed, rivals in (("every block's modules", others), ("the merging of tokens", merging)):
            if len(rivals) > 1:
                first, second = (method.label() for method in rivals[:2])
                raise ValueError(
                    f"{first} and {second} both claim {claimed}: a composition takes one tome and one other method"
                )
        if not (merging and others):
            raise ValueError(f"a composition takes one tome and one other method, got {self.label() or 'none'}")
        object.__setattr__(self, "methods", (*merging, *others))

    @property
    def caching(self) -> Method:
        return self.methods[1]

    @property
    def merging(self) -> ToMe | None:
        return self.methods[0].merging

    def on(self, device: str) -> Method:
        return Composition(tuple(method.on(device) for method in self.methods))

    def run_steps(self, steps: int) -> int:
        return self.caching.run_steps(steps)

    def check_family(self, family: str) -> None:
        self.caching.check_family(family)

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        assert self.merging is not None
        return self.merging.merged(self.caching.plan(shape, steps, timesteps))

    def as_json(self) -> dict[str, Any]:
        return {"method": self.name, "methods": [method.as_json() for method in self.methods]}

    def label(self) -> str:
        return "+".join(method.label() for method in self.methods)


def _warn_of_refused_merging(plan: Plan, costs: dict[str, tuple[float, float, int]]) -> None:
    """`costs`: by stack, seconds saved and taken in a run, and the number of blocks that would merge in it."""
    assert plan.merging is not None
    machine, several = plan.merging.machine or "accelerator", len(plan.shape.stacks) > 1
    numbers = [
        f"{cost / count * 1e3:.3g} ms to save {saved / count * 1e3:.3g} ms in a {f'{stack} ' if several else ''}block"
        for stack, (saved, cost, count) in costs.items()
    ]
    warnings.warn(
        f"{plan.merging.label()} does not merge tokens of {plan.shape.name}, batch {plan.shape.batch}: matching and"
        f" merging would take {' and '.join(numbers)} (estimated, machine={machine!r}); larger reuse_steps and"
        " reuse_layers match less often, and force=True merges all the same",
        MergingRefusedWarning,
        stacklevel=4,
    )
