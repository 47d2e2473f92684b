"""The tokens of one step over the picture: how many sites computed each, or which were merged with which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dita.caching.token_record import TokenRecord
from dita.plan import Block
from dita.plots.theme import Theme, ThemeName, checked_width, dress, new_figure, theme_of
from dita.values import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0
BAR = 0.95
"""Inches of the width that the colour scale takes."""
STRETCH = 0.5
"""The share to this power is the place on the colour scale: small shares are the common ones."""
OPACITY = 0.6
"""Of what is laid over the picture."""
COLOUR_LEFT, CONTRAST_LEFT = 0.25, 0.75
"""Of the picture, under what is laid over it."""


def plot_tokens(
    record: TokenRecord,
    step: int,
    picture: Any = None,
    layer: int | Block | None = None,
    module: str | None = None,
    frame: int | None = None,
    *,
    sample: int = 0,
    title: str | None = None,
    theme: ThemeName = "light",
    width: float = WIDTH,
) -> Figure:
    """A heat map of the image tokens at one step, laid over the picture: the share of the sites that computed each.

    Where the step merged tokens (ToMe), the groups instead, of one block: tokens of one colour were computed as one, in
    the place of the token with a dot; those without colour were computed alone.

    Args:
        record: `dita.summary(pipe).tokens` of a run under `dita.enable(..., record=True)`.
        step: from 0.
        picture: the picture that was made: of PIL, or an array (height, width, 3), of bytes or 0.0 to 1.0; for videos
            the frames, of which the one that belongs to `frame` is taken. None for the tokens alone.
        layer: one block only: its number in the order of execution, over all stacks, or (stack, layer). For groups the
            first block that merged by default.
        module: one module of a block only, such as `mlp`.
        frame: of a video, in latent frames; the middle one by default.
        sample: which picture of the batch.
        title: step, action and share of the tokens by default.
        theme: `light` or `dark`.
        width: inches; the height follows from the picture.

    Returns a matplotlib figure that belongs to no window: show it in a notebook, or `savefig` it.

    Raises:
        ValueError: there is no record, no such step, block, module, frame or sample, or the tokens form no grid.
    """
    colours = theme_of(theme)
    if not isinstance(record, TokenRecord):
        raise ValueError(
            "plot_tokens takes the record of a run: dita.summary(pipe).tokens, after dita.enable(..., record=True); got"
            f" {shown(record)}"
        )
    width = checked_width(width)
    grid = record.grid
    if len(grid) == 1:
        raise ValueError(f"the {grid[0]} image tokens of this run form no grid that could be drawn")
    frame = _frame(frame, grid)
    blocks = record.merging_blocks(step)
    merged = bool(blocks) and (layer is None or record.block(layer) in blocks)
    image = _picture(picture, frame, grid)
    rows, columns = grid[-2:]
    ratio = rows / columns if image is None else image.shape[0] / image.shape[1]
    figure = new_figure(colours, width, (width - (0.1 if merged else BAR)) * ratio + 0.45)
    axes = figure.subplots()
    if image is not None:
        pale = _paled(image, colours)
        axes.imshow(pale, extent=(0, columns, rows, 0), aspect="auto", interpolation="antialiased")
    opacity = 1.0 if image is None else OPACITY
    if merged:
        groups = record.groups(step, layer, sample=sample)
        _draw_groups(axes, groups, frame, colours, opacity)
        heading = f"step {step}: {groups.size} tokens merged into {len(np.unique(groups))}"
    else:
        share = record.share(step, layer, module, sample=sample)
        _draw_heat(figure, axes, share if frame is None else share[frame], colours, opacity)
        heading = f"step {step}: {record.kind(step).value}, {100 * float(share.mean()):.2g} % computed"
    if frame is not None:
        heading += f"; frame {frame} of {grid[0]}"
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_box_aspect(ratio)
    dress(axes, colours)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(heading if title is None else title, color=colours.ink, fontsize=10, loc="left")
    return figure


def _frame(frame: int | None, grid: tuple[int, ...]) -> int | None:
    if len(grid) == 2:
        if frame is not None:
            raise ValueError(f"these tokens are of a picture, which has no frame {frame}")
        return None
    frame = grid[0] // 2 if frame is None else frame
    if not 0 <= frame < grid[0]:
        raise ValueError(f"frame must be 0 to {grid[0] - 1} (latent frames), got {frame}")
    return frame


def _picture(picture: Any, frame: int | None, grid: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """As (height, width, 3) of 0 to 255; of a video's frames, the one in the middle of a latent frame."""
    if picture is None:
        return None
    if frame is not None and (isinstance(picture, Sequence) or getattr(picture, "ndim", 0) == 4):
        if not len(picture):
            raise ValueError("the video has no frames")
        picture = picture[int((frame + 0.5) * len(picture) / grid[0])]
    if hasattr(picture, "convert"):
        picture = picture.convert("RGB")
    image = np.asarray(picture)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"picture must be (height, width, 3), got {image.shape}")
    if np.issubdtype(image.dtype, np.floating):
        image = np.clip(image, 0, 1) * 255
    return image.round().clip(0, 255).astype(np.uint8)


