"""Notes which tokens a run computes and merges, and fetches them from the device once a cycle."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dita.caching.token_record import Geometry, RecordedStep, TokenRecord
from dita.plan import Block, Step
from dita.shapes import Kind, Site


class Recorder:
    """Fills a `TokenRecord`.

    What is on the device stays there until the next step that is full somewhere, or the end: then everything comes in
    one transfer, so that a cached step waits for nothing.
    """

    def __init__(self) -> None:
        self.record = TokenRecord()
        self._pending: list[tuple[Tensor, Callable[[NDArray[np.int32]], None]]] = []
        self._matching_of: dict[Block, int] = {}  # by the first block of a group

    def note(
        self,
        step: int,
        actions: Step,
        geometry: Geometry,
        selected: Mapping[Site, Tensor],
        matched: Mapping[Block, Tensor],
        merging: Mapping[Block, Block],
    ) -> None:
        """Notes one executed transformer call.

        selected: the rows that a site computed, numbered over the flattened (rows * tokens).
        matched: of the groups of blocks that were matched anew, (rows, image tokens), the number of the token that
            stands for each. merging: the group of each block that merged.
        """
        if any(action.kind is Kind.FULL for action in actions.values()):
            self.settle()
        recorded = self.record.recorded[step] = RecordedStep(actions, geometry)
        for site, rows in selected.items():
            self._pending.append((rows, _bits_of(recorded, site)))
        for group, numbers in matched.items():
            self._matching_of[group] = len(self.record.matchings)
            self.record.matchings.append(np.empty(0, dtype=np.int32))
            self._pending.append((numbers, _matching_at(self.record, self._matching_of[group], numbers.shape[0])))
        recorded.groups.update({block: self._matching_of[group] for block, group in merging.items()})

    def settle(self) -> None:
        """Fetches what is still on the device. Waits for it."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        fetched = torch.cat([numbers.flatten() for numbers, _ in pending]).to(torch.int32).cpu().numpy()
        ends = np.cumsum([numbers.numel() for numbers, _ in pending])
        for (_, keep), part in zip(pending, np.split(fetched, ends[:-1]), strict=True):
            keep(part)


def _bits_of(recorded: RecordedStep, site: Site) -> Callable[[NDArray[np.int32]], None]:
    def keep(rows: NDArray[np.int32]) -> None:
        shape = recorded.geometry.shape
        mask = np.zeros(shape.rows * shape.tokens(site.module), dtype=bool)
        mask[rows] = True
        recorded.computed[site] = np.packbits(mask.reshape(shape.rows, -1), axis=1)

    return keep


def _matching_at(record: TokenRecord, number: int, rows: int) -> Callable[[NDArray[np.int32]], None]:
    def keep(numbers: NDArray[np.int32]) -> None:
        record.matchings[number] = numbers.reshape(rows, -1).copy()

    return keep
