"""What both networks learn on the side: to say from each patch what lies there. It teaches them to see early on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from dita.miniature import world
from dita.miniature.judge.marks import GRID, LAYERS, marks
from dita.miniature.judge.network import BACKGROUND_PARTS, CELL_PARTS, Answer, answer, expect_nothing
from training.judge.targets import background_target, layer_target, loss


class SeeingHead(nn.Module):
    """Reads the judge's marks from a vision transformer's patch tokens; thrown away after the training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cells = nn.Linear(width, 4 * width)
        self.last = nn.Conv2d(width, sum(CELL_PARTS), 1)
        self.whole = nn.Linear(width, sum(BACKGROUND_PARTS))
        assert self.last.bias is not None
        expect_nothing(self.last.bias)

    def forward(self, tokens: Tensor) -> Answer:
        """What is seen in pictures, from their tokens (N, patches, width) in raster order."""
        tokens = self.norm(tokens)
        side = GRID // 2
        grid = functional.gelu(self.cells(tokens)).mT.unflatten(2, (side, side))
        return answer(self.last(functional.pixel_shuffle(grid, 2)), self.whole(tokens.mean(dim=1)))

    def loss(self, tokens: Tensor, scenes: Sequence[world.Scene]) -> Tensor:
        """The loss of saying what `scenes` show."""
        seen = [marks(scene) for scene in scenes]
        targets = {layer: layer_target(layer, seen) for layer in LAYERS}
        background = background_target([(s.background.kind, *s.background.colours) for s in scenes])
        return loss(self(tokens), targets, background)


def weight_at(progress: float) -> float:
    """The weight of the loss at `progress` (0 to 1): most at first, little later."""
    return 0.1 if progress < 0.5 else 0.02


def matrices(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of the inner linear layers, for Muon, and all others, for AdamW."""
    inner = {part.weight for name, part in module.named_modules() if isinstance(part, nn.Linear) and "head" not in name}
    mine = [weight for weight in module.parameters() if weight.requires_grad]
    return [w for w in mine if w in inner], [w for w in mine if w not in inner]
