"""Which tokens a sampling run computed at each step and site, and which it merged: kept in bits, read as grids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dita.plan import Block, Step, blocks_of, step_kind
from dita.shapes import Kind, Shape, Site


@dataclass(frozen=True)
class Geometry:
    """How the tokens of a transformer call lie.

    Attributes:
        shape: sizes of the model and of the call's input.
        grid: (rows, columns) of the image tokens, of a video (frames, rows, columns); None where they form no grid.
        image_start: module -> where the image tokens begin among its tokens. They are its last ones; a module that is
            not here has none.
    """

    shape: Shape
    grid: tuple[int, ...] | None
    image_start: Mapping[str, int]

    @property
    def image_tokens(self) -> int:
        """Of one sample."""
        module, start = next(iter(self.image_start.items()))
        return self.shape.tokens(module) - start


@dataclass(frozen=True)
class RecordedStep:
    """One denoising step, of which the first transformer call is recorded.

    Attributes:
        actions: what every site did.
        geometry: how the tokens lay.
        computed: of the sites that computed some of their tokens: which, as bits, (rows, tokens / 8).
        groups: of the blocks that merged tokens, the number of their matching in `TokenRecord.matchings`.
    """

    actions: Step
    geometry: Geometry
    computed: dict[Site, NDArray[np.uint8]] = field(default_factory=dict)
    groups: dict[Block, int] = field(default_factory=dict)


class TokenRecord:
    """The tokens of a sampling run: which were computed, and which were merged. `summary(pipe).tokens` is one.

    Steps count from 0. Where a step has two transformer calls (true classifier-free guidance), those of the first are
    recorded: the second has the same, where its prompt is as long.

    Attributes:
        recorded: step -> what is kept of it.
        matchings: (rows, image tokens) each, for every token the number of the token that stood for it.
    """

    def __init__(self) -> None:
        self.recorded: dict[int, RecordedStep] = {}
        self.matchings: list[NDArray[np.int32]] = []

    @property
    def steps(self) -> int:
        """How many steps are recorded."""
        return len(self.recorded)

    @property
    def samples(self) -> int:
        """Pictures or videos of the batch."""
        return self._last.shape.batch

    @property
    def grid(self) -> tuple[int, ...]:
        """(rows, columns) of the image tokens, of a video (frames, rows, columns); (tokens,) where they form none."""
        return self._last.grid or (self._last.image_tokens,)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """(stack, layer) of every block, in the order of execution."""
        return blocks_of(self._last.shape)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that work on image tokens."""
        return tuple(self._last.image_start)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the record takes."""
        bits = sum(packed.nbytes for step in self.recorded.values() for packed in step.computed.values())
        return bits + sum(matching.nbytes for matching in self.matchings)

    def kind(self, step: int) -> Kind:
        """What the step was, as a whole."""
        return step_kind(self._step(step).actions)

    def merging_blocks(self, step: int) -> tuple[Block, ...]:
        """The blocks that merged tokens in a step, in the order of execution."""
        return tuple(self._step(step).groups)

    def computed(self, step: int, site: Site) -> NDArray[np.bool_]:
        """Whether each token of a site was computed in a step, alone or merged with others: (rows, tokens).

        Rows are the samples of the call, first those of the one half and then of the other where guidance puts two
        halves into it; tokens are all those of the module, text before image.
        """
        recorded = self._step(step)
        if site not in recorded.actions:
            raise ValueError(f"site {site} is not in this model, whose blocks are those of {self._names()}")
        shape = recorded.geometry.shape
        tokens = shape.tokens(site.module)
        if site in recorded.computed:
            return np.unpackbits(recorded.computed[site], axis=1, count=tokens).astype(bool)
        return np.full((shape.rows, tokens), recorded.actions[site].tokens == tokens)

    def selections(self) -> Iterator[tuple[int, Site, NDArray[np.int32]]]:
        """(step, site, token numbers (rows, k), ascending) wherever a site computed some of its tokens."""
        for step, recorded in self.recorded.items():
            for site in recorded.computed:
                mask = self.computed(step, site)
                yield step, site, np.nonzero(mask)[1].astype(np.int32).reshape(len(mask), -1)

    def share(
        self, step: int, layer: int | Block | None = None, module: str | None = None, *, sample: int = 0
    ) -> NDArray[np.float32]:
        """The share of the sites that computed each image token in a step, 0 to 1: an array of the `grid`.

        Full steps are ones; a token that was merged with others counts as computed. Where guidance has two halves that
        chose apart (`strict`), each counts for half a site.

        Args:
            step: from 0.
            layer: one block only: its number in the order of execution, over all stacks, or (stack, layer).
            module: one module of a block only, such as `mlp`.
            sample: which picture of the batch.

        Raises:
            ValueError: there is no such step, block, module or sample.
        """
        recorded = self._step(step)
        geometry = recorded.geometry
        blocks = self.blocks if layer is None else (self.block(layer),)
        if module is not None and module not in geometry.image_start:
            raise ValueError(
                f"module {module!r} has no image tokens here; those that have are {', '.join(geometry.image_start)}"
            )
        sites = [
            site
            for site in recorded.actions
            if (site.stack, site.layer) in blocks
            and (site.module in geometry.image_start if module is None else site.module == module)
        ]
        if not sites:
            stack, number = blocks[0]
            raise ValueError(f"block {number} of the stack {stack!r} has no module {module!r}")
        self._check_sample(sample, geometry)
        total = np.zeros(geometry.image_tokens, dtype=np.float32)
        for site in sites:
            if site in recorded.computed:
                start = geometry.image_start[site.module]
                total += self.computed(step, site)[sample :: geometry.shape.batch, start:].mean(0, dtype=np.float32)
            else:
                total += recorded.actions[site].tokens == geometry.shape.tokens(site.module)
        return _on_grid(total / len(sites), geometry)

    def groups(self, step: int, layer: int | Block | None = None, *, sample: int = 0) -> NDArray[np.int32]:
        """The group that each image token was merged into in a step, as an array of the `grid`.

        A group is called by the number of its destination, counted along the flattened grid; a token that stayed alone
        has its own number. Under guidance by two halves of a call, those of the first half.

        Args:
            step: from 0.
            layer: the block: its number in the order of execution, over all stacks, or (stack, layer). By default the
                first one that merged.
            sample: which picture of the batch.

        Raises:
            ValueError: there is no such step, block or sample, or it merged nothing.
        """
        recorded = self._step(step)
        if not recorded.groups:
            raise ValueError(f"no tokens were merged at step {step}")
        block = next(iter(recorded.groups)) if layer is None else self.block(layer)
        if block not in recorded.groups:
            merging = ", ".join(f"{stack} {number}" for stack, number in recorded.groups)
            raise ValueError(f"block {block[0]} {block[1]} merged no tokens at step {step}; those that did: {merging}")
        self._check_sample(sample, recorded.geometry)
        return _on_grid(self.matchings[recorded.groups[block]][sample], recorded.geometry)

    def block(self, layer: int | Block) -> Block:
        """(stack, layer) of a block that is given by its number in the order of execution, or so.

        Raises:
            ValueError: there is no such block.
        """
        blocks = self.blocks
        if isinstance(layer, int) and 0 <= layer < len(blocks):
            return blocks[layer]
        if not isinstance(layer, int) and tuple(layer) in blocks:
            return layer
        raise ValueError(f"layer must be a number from 0 to {len(blocks) - 1}, or of {self._names()}, got {layer!r}")

    @property
    def _last(self) -> Geometry:
        if not self.recorded:
            raise ValueError("nothing was recorded: the run ended before its first step did")
        return next(reversed(self.recorded.values())).geometry

    def _step(self, step: int) -> RecordedStep:
        if step not in self.recorded:
            raise ValueError(f"step must be one of the {self.steps} recorded ones, counted from 0, got {step}")
        return self.recorded[step]

    def _names(self) -> str:
        shape = self._last.shape
        return ", ".join(f"({stack!r}, 0 to {shape.depth(stack) - 1})" for stack in shape.stacks)

    @staticmethod
    def _check_sample(sample: int, geometry: Geometry) -> None:
        if not 0 <= sample < geometry.shape.batch:
            raise ValueError(f"sample must be 0 to {geometry.shape.batch - 1}, got {sample}")


def _on_grid(values: NDArray, geometry: Geometry) -> NDArray:  # type: ignore[type-arg]
    if geometry.grid is None or math.prod(geometry.grid) != values.size:
        return values
    return values.reshape(geometry.grid)
