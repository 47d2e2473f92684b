"""The drift guard: a cached step that departs too far from the last full one is computed in full."""

from __future__ import annotations

import torch
from torch import Tensor

from dita.caching.branch import Branch
from dita.caching.broken import tensors_of


class Guard:
    """Decides, for each transformer call of a cached step, whether it is good enough.

    The measure is the relative distance |now - full| / |full| of the call's output to that of the same call in the last
    full step, with the L2 norm over each sample; the sample that departs most decides. Telling it waits for the device.

    Args:
        bound: the distance that is accepted. 0 accepts no cached step, and then none is tried.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self._full: dict[Branch, Tensor] = {}

    def keep(self, branch: Branch, output: object) -> None:
        """Notes the output of a full step."""
        self._full[branch] = next(tensors_of(output)).detach().clone()

    def accepts(self, branch: Branch, output: object) -> bool:
        """Whether the output of a cached step stays within the bound; False for broken numbers."""
        full = self._full.get(branch)
        return full is None or self.stays(next(tensors_of(output)).detach(), full)

    def stays(self, now: Tensor, full: Tensor) -> bool:
        """Whether one value (B, ...) stays within the bound of another; False for broken numbers."""
        if full.shape != now.shape:
            return True
        before = full.flatten(1).float()
        departed = torch.linalg.vector_norm(now.flatten(1).float() - before, dim=1)
        return bool((departed <= self.bound * torch.linalg.vector_norm(before, dim=1)).all())