def _paled(image: NDArray[np.uint8], theme: Theme) -> NDArray[np.uint8]:
    """The picture with little colour and contrast left, so that those laid over it can be read."""
    from matplotlib.colors import to_rgb

    grey = image.mean(axis=-1, keepdims=True)
    pale = (1 - COLOUR_LEFT) * grey + COLOUR_LEFT * image
    return (CONTRAST_LEFT * pale + (1 - CONTRAST_LEFT) * 255 * np.array(to_rgb(theme.page))).astype(np.uint8)


def _draw_heat(figure: Figure, axes: Axes, share: NDArray[np.float32], theme: Theme, opacity: float) -> None:
    """Colours where tokens were computed; none where they were not."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, PowerNorm, to_rgb

    levels = colormaps[theme.heat](np.linspace(0.05, 0.95, 256))
    levels[0, :3] = to_rgb(theme.page)
    colours, norm = ListedColormap(levels), PowerNorm(STRETCH, 0, 1)
    cells = colours(norm(share))
    cells[..., 3] = opacity * (share > 0)
    rows, columns = share.shape
    axes.imshow(cells, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, fraction=0.05, pad=0.02)
    bar.set_ticks([0, 0.05, 0.25, 0.5, 1], labels=["0", "5 %", "25 %", "50 %", "100 %"])
    bar.ax.tick_params(colors=theme.soft, labelsize=8, length=3)
    bar.outline.set_edgecolor(theme.line)
    bar.set_label("of the sites computed the token", color=theme.soft, fontsize=8)


def _draw_groups(axes: Axes, groups: NDArray[np.int32], frame: int | None, theme: Theme, opacity: float) -> None:
    """A colour for each group of more than one token, a dot on its destination; what stays alone has no colour."""
    from matplotlib.collections import LineCollection

    several = np.bincount(groups.ravel(), minlength=groups.size)[groups] > 1
    numbers = np.arange(groups.size).reshape(groups.shape)
    if frame is not None:
        groups, several, numbers = groups[frame], several[frame], numbers[frame]
    rows, columns = groups.shape
    cells = np.zeros((rows, columns, 4))
    cells[several, :3] = _group_colours(groups[several])
    cells[several, 3] = opacity
    axes.imshow(cells, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")

    across, down = np.nonzero(groups[:, 1:] != groups[:, :-1]), np.nonzero(groups[1:] != groups[:-1])
    borders = [((x + 1, y), (x + 1, y + 1)) for y, x in zip(*across, strict=True)]
    borders += [((x, y + 1), (x + 1, y + 1)) for y, x in zip(*down, strict=True)]
    fine = columns > 40
    axes.add_collection(LineCollection(borders, colors=theme.page, linewidths=0.3 if fine else 0.8))
    y, x = np.nonzero(several & (groups == numbers))
    axes.scatter(x + 0.5, y + 0.5, s=2 if fine else 12, color=theme.ink, linewidths=0)


def _group_colours(numbers: NDArray[np.int32]) -> NDArray[np.float64]:
    """A hue for each group, far from that of its neighbours: (n,) -> (n, 3)."""
    from matplotlib.colors import hsv_to_rgb

    hue, strength = (numbers * 0.6180339887498949) % 1, (numbers * 0.7548776662466927) % 1  # of the golden ratio
    return hsv_to_rgb(np.stack([hue, 0.55 + 0.35 * strength, np.full(hue.shape, 0.95)], axis=-1))
