"""Which tokens the cached steps of a call compute, by what its full steps leave: scores of all sites, and choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dita.caching.adapters import Adapter
from dita.caching.branch import Branch
from dita.caching.live import LiveSelection
from dita.caching.rows import row_numbers
from dita.caching.scores import combined, entropy_score, of_features, random_scores, spread
from dita.caching.selection import SpatialBonus, select_cycle
from dita.methods import FEATURE_SCORES, ToCa
from dita.shapes import Shape, Site


class Selector:
    """Selects tokens for a method. `records`: all ranks' choices are kept beside a rank's own."""

    def __init__(self, adapter: Adapter, method: ToCa, records: bool) -> None:
        self.adapter = adapter
        self.method = method
        self.records = records

    def needs_grid(self, shape: Shape) -> bool:
        """Whether selections depend on where tokens lie in the picture."""
        return bool(self.method.spatial(shape.family)[0]) or self.method.score in ("uniform", "frame-uniqueness")

    def check_grid(self, branch: Branch) -> None:
        """Raises `ValueError` where the spatial bonus does not fit the grid of the branch."""
        check_cells(self.method, branch.shape.family, branch.grid)

    def select(self, branch: Branch, step: int, sites: Sequence[Site]) -> None:
        """Fills `branch.selected` for the cached steps up to the next full one, of `sites` that are full in `step`.

        The layers of a module whose cycles are equally long are selected at once.
        """
        shape = branch.shape
        cycles: dict[tuple[str, str, int], list[int]] = {}
        for site in sites:
            branch.selected.pop(site, None)
            branch.all_selected.pop(site, None)
            coming = branch.coming(step, site)
            if any(coming):
                cycles.setdefault((site.stack, site.module, len(coming)), []).append(site.layer)
        for (stack, module, _), layers in cycles.items():
            counts = [branch.coming(step, Site(stack, layer, module)) for layer in layers]
            selections = select_cycle(
                self._base_scores(branch, step, stack, module, layers, counts),
                list(zip(*counts, strict=True)),
                self.method.age_weight / self.method.cycle,
                self._spatial(branch, module),
            )
            tokens = shape.tokens(module)
            rows = [
                [None if index is None else row_numbers(index, shape.rows, tokens) for index in of_layer]
                for of_layer in zip(*selections, strict=True)
            ]
            sites_of_layers = [Site(stack, layer, module) for layer in layers]
            if module in branch.divided:
                if self.records:
                    branch.all_selected |= zip(sites_of_layers, rows, strict=True)
                chosen = [some for of_layer in rows for some in of_layer if some is not None]
                own = iter(branch.divided[module].own(chosen))
                rows = [[None if some is None else next(own) for some in of_layer] for of_layer in rows]
            branch.selected |= zip(sites_of_layers, rows, strict=True)

    def live(self, branch: Branch, site: Site) -> LiveSelection:
        """What selects tokens of a site inside of cached steps."""
        return LiveSelection(
            "entropy" if self.method.scores_entropy(branch.shape) else self.method.score,
            self.method.age_weight / self.method.cycle,
            self._spatial(branch, site.module),
            branch.state_of[site.stack, site.layer].probe,
            parts=branch.shape.rows // branch.shape.batch,
            shared=self.method.shares_halves(branch.shape),
            divided=branch.divided.get(site.module),
        )

    def _base_scores(
        self, branch: Branch, step: int, stack: str, module: str, layers: list[int], counts: list[tuple[int, ...]]
    ) -> Callable[[int], Tensor]:
        """j -> scores (L, b, N) of one module in `layers` of a stack at the j-th cached step of their cycle.

        b is the number of samples that choose: 1 where all choose alike.
        """
        shape, method = branch.shape, self.method
        tokens, parts = shape.tokens(module), shape.rows // shape.batch
        number = (shape.stacks.index(stack), self.adapter.modules(stack).index(module))
        if method.score == "random":
            return lambda j: torch.stack(
                [self._draw(branch, Site(stack, i, module), step + 1 + j, (method.seed, *number, i)) for i in layers]
            )
        if method.score == "uniform":
            values = self._spread(branch, module)
            taken = [[sum(c[:j]) / tokens for c in counts] for j in range(len(counts[0]))]
            starts = [0.6180339887498949 * (i + 7 * step + method.seed) for i in layers]
            return lambda j: torch.stack(
                [(values + start + share).frac()[None] for start, share in zip(starts, taken[j], strict=True)]
            )
        if method.score in FEATURE_SCORES:
            grid = branch.grid if method.score == "frame-uniqueness" else None
            outputs = (branch.slot(Site(stack, layer, module)).stored() for layer in layers)
            whole = (_of_all_ranks(branch, module, out, 1) for out in outputs if isinstance(out, Tensor))
            scores = torch.stack([of_features(method.score, out, grid) for out in whole])
            frozen = combined(scores, method.shares_halves(shape), parts=parts)
            return lambda j: frozen
        collected = [branch.state_of[stack, layer].probe.scores for layer in layers]
        joint = torch.stack([scores for scores in collected if scores is not None])  # (L, B, N)
        joint = _of_all_ranks(branch, shape.score_source(stack, method.score), joint)
        of_module = self.adapter.module_scores(stack, module, shape, joint)
        if method.scores_entropy(shape):
            frozen = entropy_score(of_module, parts > 1, parts)
        else:
            frozen = combined(of_module, method.shares_halves(shape), alike=not method.strict, parts=parts)
        return lambda j: frozen

    def _draw(self, branch: Branch, site: Site, step: int, seed: tuple[int, ...]) -> Tensor:
        """U(0, 1) for one site and step, (1, N): shared by the samples of the batch."""
        return random_scores(branch.shape.tokens(site.module), (*seed, step), branch.device)[None]

    def _spread(self, branch: Branch, module: str) -> Tensor:
        start = self.adapter.image_start(module, branch.shape)
        tokens, device = branch.shape.tokens(module), branch.device
        if start is None or branch.grid is None:
            return spread(tokens, None, device)
        return torch.cat([spread(start, None, device), spread(tokens - start, branch.grid, device)])

    def _spatial(self, branch: Branch, module: str) -> SpatialBonus | None:
        start = self.adapter.image_start(module, branch.shape)
        bonus, cell = self.method.spatial(branch.shape.family)
        if not bonus or start is None:
            return None
        assert branch.grid is not None
        return SpatialBonus(bonus, cell, branch.grid, start)


def _of_all_ranks(branch: Branch, module: str, own: Tensor, dim: int = -1) -> Tensor:
    """Of a module's tokens along `dim`; itself where one process has them all."""
    return branch.divided[module].joined(own, dim) if module in branch.divided else own


def check_cells(method: ToCa, family: str, grid: tuple[int, ...] | None) -> None:
    """Raises `ValueError` where the spatial bonus of `method` does not fit a grid of tokens.

    Cells of the paper's size may be smaller at the edge of a picture; a size that the user gave must fit.
    """
    bonus, cell = method.spatial(family)
    if not bonus:
        return
    if grid is None:
        raise ValueError("spatial_bonus needs image tokens that form one grid; set spatial_bonus=0 for this pipeline")
    height, width = grid[-2:]
    if method.spatial_grid is not None and (height % cell or width % cell):
        raise ValueError(
            f"spatial_bonus works in cells of {cell}x{cell} image tokens, which do not divide this picture's"
            f" {height}x{width} tokens; choose another spatial_grid, another picture size, or spatial_bonus=0"
        )
