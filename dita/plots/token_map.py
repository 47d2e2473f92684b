"""The tokens of one step over the picture: how many sites computed each, or which were merged with which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dita.caching.token_record import TokenRecord
from dita.plan import Block
from dita.plots.theme import Theme, ThemeName, dress, new_figure, theme_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0
CONTRAST = 0.5
"""The share to this power is the place on the colour scale: small shares are the common ones."""
PICTURE_UNDER_HEAT, PICTURE_UNDER_GROUPS = 0.45, 0.5
"""How much of the picture shows through."""


def plot_tokens(
    record: TokenRecord,
    step: int,
    picture: Any = None,
    *,
    layer: int | Block | None = None,
    module: str | None = None,
    frame: int | None = None,
    sample: int = 0,
    title: str | None = None,
    theme: ThemeName = "light",
    width: float = WIDTH,
) -> Figure:
    """A heat map of the image tokens at one step, laid over the picture: the share of the sites that computed each.

    Where the step merged tokens (ToMe), the groups instead: tokens of one colour were computed as one; those without
    colour were computed alone.

    Args:
        record: `dita.summary(pipe).tokens` of a run under `dita.enable(..., record=True)`.
        step: from 0.
        picture: the picture that was made: of PIL, or an array (height, width, 3); for videos the frames, of which the
            one that belongs to `frame` is taken. None for the tokens alone.
        layer: one block only: its number in the order of execution, over all stacks, or (stack, layer).
        module: one module of a block only, such as `mlp`.
        frame: of a video, in latent frames; the middle one by default.
        sample: which picture of the batch.
        title: step, action and share of the tokens by default.
        theme: `light` or `dark`.
        width: inches; the height follows from the picture.

    Returns a matplotlib figure that belongs to no window: show it in a notebook, or `savefig` it.

    Raises:
        ValueError: there is no such step, block, module, frame or sample, or the tokens form no grid.
    """
    colours = theme_of(theme)
    grid = record.grid
    if len(grid) == 1:
        raise ValueError(f"the {grid[0]} image tokens of this run form no grid that could be drawn")
    frame = _frame(frame, grid)
    blocks = record.merging_blocks(step)
    merged = bool(blocks) and (layer is None or record.block(layer) in blocks)
    values = record.groups(step, layer, sample=sample) if merged else record.share(step, layer, module, sample=sample)
    whole = values
    if frame is not None:
        values = values[frame]
    image = _picture(picture, frame, grid)
    rows, columns = values.shape
    ratio = rows / columns if image is None else image.shape[0] / image.shape[1]
    figure = new_figure(colours, width, (width - 0.9) * ratio + 0.75)
    axes = figure.subplots()
    if image is not None:
        axes.imshow(image, extent=(0, columns, rows, 0), aspect="auto", interpolation="antialiased")
    if merged:
        _draw_groups(axes, whole, values, colours, 1.0 if image is None else 1 - PICTURE_UNDER_GROUPS)
    else:
        _draw_heat(figure, axes, values, colours, 1.0 if image is None else 1 - PICTURE_UNDER_HEAT)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_box_aspect(ratio)
    dress(axes, colours)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(
        title if title is not None else _title(record, step, whole, merged, frame),
        color=colours.ink,
        fontsize=10,
        loc="left",
    )
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
    if image.dtype != np.uint8:
        image = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return image


def _draw_heat(figure: Figure, axes: Axes, share: NDArray[np.float32], theme: Theme, alpha: float) -> None:
    from matplotlib.colors import PowerNorm

    heat = axes.imshow(
        share,
        extent=(0, share.shape[1], share.shape[0], 0),
        aspect="auto",
        interpolation="nearest",
        cmap="inferno",
        norm=PowerNorm(CONTRAST, 0, 1),
        alpha=alpha,
    )
    bar = figure.colorbar(heat, ax=axes, fraction=0.05, pad=0.02, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "5 %", "25 %", "50 %", "100 %"])
    bar.ax.tick_params(colors=theme.soft, labelsize=8, length=3)
    bar.outline.set_edgecolor(theme.line)  # type: ignore[operator]
    bar.set_label("of the sites computed the token", color=theme.soft, fontsize=8)


def _draw_groups(axes: Axes, whole: NDArray[np.int32], groups: NDArray[np.int32], theme: Theme, alpha: float) -> None:
    """A colour for each group of more than one token, and lines round them; a group may lie in several pieces."""
    sizes = np.bincount(whole.ravel(), minlength=whole.size)
    cells = np.zeros((*groups.shape, 4))
    several = sizes[groups] > 1
    cells[several, :3] = _group_colours(groups[several])
    cells[several, 3] = alpha
    rows, columns = groups.shape
    axes.imshow(cells, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
    for row, column in zip(*np.nonzero(groups[:, 1:] != groups[:, :-1]), strict=True):
        axes.plot([column + 1] * 2, [row, row + 1], color=theme.page, linewidth=0.8)
    for row, column in zip(*np.nonzero(groups[1:] != groups[:-1]), strict=True):
        axes.plot([column, column + 1], [row + 1] * 2, color=theme.page, linewidth=0.8)


def _group_colours(numbers: NDArray[np.int32]) -> NDArray[np.float64]:
    """A hue for each group, far from that of its neighbours: (n,) -> (n, 3)."""
    from matplotlib.colors import hsv_to_rgb

    golden = 0.6180339887498949
    hue = (numbers * golden) % 1
    saturation = 0.55 + 0.35 * ((numbers * 0.7548776662466927) % 1)
    return hsv_to_rgb(np.stack([hue, saturation, np.full(hue.shape, 0.95)], axis=-1))


def _title(record: TokenRecord, step: int, values: NDArray[Any], merged: bool, frame: int | None) -> str:
    parts = [f"step {step}"]
    if merged:
        parts.append(f"{values.size} tokens merged into {len(np.unique(values))}")
    else:
        parts.append(f"{record.kind(step).value}, {float(values.mean()):.0%} of the tokens computed")
    if frame is not None:
        parts.append(f"frame {frame} of {record.grid[0]}")
    return ": ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])
